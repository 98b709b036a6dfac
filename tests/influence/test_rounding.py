"""How precise products are: where torch may round factors, single precision is no better than half."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from foresighted.influence.rounding import in_full, rounded_as

ON_A_CARD = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"))


def test_products_are_as_precise_as_their_type():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        values = torch.ones(1, dtype=dtype)
        assert rounded_as(values) == dtype
        assert in_full(values) == (dtype in (torch.float64, torch.float32))
    assert in_full(ON_A_CARD)


@pytest.mark.parametrize(("value", "expected"), [("tf32", torch.float16), ("bf16", torch.bfloat16)])
def test_factors_may_be_rounded_first(monkeypatch, value, expected):
    for name, own in (("cuda", ON_A_CARD), ("mkldnn", torch.ones(1))):
        monkeypatch.setattr(torch.backends, name, SimpleNamespace(matmul=SimpleNamespace(fp32_precision=value)))
        assert rounded_as(own) == expected
        assert not in_full(own)
    assert rounded_as(torch.ones(1, dtype=torch.float64)) == torch.float64


def test_the_older_switch(monkeypatch):
    monkeypatch.setattr(torch.backends, "cuda", SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True)))
    assert rounded_as(ON_A_CARD) == torch.float16
