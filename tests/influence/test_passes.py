"""Rows in passes: how many, none twice but a reference, and what a pass asks of a device."""

from __future__ import annotations

import logging
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from foresighted.influence import GradientProducts, passes, select
from foresighted.influence.sums import Sums, stars

LAUNCHES = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "launches.py"))["Launches"]
LAYERS, TOKENS = 4, 40


def _sizes(cut):
    return [sum(part.stop - part.start for part in rows) for rows in cut]


def test_passes_are_of_about_one_size_where_the_number_of_rows_was_found():
    def of(prompts, per, most, even=True):
        return _sizes(rows for rows, _ in passes.groups(prompts, per, most, even=even))

    assert of(1, 129, 72) == [65, 65]
    assert of(1, 129, 64, even=False) == [64, 64, 3]
    assert of(8, 9, 64, even=True) == [36, 36]
    assert of(8, 9, 64, even=False) == [63, 9]
    assert of(1, 129, 1000) == [129]
    assert _sizes(passes.pairs_of_blocks(90, 72, even=True)) == [60, 60, 60]
    assert _sizes(passes.pairs_of_blocks(40, 72, even=True)) == [40]


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def _engine(model, **how):
    return GradientProducts(model, scope="all", forward=lambda inputs: model(inputs["x"])[:, 0], **how)


def test_free_memory_says_how_many_rows_go_together(monkeypatch):
    seen, inputs = [], {"x": torch.randn(40, 6, dtype=torch.float64)}
    model = _model()
    want = _engine(model, chunk=40).against_reference(inputs, prompts=1)
    monkeypatch.setattr(passes, "free_memory", lambda _device: 10**9)
    engine = _engine(model)
    engine.gram(inputs)
    assert engine._fit.rows(inputs) > 10_000
    row = passes.SHARE * 10**9 / engine._fit.rows(inputs)  # bytes of it that a pass holds
    assert 3 * 6 * 8 <= row <= 100 * 6 * 8
    monkeypatch.setattr(passes, "free_memory", lambda _device: int(21 * row / passes.SHARE))
    twice = {"x": inputs["x"].repeat(1, 2)}
    assert engine._fit.rows(inputs) == pytest.approx(21, abs=1)
    assert engine._fit.rows(twice) == pytest.approx(21 / 4, abs=1)
    model.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    got = engine.against_reference(inputs, prompts=1)
    assert len(seen) >= 2
    assert max(seen) <= 22
    assert max(seen) - min(seen) <= 2
    torch.testing.assert_close(got.products, want.products, rtol=1e-9, atol=1e-9)


def test_what_does_not_fit_is_halved_unless_the_number_was_given(monkeypatch, caplog):
    model, inputs = _model(), {"x": torch.randn(40, 6, dtype=torch.float64)}

    def forward(inputs):
        if len(inputs["x"]) > 15:
            raise torch.OutOfMemoryError("out of memory")
        return model(inputs["x"])[:, 0]

    with caplog.at_level(logging.WARNING):
        got = GradientProducts(model, scope="all", forward=forward).gram(inputs)
    assert all("out of memory" in record.message for record in caplog.records)
    assert len(caplog.records) == 2
    torch.testing.assert_close(got, _engine(model, chunk=40).gram(inputs), rtol=1e-9, atol=1e-9)
    with pytest.raises(torch.OutOfMemoryError):
        GradientProducts(model, scope="all", forward=forward, chunk=40).gram(inputs)


@pytest.mark.parametrize("wait", [1, 5000, 10**9])
def test_layers_of_one_shape_are_read_together_to_the_same_sums(models, monkeypatch, wait):
    model, inputs = models.build("DeBERTa-v3"), models.batch()
    engine = GradientProducts(model, scope="all")
    want = engine.against_reference(inputs, prompts=models.PROMPTS)
    monkeypatch.setattr(engine, "_wait", lambda _inputs: wait)
    got = engine.against_reference(inputs, prompts=models.PROMPTS)
    torch.testing.assert_close(got.products, want.products, rtol=1e-10, atol=1e-10)
    assert not Sums(lambda forms: stars(1, forms), wait=wait).all()


def _deberta(scope, device):
    """DeBERTa-v3-base with fewer layers."""
    from peft import LoraConfig, get_peft_model
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        vocab_size=128100, num_hidden_layers=LAYERS, num_labels=1, relative_attention=True, position_buckets=256,
        pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False,
        type_vocab_size=0, pad_token_id=0, hidden_size=768, intermediate_size=3072, num_attention_heads=12,
    )  # fmt: skip
    with torch.device(device):
        model = DebertaV2ForSequenceClassification(config)
        if scope == "lora":
            model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="SEQ_CLS"))
    return model.eval()


def _inputs(rows):
    ids = torch.ones(rows, TOKENS, dtype=torch.long, device="meta")
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["head", "lora", "all"])
def test_a_call_asks_little_more_of_a_device_than_the_pass_one_needs_anyway(scope, monkeypatch):
    """No value comes to the host but whether all results are finite; on `meta` any other would be an error."""
    model = _deberta(scope, "meta")
    monkeypatch.setattr(passes, "free_memory", lambda _device: 80 * 10**9)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in select(model, scope).values():
        parameter.requires_grad_(scope != "head")
    engine = GradientProducts(model, scope=scope)
    monkeypatch.setattr(engine, "_checks_left", 1)
    with LAUNCHES("meta"):
        engine.against_reference(_inputs(2), prompts=1)  # checks the layers
    engine._checks_left = 0  # gradients without values are taken for 0
    for candidates in (8, 128):
        inputs = _inputs(candidates + 1)
        with LAUNCHES("meta") as plain:
            reward = model(**inputs).logits.sum()
            if scope != "head":
                reward.backward()
        model.zero_grad(set_to_none=True)
        with LAUNCHES("meta") as ours:
            engine.against_reference(inputs, prompts=1)
        assert not engine.slow
        assert ours.to_host.total() == 1
        share = ours.operations.total() / plain.operations.total()
        # Layers of 129 rows are too large to wait for many others of their shape within the memory that is allowed.
        assert share <= (1.32 if (scope, candidates) == ("all", 128) else 1.3)
