"""Every fast path against the naive twin: one autograd call a response, gradients written out."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from foresighted.errors import ConfigError, DataError, ModelError, NumericalError
from foresighted.influence import GradientProducts, naive_gradients, select
from foresighted.influence.layers import Dense, Lookup, Outer

pytestmark = pytest.mark.slow

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


def _agree(models, model, inputs, scope, *, tolerance, forward=None, chunk=64):
    """Assert that rewards, S, G and the Gram matrix equal the twin's, relative to the largest gradient norm."""
    rewards, gradients = naive_gradients(model, inputs, scope=scope, forward=forward)
    gram = gradients.double() @ gradients.double().T
    size = gram.diagonal().max()
    engine = GradientProducts(model, scope=scope, forward=forward, chunk=chunk)
    scored = engine.against_reference(inputs, prompts=models.PROMPTS)
    want = models.star(gram, models.PROMPTS)
    for got, expected in zip(scored.products, want, strict=True):
        assert float((got - expected).abs().max() / size) <= tolerance
    found, whole = engine.gram(inputs)
    assert float((whole - gram).abs().max() / size) <= tolerance
    both = torch.cat([scored.reward, scored.reference_reward[:, None]], 1).flatten()
    torch.testing.assert_close(both, rewards.to(both), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found, both, rtol=tolerance, atol=tolerance)
    return engine


@pytest.fixture
def agree(models):
    return partial(_agree, models)


DOUBLE, SINGLE = torch.float64, torch.float32


@pytest.mark.parametrize(
    ("scope", "dtype"), [("head", DOUBLE), ("head:2", DOUBLE), ("last:1", DOUBLE), ("all", DOUBLE), ("all", SINGLE)]
)
def test_every_family_and_scope_equals_the_naive_twin(models, agree, family, scope, dtype):
    if (family, scope) == ("GPT-2", "head:2"):
        pytest.skip("GPT-2 has Conv1D layers, and one linear layer")
    engine = agree(models.build(family, dtype), models.batch(), scope, tolerance=TOLERANCE[dtype])
    if family not in ("DeBERTa-v1", "BART"):
        assert not engine.slow


class _InPlace(nn.Module):
    """A reward model that changes in place what a layer gives, and what another one was given."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, 12), nn.Embedding(64, 12)
        self.mix, self.norm, self.score = nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 1)

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        x += self.place(torch.arange(input_ids.shape[1])[None])
        y = self.mix(x)
        y += x
        y = self.norm(y.tanh())
        y *= attention_mask[..., None]
        return self.score(y.sum(1))


def test_operations_in_place_equal_the_naive_twin(models, agree):
    torch.manual_seed(1)
    model = _InPlace(models.VOCABULARY).double()
    for scope in ("head", "head:2", "all"):
        agree(model, models.batch(), scope, tolerance=1e-8, forward=_odd_forward(model))


class _Shifted(nn.Embedding):
    """Looks up something else than its ids: beyond its own table, or in it."""

    def forward(self, ids):
        return super().forward((ids // 2).clamp(max=self.num_embeddings - 1))


@pytest.mark.parametrize("rows", [7, 200])
def test_an_embedding_with_a_forward_of_its_own_takes_a_pass_a_row(models, agree, rows):
    torch.manual_seed(1)
    model = _InPlace(models.VOCABULARY)
    model.embed = _Shifted(rows, 12)
    model = model.double()
    engine = agree(model, models.batch(), "all", tolerance=1e-8, forward=_odd_forward(model))
    assert engine.slow == {"embed.weight"}


def test_a_reward_that_has_no_gradient_there_is_refused(models, told):
    class Broken(_InPlace):
        def forward(self, input_ids, attention_mask):
            y = self.mix(self.embed(input_ids)).exp()
            y += 1  # exp needs what it gave
            return self.score((y * attention_mask[..., None]).sum(1))

    model = Broken(models.VOCABULARY)
    with pytest.raises(ModelError) as error:
        GradientProducts(model, scope="all", forward=_odd_forward(model)).gram(models.batch())
    told(error, "scope:", "no gradient", "all", "use scope head")


@pytest.mark.parametrize("family", ["Llama", "DeBERTa-v3", "BERT"])
@pytest.mark.parametrize("chunk", [3, 5])
def test_the_result_does_not_depend_on_the_chunk(models, agree, family, chunk):
    agree(models.build(family), models.batch(), "all", tolerance=1e-8, chunk=chunk)


@pytest.mark.parametrize("family", ["Llama", "DeBERTa-v3", "GPT-2"])
def test_lora_adapters_equal_the_naive_twin(models, agree, family):
    from peft import LoraConfig, get_peft_model

    targets = "all-linear" if family != "GPT-2" else ["c_attn", "c_proj"]
    lora = LoraConfig(
        r=2, target_modules=targets, task_type="SEQ_CLS", lora_dropout=0.1, fan_in_fan_out=family == "GPT-2"
    )
    model = get_peft_model(models.build(family), lora).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # 0 at first, which would hide errors in A
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    chosen = select(model, "lora")
    assert all(".lora_" in name or ".modules_to_save." in name for name in chosen)
    engine = agree(model, models.batch(), "lora", tolerance=1e-8)
    assert not engine.slow
    agree(model, models.batch(), "lora", tolerance=1e-8, chunk=3)


def test_the_model_is_left_as_it_was(models):
    model = models.build("BERT").train()
    before = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    model.bert.embeddings.requires_grad_(False)
    GradientProducts(model, scope="all").gram(models.batch())
    assert model.training
    assert all(module.training for module in model.modules())
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad
    assert all(torch.equal(p, before[name][1]) and p.grad is None for name, p in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_half_precision_agrees_with_the_twin_as_far_as_its_rounding(models, agree):
    agree(models.build("Llama", torch.bfloat16), models.batch(), "all", tolerance=5e-2)


def test_one_row_a_prompt_and_as_many_rows_as_positions(models, agree):
    agree(models.build("BERT"), models.batch(rows=8, length=8), "all", tolerance=1e-8)
    agree(
        models.build("DeBERTa-v3"),
        models.batch(rows=2 * models.PROMPTS, length=2 * models.PROMPTS),
        "all",
        tolerance=1e-8,
    )


class _Odd(nn.Module):
    """A reward model with what the fast path does not read: a bare parameter, a convolution, a weight used twice in
    two ways, and a weight used outside its layer."""

    def __init__(self, vocabulary: int, reentrant: bool | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 12)
        self.conv = nn.Conv1d(12, 12, 3, padding=1)
        self.mix = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12)
        self.tied.weight = self.mix.weight
        self.outside = nn.Linear(12, 12, bias=False)
        self.out = nn.Linear(12, vocabulary, bias=False)
        self.out.weight = self.embed.weight
        self.gain = nn.Parameter(torch.ones(12))
        self.score = nn.Linear(12, 1)
        self.reentrant = reentrant

    def body(self, x):
        return torch.tanh(self.tied(torch.tanh(self.mix(x)))) * self.gain

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        x = x + self.conv(x.mT).mT
        x = checkpoint(self.body, x, use_reentrant=self.reentrant) if self.reentrant is not None else self.body(x)
        x = x + self.outside(x) @ self.outside.weight
        x = x + self.out(x).softmax(-1)[..., :12]
        weight = attention_mask[..., None].to(x)
        return self.score((x * weight).sum(1) / weight.sum(1))


def _odd_forward(model):
    return lambda inputs: model(**inputs)[:, 0]


def test_what_is_not_known_takes_the_slow_path_rightly_and_says_so_once(models, agree, caplog):
    torch.manual_seed(0)
    model = _Odd(models.VOCABULARY).double()
    with caplog.at_level(logging.WARNING):
        engine = agree(model, models.batch(), "all", tolerance=1e-8, forward=_odd_forward(model))
        engine.gram(models.batch())
    assert engine.slow == {"embed.weight", "conv.weight", "conv.bias", "outside.weight", "gain"}
    assert [record.message.startswith("influence: 5 of 10 parameters") for record in caplog.records] == [True]


def test_checkpointed_models_are_read_rightly(models, agree):
    torch.manual_seed(0)
    model = _Odd(models.VOCABULARY, reentrant=False).double()
    agree(model, models.batch(), "all", tolerance=1e-8, forward=_odd_forward(model))


def test_the_old_kind_of_checkpointing_is_refused_by_torch(models):
    model = _Odd(models.VOCABULARY, reentrant=True).double()
    with pytest.raises(ModelError, match=r"scope: .*use_reentrant=False"):
        GradientProducts(model, scope="all", forward=_odd_forward(model)).gram(models.batch())


def test_rows_that_meet_are_noticed(caplog):
    """A model that normalises over the batch has no per-row gradient that a batched pass could tell."""

    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.score = nn.Linear(6, 6), nn.Linear(6, 1)

        def forward(self, x):
            x = self.mix(x)
            return self.score(x - x.mean(0))[:, 0]

    model = Meeting().double()
    engine = GradientProducts(model, scope="all", forward=lambda inputs: model(inputs["x"]))
    engine.gram({"x": torch.randn(4, 6, dtype=torch.float64)})
    assert "mix.weight" in engine.slow


def test_a_head_that_starts_at_zero_is_checked_again():
    """Its first gradients of the body are all 0, from which nothing can be told."""

    class Doubled(nn.Linear):  # not what a linear layer is taken for
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    model = nn.Sequential(Doubled(6, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    nn.init.zeros_(model[2].weight)
    forward = lambda inputs: model(inputs["x"])[:, 0]  # noqa: E731
    inputs = {"x": torch.randn(8, 6, dtype=torch.float64)}
    engine = GradientProducts(model, scope="all", forward=forward)
    engine.gram(inputs)
    assert not engine.slow
    nn.init.normal_(model[2].weight)
    _, gram = engine.gram(inputs)
    assert engine.slow == {"0.weight", "0.bias"}
    gradients = naive_gradients(model, inputs, forward=forward)[1]
    torch.testing.assert_close(gram, gradients @ gradients.T)


def test_a_metric_weighs_each_parameter(models):
    model, inputs = models.build("GPT-2"), models.batch()
    engine = GradientProducts(model, scope="all")
    generator = torch.Generator().manual_seed(5)
    metric = {n: torch.rand(p.shape, generator=generator, dtype=p.dtype) for n, p in engine.parameters.items()}
    _, gradients = naive_gradients(model, inputs)
    weight = torch.cat([m.flatten() for m in metric.values()])
    want = (gradients * weight) @ gradients.T
    _, gram = engine.gram(inputs, metric=metric)
    torch.testing.assert_close(gram, want, rtol=1e-9, atol=1e-9)
    products = engine.against_reference(inputs, prompts=models.PROMPTS, metric=metric).products
    torch.testing.assert_close(products.gram, models.star(want, models.PROMPTS)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", [1, 50, 1 << 24])
def test_both_ways_through_a_layer_agree(monkeypatch, block):
    monkeypatch.setattr("foresighted.influence.layers.BLOCK", block)
    generator = torch.Generator().manual_seed(3)
    form = Outer(*(torch.randn(6, 5, width, generator=generator, dtype=torch.float64) for width in (7, 3)))
    torch.testing.assert_close(form._gram_ghost(), form._gram_written())
    for ghost, written in zip(form._star_ghost(2), form._star_written(2), strict=True):
        torch.testing.assert_close(ghost, written)
    lookup = Lookup(torch.randint(0, 4, (6, 5), generator=generator), torch.randn(6, 5, 3, dtype=torch.float64))
    written = torch.zeros(6, 4, 3, dtype=torch.float64)
    for row in range(6):
        written[row].index_add_(0, lookup.ids[row], lookup.d[row])
    torch.testing.assert_close(lookup.gram(), Dense(written.flatten(1)).gram())
    for ghost, plain in zip(lookup.star(3), Dense(written.flatten(1)).star(3), strict=True):
        torch.testing.assert_close(ghost, plain)


def test_scopes_select_what_they_say(models):
    llama, deberta = models.build("Llama"), models.build("DeBERTa-v3")
    assert list(select(llama, "head")) == ["score.weight"]
    assert set(select(deberta, "head:2")) == {
        "pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    last = select(llama, "last:1")
    assert "model.norm.weight" in last
    assert {name.split(".")[2] for name in last if ".layers." in name} == {"1"}
    assert len(select(llama, "all")) == len(list(llama.parameters()))
    assert len(select(llama, "last:2")) == len(list(llama.parameters())) - 1  # all but the embeddings


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("body", "got 'body', expected head, head:K"),
        ("last", "got 'last', expected"),
        ("head:0", "expected head, head:K"),
        ("lora", "lora selects no parameters, the reward model has no adapter"),
        ("last:3", "more than the model's 2 blocks"),
        ("head:99", "more than the model's"),
    ],
)
def test_scopes_that_cannot_be_are_named(models, scope, message):
    with pytest.raises(ConfigError, match=message):
        select(models.build("Llama"), scope)


def test_bad_input_is_named(models):
    model, inputs = models.build("Llama"), models.batch()
    with pytest.raises(ConfigError, match="chunk: got 1"):
        GradientProducts(model, chunk=1)
    with pytest.raises(DataError, match="8 rows for 3 prompts"):
        GradientProducts(model).against_reference(inputs, prompts=3)
    with pytest.raises(DataError, match=r"rewards of shape \(2, 1\) for 2 rows"):
        GradientProducts(model, forward=lambda i: model(**i).logits).gram(inputs)
    with pytest.raises(ModelError, match="no linear layer with one output"):
        GradientProducts(nn.Linear(3, 2))
    frozen = GradientProducts(model, forward=lambda i: model(**i).logits[:, 0].detach())
    with pytest.raises(ModelError, match="no parameter that the reward depends on"):
        frozen.gram(inputs)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(NumericalError, match="reward: entry"):
        GradientProducts(model).gram(inputs)


def test_quantised_weights_in_the_scope_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match=r"scope: all holds 1 quantised weights \(0.weight\)"):
        select(model, "all")
    assert list(select(model, "head")) == ["1.weight", "1.bias"]


def test_the_example_of_the_page_runs(models):
    page = (Path(__file__).parents[2] / "docs" / "influence.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    inputs = models.batch(rows=12)  # 4 prompts, 2 candidates and a reference each
    names = {"reward_model": models.build("BERT"), "inputs": inputs, "labels": torch.full((4, 2), 0.5).double()}
    exec(code, names)
    assert names["penalty"].shape == (8,)
    assert bool(names["penalty"].isfinite().all())
