"""One contract for every layout and architecture: what is read, and that features, rewards and network say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.errors import ModelError
from foresighted.models.loading import load_reward_model, reward_model
from foresighted.models.reader import Reader

PROMPTS = ["Why is the sky blue?", "Rain?", "Can fish sleep at night, or do they swim all the time?"]
RESPONSES = ["Light scatters.", "Water that falls from clouds, mostly in autumn.", "Yes"]
ARCHITECTURES = ["deberta", "bert", "llama", "encoder"]
LAYOUTS = ["auto", "chat", "text", "pair", "response"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory, tokenizer):
    import copy

    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96, num_labels=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-bert")
    BertForSequenceClassification(config).save_pretrained(folder)
    own = copy.deepcopy(tokenizer)
    own.chat_template = None
    own.add_special_tokens({"sep_token": "<|end|>", "cls_token": "<|user|>"})
    own.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def source(request, tiny_bert, tiny_deberta, tiny_llama_reward):
    encoder = f"encoder:{tiny_bert}"
    return str(
        {"deberta": tiny_deberta, "bert": tiny_bert, "llama": tiny_llama_reward, "encoder": encoder}[request.param]
    )


def _made(source, layout="auto", **settings):
    model = reward_model(source, layout=layout, **settings)
    if source.startswith("encoder:"):  # its head is zeros
        torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def _close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_through_the_head_are_the_rewards_of_the_network(source, layout):
    model = _made(source, layout)
    inputs = model.encode(PROMPTS, RESPONSES)
    assert len({int(n) for n in inputs["attention_mask"].sum(-1)}) > 1  # some rows are padded
    assert bool((inputs["attention_mask"][:, 0] == 1).all())  # on the right
    with torch.no_grad():
        together = model.network(**inputs)
    _close(model.rewards(model.features(PROMPTS, RESPONSES)), together)
    _close(model.rewards(model.features(PROMPTS, RESPONSES, chunk=2)), together)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = model.encode([prompt], [response])
        tokens = alone["input_ids"].shape[1]
        assert torch.equal(alone["input_ids"][0], inputs["input_ids"][i, :tokens])
        with torch.no_grad():
            _close(model.network(**alone)[0], together[i])
        _close(model.rewards(model.features([prompt], [response]))[0], together[i])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_long_prompt_loses_its_beginning_and_the_row_reads_as_it_does_alone(source, layout, caplog):
    model = _made(source, layout, max_length=40)
    prompts = ["why " * 60 + "so?", "Rain?", "why " * 60 + "not?"]
    inputs = model.encode(prompts, RESPONSES)
    assert inputs["input_ids"].shape[1] <= 40
    words = model.tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
    for i, (prompt, response) in enumerate(zip(prompts, RESPONSES, strict=True)):
        assert response in words[i]
        if layout != "response":
            assert prompt[-3:] in words[i]
        alone = model.encode([prompt], [response])["input_ids"][0]
        assert torch.equal(alone, inputs["input_ids"][i, : len(alone)])
    assert ("the beginning of its prompt is cut off" in caplog.text) == (layout != "response")
    _close(model.rewards(model.features(prompts, RESPONSES)), model.network(**inputs).detach())


def test_the_loop_and_a_trainer_read_the_same_pair_alike(tiny, source):
    for theirs, ours in (("auto", "pair"), ("response", "response")):
        loop = load_reward_model(replace(tiny, reward_model=source, reward_model_input=ours), CPU)
        trainer = reward_model(source, layout=theirs, max_length=1024, feature_scale=tiny.feature_scale)
        for model in (loop, trainer):
            torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
        said, answered = PROMPTS, RESPONSES
        if loop.reader.layout == "chat":  # a trainer hands over conversations
            said = [[{"role": "user", "content": text}] for text in PROMPTS]
            answered = [[{"role": "assistant", "content": text}] for text in RESPONSES]
            assert torch.equal(loop.features(PROMPTS, RESPONSES), loop.features(said, answered))
        assert torch.equal(loop.features(PROMPTS, RESPONSES), trainer.features(said, answered))


def test_a_decoder_that_pads_with_its_end_token_says_what_the_classifier_says(tiny_llama_reward):
    """The classifier takes the last token that is no padding, which is not the end token that closes a text."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_reward)
    tokenizer.pad_token = tokenizer.eos_token
    body = AutoModelForSequenceClassification.from_pretrained(tiny_llama_reward, pad_token_id=tokenizer.eos_token_id)
    model = reward_model(body, tokenizer, layout="text", append_eos=True)
    inputs = model.encode(PROMPTS, RESPONSES)
    assert bool((inputs["input_ids"][:, -1] == tokenizer.eos_token_id).all())
    _close(model.rewards(model.features(PROMPTS, RESPONSES)), body(**inputs).logits[:, 0].detach())


def test_layouts_of_a_decoder(tokenizer):
    def read(layout, prompt="Rain?", response="Water.", **settings):
        return tokenizer.decode(
            Reader(tokenizer, layout=layout, longest=64, **settings)([prompt], [response])["input_ids"][0]
        )

    chat = "<|user|>Rain?<|end|><|assistant|>Water.<|end|>"
    talk = [{"role": "user", "content": "Rain?"}], [{"role": "assistant", "content": "Water."}]
    assert read("auto") == read("text") == "Rain?Water."
    assert read("text", append_eos=True) == "Rain?Water.<|end|>"
    assert read("chat") == read("auto", *talk) == read("pair", *talk) == read("text", talk[0], "Water.") == chat
    assert read("response") == read("response", *talk) == "Water."


def test_a_response_that_does_not_fit_is_cut_too(tokenizer):
    reader = Reader(tokenizer, layout="pair", longest=10)
    assert reader(["Rain?"], ["water " * 40])["input_ids"].shape == (1, 10)


@pytest.mark.parametrize("train", ["head", "lora", "all"])
def test_what_is_trained(source, train):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model = _made(source, train=train)
    assert source.startswith("encoder:") or torch.equal(before, torch.get_rng_state())  # draws of its own
    names = set(model.trainable())
    assert {"head.weight", "head.bias"} & names
    assert (train == "head") == all(name.startswith("head.") for name in names)
    assert (train == "lora") == any(".lora_" in name for name in names)
    assert model.head_only == (train == "head")


def test_a_model_that_is_given_is_read_like_its_folder(tiny_deberta):
    from transformers import AutoModelForSequenceClassification

    body = AutoModelForSequenceClassification.from_pretrained(tiny_deberta)
    given, named = reward_model(body), reward_model(str(tiny_deberta))  # its tokenizer lies where it is from
    assert torch.equal(given.features(PROMPTS, RESPONSES), named.features(PROMPTS, RESPONSES))
    body.name_or_path = body.config._name_or_path = ""
    with pytest.raises(ModelError, match=r"tokenizer: .* does not say where it is from"):
        reward_model(body)
