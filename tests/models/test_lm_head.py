"""Log-likelihoods made block by block against those of whole logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
)

from foresighted.models import lm_head
from foresighted.models.lm_head import LMHead, log_p

WORDS = 37
SIZES = {
    "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip  # one table


def _head(*, bias: bool, dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(16, WORDS, bias=bias).to(dtype).requires_grad_(False)
    made.weight[-1] *= 40  # its largest logits come last, and are far above the others
    return made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Blocks and rows that do not fit evenly."""
    monkeypatch.setattr(lm_head, "ROWS", 4)
    monkeypatch.setattr(lm_head, "CPU_BLOCK", 5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_value_and_slope_are_those_of_whole_logits(bias, dtype, near):
    head = _head(bias=bias, dtype=dtype)
    drawn, tokens = torch.randn(11, 16).to(dtype), torch.randint(0, WORDS, (11,))
    found, slopes = [], []
    for way in (partial(log_p, head), lambda h, t: head(h).log_softmax(-1).gather(-1, t[:, None])[:, 0]):
        states = drawn.clone().requires_grad_()
        said = way(states, tokens)
        (said * torch.arange(11)).sum().backward()
        found.append(said.detach())
        slopes.append(states.grad)
    assert found[0].dtype == torch.promote_types(dtype, torch.float32)
    assert float(found[1].min()) < -5  # far apart
    torch.testing.assert_close(found[0], found[1].to(found[0].dtype), rtol=near, atol=near)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=near, atol=near * float(slopes[1].abs().max()))


def test_a_logit_that_is_no_number_stays_in_its_row():
    head = _head(bias=False, dtype=torch.float32)
    states = torch.ones(3, 16)
    states[1, 0] = torch.nan
    found = log_p(head, states, torch.tensor([1, 2, 3]))
    assert found.isfinite().tolist() == [True, False, True]


def test_nothing_to_read_gives_nothing():
    states = torch.zeros(0, 16, requires_grad=True)
    found = log_p(_head(bias=False, dtype=torch.float32), states, torch.zeros(0, dtype=torch.long))
    assert found.shape == (0,)
    found.sum().backward()


BOUNDED = {"final_logit_softcapping": 30.0, "head_dim": 8, "query_pre_attn_scalar": 8}


@pytest.mark.parametrize(
    ("config", "apart"),
    [
        (LlamaConfig(**SIZES), True),
        (GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1), True),
        (Gemma2Config(**SIZES, **BOUNDED), False),  # logits are bounded
        (CohereConfig(**SIZES, logit_scale=0.5), False),  # scaled
        (GraniteConfig(**SIZES, logits_scaling=3.0), False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_head_stands_apart_where_nothing_comes_after_it(config, apart):
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    head, asked = LMHead(model), torch.tensor([[3, 4, 5]])
    assert head.apart() is apart
    whole = model(input_ids=asked).logits
    if apart:
        with head.left_out():
            states = model(input_ids=asked).logits
        said = log_p(model.get_output_embeddings(), states[0], torch.tensor([4, 5, 6]))
        torch.testing.assert_close(said, whole[0].log_softmax(-1)[range(3), [4, 5, 6]])
    assert torch.equal(model(input_ids=asked).logits, whole)


def test_a_head_that_learns_or_that_something_else_runs_does_not():
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).eval()
    assert not LMHead(model).apart()  # it learns
    model.requires_grad_(False)
    head = LMHead(model)
    assert head.apart()
    model.lm_head.weight.requires_grad_(True)
    assert not head.apart()
    model.requires_grad_(False)
    model.lm_head.forward = model.lm_head.forward  # as a library does that moves weights between devices
    assert not LMHead(model).apart()


def test_the_question_draws_no_numbers():
    quiet = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1}
    model = AutoModelForCausalLM.from_config(GPT2Config(**quiet)).train().requires_grad_(False)  # with dropout
    before = torch.get_rng_state()
    assert LMHead(model).apart()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
