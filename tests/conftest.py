"""Tiny models of real architectures, saved to disk once a session, and the smallest configuration that uses them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from foresighted.settings import TrainConfig

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from foresighted.prompts import load_prompts

    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<unk>"]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([prompt.text for prompt in load_prompts("bundled").train], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", unk_token="<unk>", chat_template=CHAT
    )


def _save(folder: Path, model, tokenizer) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _plain(tokenizer):
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    return plain


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, tokenizer) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    return _save(tmp_path_factory.mktemp("tiny-llama"), LlamaForCausalLM(config), tokenizer)


@pytest.fixture(scope="session")
def tiny_deberta(tmp_path_factory, tokenizer) -> Path:
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    torch.manual_seed(1)
    config = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, num_labels=1, pad_token_id=0, relative_attention=True, initializer_range=0.3,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-deberta")
    return _save(folder, DebertaV2ForSequenceClassification(config), _plain(tokenizer))


@pytest.fixture(scope="session")
def tiny_llama_reward(tmp_path_factory, tokenizer) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, num_labels=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return _save(tmp_path_factory.mktemp("tiny-llama-reward"), LlamaForSequenceClassification(config), tokenizer)


@pytest.fixture(scope="session")
def prompt_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = ["Why is the sky blue?", "What is rain?", "Who invented the telephone?", "Can fish sleep at night?"]
    texts += ["Is coffee a vegetable?", "Where do penguins live?", "How many legs does a spider have?"]
    rows = [{"id": f"p{i}", "kind": "factual", "prompt": text} for i, text in enumerate(texts)]
    rows += [
        {"id": f"h{i}", "kind": "factual", "prompt": f"Held out: {t}", "split": "heldout"}
        for i, t in enumerate(texts[:4])
    ]
    rows[:7] = [{**row, "split": "train"} for row in rows[:7]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tiny(tiny_llama, tiny_deberta, prompt_file) -> TrainConfig:
    """The smallest real run: a Llama policy with LoRA, a DeBERTa-v2 reward model, likelihood labels."""
    return TrainConfig(
        prompts=str(prompt_file), policy=str(tiny_llama), reward_model=str(tiny_deberta), labels="likelihood",
        rounds=4, prompts_per_round=2, candidates=3, max_new_tokens=6, min_new_tokens=2, lora_rank=2, lora_alpha=4,
        initial_pairs=3, initial_steps=3, heldout_every=2, heldout_prompts=3, threads=1, device="cpu",
        policy_learning_rate=1e-2,
    )  # fmt: skip


@pytest.fixture(scope="session")
def players(tiny):
    """Policy, reward model and label source of the tiny configuration (do not train them)."""
    import torch

    from foresighted.labels.asking import load_labels
    from foresighted.models.loading import load_policy, load_reward_model

    device = torch.device("cpu")
    policy = load_policy(replace(tiny, max_new_tokens=8), device)
    return policy, load_reward_model(tiny, device), load_labels(tiny, policy, device)
