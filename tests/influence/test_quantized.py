"""Adapters and heads on a base that bitsandbytes has quantised (it runs on a CPU too). Skipped where it is absent."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foresighted.errors import ModelError
from foresighted.influence import GradientProducts, naive_gradients, select

bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install 'foresighted[quantization]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of its kernels and casts


def _quantised(models, bits: int) -> nn.Module:
    """Return a tiny Llama whose linear layers but the head are quantised, with LoRA on all of them."""
    from peft import LoraConfig, get_peft_model

    model = models.build("Llama", torch.float32, hidden_size=128, intermediate_size=256)
    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features > 1]
    for path, linear in layers:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, _layer(linear, bits))
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS")
    model = get_peft_model(model.to("cpu"), lora).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    return model


def _layer(linear: nn.Linear, bits: int) -> nn.Module:
    shape, weight = (linear.in_features, linear.out_features), linear.weight.data.contiguous()
    if bits == 4:
        layer = bitsandbytes.nn.Linear4bit(*shape, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    else:
        layer = bitsandbytes.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False)
        layer.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    return layer


@pytest.mark.parametrize("scope", ["lora", "head"])
@pytest.mark.parametrize("bits", [4, 8])
def test_scopes_above_a_quantised_base_equal_the_naive_twin(models, bits, scope):
    model, inputs = _quantised(models, bits), models.batch()
    engine = GradientProducts(model, scope=scope)
    _, gram = engine.gram(inputs)
    _, gradients = naive_gradients(model, inputs, scope=scope)
    want = gradients @ gradients.T
    assert (
        float((gram - want).abs().max() / want.max()) <= 5e-3
    )  # its kernels for one row and for many round differently
    assert not engine.slow
    with pytest.raises(ModelError, match="holds 14 quantised weights"):
        select(model, "all")
