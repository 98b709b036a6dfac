"""Several references a prompt: the penalty takes their mean, labels the first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.alignment.foresight import Foresight
from foresighted.alignment.run import train
from foresighted.influence import naive_gradients
from foresighted.models.learner import reward_model_learner
from foresighted.models.loading import load_reward_model
from foresighted.store import records
from foresighted.store.rows import read

pytestmark = pytest.mark.slow

PROMPTS = ["Why is the sky blue?", "What is rain?"]
TEXTS = [["Light scatters.", "Because of air", "It is blue, blue."], ["Water falls", "Clouds cool down", "rain"]]
REFERENCES = [["The air scatters blue light most.", "It is."], ["Rain is water from clouds.", "Wet weather"]]
LABELS = torch.tensor([[0.9, 0.2, 0.5], [0.0, 1.0, 0.35]])


def _rows(references):
    texts = [text for own, others in zip(TEXTS, references, strict=True) for text in (*own, *others)]
    return [p for p in PROMPTS for _ in range(len(texts) // 2)], texts


def _foresight(tiny, tiny_deberta, count, **changes):
    config = replace(tiny, reward_model=str(tiny_deberta), reward_model_train="all", gamma=0.3, **changes)
    model = load_reward_model(config, torch.device("cpu"))
    learner = reward_model_learner(model.trainable(), config)
    return model, Foresight(config, model, learner.optimizer, references=count)


@pytest.mark.parametrize("scope", ["head", "last:1"])
def test_products_are_those_with_the_mean_gradient(tiny, tiny_deberta, scope):
    model, foresight = _foresight(tiny, tiny_deberta, 2, steering="practical", scope=scope)
    rows = _rows(REFERENCES)
    scores = foresight.score(*rows, groups=2)
    inputs = model.encode(*rows)
    reward, gradients = naive_gradients(model.network, inputs, scope=scope, forward=lambda i: model.network(**i))
    reward, gradients = reward.view(2, 5), gradients.view(2, 5, -1).double()
    own, mean = gradients[:, :3], gradients[:, 3:].mean(1, keepdim=True)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(scores.products.gram.double(), (own * (own - mean)).sum(-1), **close)
    torch.testing.assert_close(scores.products.spread.double(), (own - mean).square().sum(-1), **close)
    torch.testing.assert_close(scores.reference_reward[:, 0], reward[:, 3:].mean(1), **close)
    torch.testing.assert_close(scores.each_reference, reward[:, 3:], **close)


@pytest.mark.parametrize("influence", ["self", "batch"])
@pytest.mark.parametrize(
    ("steering", "scope", "curvature"),
    [("relaxed", "head", "adamw"), ("exact", "head", "hessian"), ("exact", "last:1", "gauss-newton"),
     ("exact", "last:1", "hessian"), ("unrolled", "head", "adamw"), ("unrolled", "last:1", "adamw")],
)  # fmt: skip  # a case stays a line
def test_a_reference_that_stands_twice_counts_once(tiny, tiny_deberta, steering, scope, curvature, influence):
    found = []
    for count in (1, 2):
        changes = {
            "steering": steering,
            "scope": scope,
            "curvature": curvature,
            "influence": influence,
            "damping": 50.0,
        }
        _, foresight = _foresight(tiny, tiny_deberta, count, **changes, unrolled_steps=2)
        scores = foresight.score(*_rows([own[:1] * count for own in REFERENCES]), groups=2)
        found.append(foresight.penalty(scores, LABELS).value)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_a_run_writes_and_reads_them(tiny, tmp_path):
    config = replace(tiny, rounds=2, references=3, steering="practical")
    train(config, tmp_path / "run")
    rows = read(tmp_path / "run" / "start" / "seed-0" / records.REFERENCES, records.ReferenceRow)
    assert [row.reference for row in rows[:6]] == [0, 1, 2, 0, 1, 2]
    assert len({row.text for row in rows[:3]}) == 3
    candidates = read(tmp_path / "run" / records.CANDIDATES, records.CandidateRow)
    assert {row.round for row in candidates} == {1, 2}
    one = tmp_path / "one"
    train(replace(config, references=1), one)
    alone = read(one / "start" / "seed-0" / records.REFERENCES, records.ReferenceRow)
    assert [row.text for row in alone[:4]] == [row.text for row in rows if row.reference == 0][:4]  # drawn by its name
