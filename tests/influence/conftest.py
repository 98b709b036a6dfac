"""Tiny reward models of the families that people use, with random weights, and a padded batch for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers

VOCABULARY, ROWS, PER_PROMPT, LENGTH = 97, 8, 4, 11
_SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_labels": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_position_embeddings": 64}
_V3 = _RELATIVE | {
    "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
    "type_vocab_size": 0,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict]] = {
    "Llama": ("Llama", {"num_key_value_heads": 2}),
    "Qwen2": ("Qwen2", {"num_key_value_heads": 2}),
    "Qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8}),
    "Mistral": ("Mistral", {"num_key_value_heads": 2}),
    "BERT": ("Bert", {}),
    "RoBERTa": ("Roberta", {}),
    "DeBERTa-v1": ("Deberta", _RELATIVE),
    "DeBERTa-v2": ("DebertaV2", _RELATIVE | {"share_att_key": False}),
    "DeBERTa-v3": ("DebertaV2", _V3),
    "GPT-2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "ModernBERT": ("ModernBert", {"cls_token_id": 1, "sep_token_id": 2}),
    "Falcon": ("Falcon", {}),  # adds in place
    "BART": (
        "Bart",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 2,
        },
    ),  # its embedding of positions takes no ids
    "ALBERT": ("Albert", {"embedding_size": 16}),  # one block, used twice: tied weights
}
"""Model family: prefix of its classes in transformers, and what its configuration needs besides."""


def build(family: str, dtype: torch.dtype = torch.float64, **sizes: int) -> torch.nn.Module:
    """Return a sequence classifier of a family; every parameter is random, biases and norms too."""
    prefix, more = FAMILIES[family]
    config = getattr(transformers, f"{prefix}Config")(**{**_SMALL, **more, **sizes})
    model = getattr(transformers, f"{prefix}ForSequenceClassification")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(noise if parameter.ndim > 1 else noise + 0.5)
    return model.to(dtype).eval()


def batch(rows: int = ROWS, length: int = LENGTH) -> dict[str, torch.Tensor]:
    """Return token ids of several lengths, each with the end token last, padded on the right, with their mask."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    lengths = [length - (3 * row) % (length - 2) for row in range(rows)]
    ids[torch.arange(rows), torch.tensor(lengths) - 1] = _SMALL["eos_token_id"]
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def star(gram: torch.Tensor, prompts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return S and G against each prompt's last row, from a whole Gram matrix."""
    per = gram.shape[0] // prompts
    blocks = torch.stack([gram.view(prompts, per, prompts, per)[b, :, b] for b in range(prompts)])
    norms, cross = torch.diagonal(blocks, dim1=1, dim2=2), blocks[:, :, -1]
    spread = norms - 2 * cross + norms[:, -1:]
    return (norms - cross)[:, :-1], spread[:, :-1]


@pytest.fixture(scope="session")
def models() -> SimpleNamespace:
    """Builders of reward models and of their batches."""
    return SimpleNamespace(build=build, batch=batch, star=star, PROMPTS=ROWS // PER_PROMPT, VOCABULARY=VOCABULARY)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param
