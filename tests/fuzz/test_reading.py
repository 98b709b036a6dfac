"""Any text through any tokenizer: what a reward model reads is what it reads alone, whole but for its prompt."""

from __future__ import annotations

import copy
from functools import cache
from itertools import takewhile

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from foresighted.models.loading import reward_model
from foresighted.models.policy import Decoding, Policy
from foresighted.models.reader import Reader

LONGEST = 60
_SIZES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 1,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.5, "pad_token_id": 0,
    "bos_token_id": 4, "eos_token_id": 1,
}  # fmt: skip
_MORE = {
    "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128},
    "Bloom": {"n_layer": 1, "n_head": 2},
    "Mpt": {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 128},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
    "Bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_start_token_id": 1,
        "init_std": 0.5},
}  # fmt: skip
FAMILIES = ("Llama", "Qwen2", "GPT2", "Falcon", "Bloom", "Mpt", "Bert", "Roberta", "DebertaV2", "Bart")
FRAMES = {"none": "$A", "begin": "<|system|> $A", "end": "$A <|end|>", "both": "<|system|> $A <|end|>"}
_TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
TEMPLATES = {
    "none": None, "ends in the end token": _TURNS, "begins": "{{ bos_token }}" + _TURNS, "trims": _TURNS.replace(
        "m['content']", "m['content'] | trim"),
    "open": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
}  # fmt: skip
_WORDS = st.sampled_from(["rain ", "why", "<|end|>", "<pad>", "<|assistant|>", "é", "雨", "\n", "  ", "🌧", "\x00", "."])
TEXTS = st.text(max_size=8) | st.lists(_WORDS, max_size=8).map("".join)
LONG = TEXTS | st.lists(_WORDS, max_size=60).map("".join) | st.just("rain " * 90)


@pytest.fixture(scope="module")
def made(tokenizer):
    """Make tokenizers and reward models of a kind; each model once."""

    def tokens(frame: str, template: str, pad: str, side: str, sep: bool):
        own = copy.deepcopy(tokenizer)
        names = ("<|system|>", "<|end|>")
        special = [(name, own.convert_tokens_to_ids(name)) for name in names]
        pair = FRAMES[frame].replace("$A", "$A <|end|> $B")
        own.backend_tokenizer.post_processor = TemplateProcessing(
            single=FRAMES[frame], pair=pair, special_tokens=special
        )
        own.chat_template, own.padding_side = TEMPLATES[template], side
        own.bos_token = "<|system|>" if frame in ("begin", "both") or template == "begins" else None
        own.sep_token = "<|end|>" if sep else None
        own.pad_token = {"own": "<pad>", "end": "<|end|>", "none": None}[pad]
        return own

    @cache
    def body(family: str):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(tokenizer), **{**_SIZES, **_MORE.get(family, {})}
        )
        return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()

    def model(family: str, own, layout: str, **settings):
        fresh = copy.deepcopy(body(family))
        fresh.config.pad_token_id = own.pad_token_id
        return reward_model(fresh, own, layout=layout, max_length=LONGEST, **settings)

    return tokens, model


def _tokens_of(tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@given(data=st.data())
def test_every_row_is_read_as_the_model_reads_it_alone(data, made, tally):
    tokens, model = made
    family = data.draw(st.sampled_from(FAMILIES))
    layout = data.draw(st.sampled_from(["auto", "chat", "text", "pair", "response"]))
    pad, side = data.draw(st.sampled_from(["own", "end", "none"])), data.draw(st.sampled_from(["left", "right"]))
    frame, template = data.draw(st.sampled_from(sorted(FRAMES))), data.draw(st.sampled_from(sorted(TEMPLATES)))
    own = tokens(frame, template, pad, side, data.draw(st.booleans()))
    rows = data.draw(st.lists(st.tuples(LONG, TEXTS), min_size=1, max_size=3))
    prompts, responses = ([row[i] for row in rows] for i in (0, 1))

    def read():
        read = model(family, own, layout, append_eos=data.draw(st.booleans()) or family == "Bart")
        with torch.no_grad():
            return read, read.rewards(read.features(prompts, responses))

    def right(found) -> bool:
        read, rewards = found
        for (prompt, response), reward in zip(rows, rewards, strict=True):
            inputs = read.encode([prompt], [response])
            with torch.no_grad():
                alone = read.body(**inputs).logits[0, 0]
            torch.testing.assert_close(reward, alone, rtol=1e-3, atol=1e-3)
            assert _whole_but_for_its_prompt(read, prompt, response, inputs["input_ids"][0].tolist())
        return True

    tally("reading: rewards").call(read, right=right)


def _whole_but_for_its_prompt(read, prompt: str, response: str, ids: list[int]) -> bool:
    """Return whether what was read ends as the uncut text does, and all that is gone stands before the response."""
    reader = Reader(read.tokenizer, layout=read.reader.layout, longest=10**6)
    reader._end = read.reader._end
    whole = reader([prompt], [response])["input_ids"][0].tolist()
    if len(whole) <= read.reader.longest:
        return ids == whole
    same = len([1 for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(ids[::-1], whole[::-1], strict=False))])
    return len(ids) == read.reader.longest and same >= _tokens_of(read.tokenizer, response.strip()) - 1


@given(data=st.data())
def test_a_response_alone_that_is_too_long_is_the_only_reason_to_refuse_one(data, made, tally):
    tokens, _ = made
    own = tokens("none", data.draw(st.sampled_from(sorted(TEMPLATES))), "own", "right", data.draw(st.booleans()))
    reader = Reader(own, layout=data.draw(st.sampled_from(["chat", "text", "pair"])), longest=LONGEST)
    prompt, response = data.draw(LONG), data.draw(LONG)
    fits = _tokens_of(own, response) <= LONGEST - 16  # for what a template and a separator add
    counts = tally("reading: what is cut")
    counts.call(reader, [prompt], [response], right=lambda inputs: inputs["input_ids"].shape[1] <= LONGEST)
    assert not (fits and counts.counts["refused"])


@given(data=st.data())
def test_no_end_token_follows_a_prompt_and_no_begin_token_comes_twice(data, made, tally, tiny_llama):
    tokens, _ = made
    frame, template = data.draw(st.sampled_from(sorted(FRAMES))), data.draw(st.sampled_from(sorted(TEMPLATES)))
    own = tokens(frame, template, data.draw(st.sampled_from(["own", "end"])), "left", False)
    prompt = data.draw(TEXTS)
    policy = Policy(_policy_body(str(tiny_llama)), own, None, Decoding(2))

    def right(ids: list[int]) -> bool:
        if template != "none":
            return ids == own(policy.reader.rendered(prompt), add_special_tokens=False)["input_ids"]
        plain = own(prompt, add_special_tokens=False)["input_ids"]
        begin = [own.bos_token_id] if frame in ("begin", "both") else []
        return ids == ([*begin, *plain] or [own.pad_token_id])

    tally("reading: prompts of a policy").call(policy.reader.ids, prompt, right=right)


@cache
def _policy_body(folder: str):
    return transformers.AutoModelForCausalLM.from_pretrained(folder)
