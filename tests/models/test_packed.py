"""Frozen layers with weights in another layout say what they say themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foresighted.models import packed
from foresighted.models.packed import Packed


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256, bias=False), nn.Linear(256, 8))
    return made.requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_a_packed_model_says_the_same_and_is_itself_again(model, rows):
    x = torch.randn(rows, 256)
    own, forwards = model(x), [vars(layer).get("forward") for layer in model]
    with Packed(model).used():
        assert ["forward" in vars(layer) for layer in model] == [True, True, False]  # the last one is small
        said = model(x)
    assert torch.allclose(said, own, rtol=1e-5, atol=1e-5)
    assert [vars(layer).get("forward") for layer in model] == forwards == [None] * 3


def test_what_learns_or_is_not_in_single_precision_stays_as_it_is(model):
    model[0].weight.requires_grad_(True)
    model[1].double()
    assert Packed(model)._layers == []


def test_a_layer_whose_product_differs_keeps_its_own(model, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, *_: torch.zeros(*x.shape[:-1], 512))
    own = model[0](torch.ones(2, 256))
    with Packed(model[:1]).used():
        assert torch.equal(model[0](torch.ones(2, 256)), own)


def test_no_second_copy_where_memory_is_short_or_torch_has_no_such_layout(model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(packed, "free_memory", lambda _: 1000)
        with Packed(model).used():
            assert not any("forward" in vars(layer) for layer in model)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert Packed(model)._layers == []
