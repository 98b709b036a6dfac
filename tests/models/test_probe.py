"""What a reward model is tried on when it is loaded: it reads as its own forward does, or is refused in one line."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from foresighted.errors import DataError, ModelError
from foresighted.models import probe
from foresighted.models.loading import reward_model
from foresighted.models.probe import longest_input

PROMPTS = ["Why is the sky blue?", "Rain?", "Can fish sleep at night, or do they swim all the time?"]
RESPONSES = ["Light scatters.", "Water that falls from clouds, mostly in autumn.", "Yes"]


@pytest.fixture
def body(tiny_llama_reward):
    return AutoModelForSequenceClassification.from_pretrained(tiny_llama_reward)


@pytest.fixture
def own(tiny_llama_reward):
    return AutoTokenizer.from_pretrained(tiny_llama_reward)


def _agrees(model):
    """Features through the head, network and the model's own logits, in a batch and alone."""
    together = model.network(**model.encode(PROMPTS, RESPONSES)).detach()
    torch.testing.assert_close(model.rewards(model.features(PROMPTS, RESPONSES)).detach(), together)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = model.body(**model.encode([prompt], [response])).logits[0, 0].detach()
        torch.testing.assert_close(alone, together[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layout", ["chat", "text"])
@pytest.mark.parametrize("kind", ["own", "none", "none, configured", "end", "invalid"])
def test_padding_of_every_kind(body, own, kind, layout, side):
    own.padding_side = side
    if kind != "own":
        own.pad_token = "<|end|>" if kind == "end" else None
        body.config.pad_token_id = {"end": own.eos_token_id, "none, configured": 5, "invalid": -1}.get(kind)
    model = reward_model(body, own, layout=layout)
    expected = {"own": 0, "none, configured": 5}.get(kind, own.eos_token_id)
    assert model.tokenizer.pad_token_id == model.body.config.pad_token_id == expected
    _agrees(model)


def test_another_padding_token_than_the_models_is_refused(body, own, told):
    body.config.pad_token_id = 5
    with pytest.raises(ModelError) as error:
        reward_model(body, own)
    told(error, "tokenizer: pads with token 0", "expects 5", "config.pad_token_id")


class _Changed(nn.Module):
    """A classifier whose reward is not what its last layer makes of a text."""

    def __init__(self, body, change) -> None:
        super().__init__()
        self.body, self.config, self._change = body, body.config, change
        self.get_input_embeddings = body.get_input_embeddings

    def forward(self, input_ids, attention_mask):
        logits = self.body(input_ids=input_ids, attention_mask=attention_mask).logits
        return SimpleNamespace(logits=self._change(logits, input_ids))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda logits, ids: logits.tanh(), "last linear layer"),
        (lambda logits, ids: logits * (2 if ids.shape[1] > 40 else 1), "padded differently"),
        (lambda logits, ids: logits.view(-1), "cannot read"),
    ],
)
def test_a_model_that_says_two_things_is_refused(body, own, change, said, told):
    with torch.no_grad():
        body.score.weight.mul_(10)
    with pytest.raises(ModelError) as error:
        reward_model(_Changed(body, change), own, layout="chat")
    told(error, "reward_model:", said, "give another")


def test_a_template_without_the_response_and_weights_that_are_not_finite_are_refused(body, own, told):
    mute = copy.deepcopy(own)
    mute.chat_template = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ModelError) as error:
        reward_model(body, mute, layout="chat")
    told(error, "reward_model:", "does not hold the response", "chat template")
    with torch.no_grad():
        body.score.weight[0, 0] = torch.nan
    with pytest.raises(ModelError) as error:
        reward_model(body, own)
    told(error, "reward_model:", "nan", "not finite")


def test_an_architecture_that_needs_end_tokens_is_refused_where_its_tokenizer_writes_none(own, told):
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(
        vocab_size=len(own), d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, num_labels=1, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    body = BartForSequenceClassification(config)
    with pytest.raises(ModelError) as error:
        reward_model(body, own, layout="text")
    told(error, "reward_model:", "Bart", "cannot read", "<eos>")
    _agrees(reward_model(body, own, layout="text", append_eos=True))


def test_the_longest_input_is_the_models(own, body, caplog, told):
    config = RobertaConfig(
        vocab_size=len(own), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=66, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    roberta = RobertaForSequenceClassification(config)  # its positions begin after that of the padding
    assert longest_input(roberta, own, None) == 65
    model = reward_model(roberta, own, layout="text")
    assert model.encode(["why " * 99], ["Yes"])["input_ids"].shape == (1, 65)
    assert bool(model.features(["why " * 99], ["Yes"]).isfinite().all())
    assert longest_input(body, own, None) == 256
    assert longest_input(body, own, 40) == 40
    own.model_max_length = 99
    assert longest_input(body, own, 300) == 99
    assert "got 300" in caplog.text
    with pytest.raises(DataError) as error:
        reward_model(body, own, layout="chat", max_length=2)
    told(error, "reads 2", "reward_model_max_length")


def test_what_the_model_has_no_use_for_is_left_out(body, own):
    own.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert set(reward_model(body, own).encode(PROMPTS, RESPONSES)) == {"input_ids", "attention_mask"}


def test_a_reading_may_differ_by_what_products_are_rounded_to(body, own, monkeypatch):
    said = probe._said
    monkeypatch.setattr(probe, "_said", lambda model, prompts, *rest: said(model, prompts, *rest) + 0.01 * len(prompts))
    with pytest.raises(ModelError, match=r"padded differently|not its own reward"):
        reward_model(body, own)
    monkeypatch.setattr(probe, "in_full", lambda _: False)  # as with TF32
    reward_model(body, own)
