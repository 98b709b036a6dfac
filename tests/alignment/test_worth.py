"""What candidates are paid: shaped rewards, lower bounds, corrected scores; and whose labels are read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from foresighted.alignment import worth
from foresighted.alignment.foresight import Scores
from foresighted.alignment.questions import expected_influence
from foresighted.alignment.rows import within_prompts
from foresighted.alignment.run import train
from foresighted.labels.pair import Pair
from foresighted.settings import TrainConfig
from foresighted.steering import Products
from foresighted.store import records
from foresighted.store.rows import read

REWARD = torch.tensor([[1.0, 3.0, -2.0], [0.5, 0.4, 0.0]], dtype=torch.float64)
REFERENCES = torch.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=torch.float64)
SCORES = Scores(REWARD, REFERENCES.mean(1, keepdim=True), Products(REWARD, REWARD), references=REFERENCES)
DOUBT = torch.tensor([[0.1, 1.0, 0.3, 0.2, 0.0], [0.7, 0.0, 0.2, 0.5, 0.4]], dtype=torch.float64)


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_a_reward_is_paid_as_it_is_by_default():
    assert worth.paid(TrainConfig(), SCORES, None) is REWARD
    assert worth.paid(TrainConfig(selection="labels", shaping="par"), SCORES, None) is REWARD  # labels are paid there


@pytest.mark.parametrize("confidence", [0.0, 1.5])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_par_is_the_mean_preference_over_the_references(scale, confidence):
    config = TrainConfig(shaping="par", shaping_scale=scale, ensemble=3, confidence=confidence)
    found = worth.paid(config, SCORES, DOUBT)
    for b in range(2):
        for n in range(3):
            own = REWARD[b, n] - confidence * DOUBT[b, n]
            others = [REFERENCES[b, m] - confidence * DOUBT[b, 3 + m] for m in range(2)]
            expected = sum(scale * _sigmoid((own - other) / scale) for other in others) / 2
            assert float(found[b, n]) == pytest.approx(expected, rel=1e-12)


def test_an_ensemble_is_paid_its_lower_bound():
    found = worth.paid(TrainConfig(ensemble=3, confidence=2.0), SCORES, DOUBT)
    torch.testing.assert_close(found, REWARD - 2 * DOUBT[:, :3])


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_corrected_scores_have_no_bias_at_weight_1(weight):
    """Over all that may be drawn, the mean score lies `weight` of the way from what is paid to the label."""
    config = TrainConfig(correction=weight)
    paid = worth.paid(config, SCORES, None)
    torch.testing.assert_close(paid, (REWARD - REFERENCES[:, :1]).sigmoid())
    labels = [0.9, 0.2, 0.5, 0.0, 1.0, 0.35]
    texts = ["a", "b", "c", "d", "", "f"]  # an empty one is never labelled
    pairs = [Pair(str(i), "?", text, "so", label) for i, (text, label) in enumerate(zip(texts, labels, strict=True))]
    mean = torch.zeros_like(paid)
    for first in (0, 1, 2):
        for second in (3, 5):
            mean += (paid + worth.correction(config, paid, texts, [first, second], pairs)) / 6
    expected = paid + weight * (torch.tensor(labels, dtype=torch.float64).view(2, 3) - paid)
    expected[1, 1] = paid[1, 1]
    torch.testing.assert_close(mean, expected)


@pytest.fixture
def played(tiny, tmp_path):
    """Play two rounds; return the configuration, and the rows of candidates by round and prompt."""

    def played(**changes):
        usual = {"policy_update": "policy-gradient", "kl_coefficient": 0.5, "kl_unit": "share"}
        config = replace(tiny, rounds=2, **{**usual, **changes})
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        train(config, out, start=tmp_path / "start")
        rows = read(out / records.CANDIDATES, records.CandidateRow)
        assert [row.labels for row in read(out / records.ROUNDS, records.RoundRow)] == [2, 2]
        return [rows[start : start + 3] for start in range(0, len(rows), 3)]

    return played


def _margin(row):
    return row.reward - row.reference_reward


@pytest.mark.slow
def test_a_run_is_paid_corrected_scores(played):
    groups = played(correction=0.5, reward_model_pairs="random", steering="practical")
    for start in (0, 2):
        believed = [[_sigmoid(_margin(row)) for row in group] for group in groups[start : start + 2]]
        unit = within_prompts(torch.tensor(believed))
        for group, ps in zip(groups[start : start + 2], believed, strict=True):
            assert sum(row.label is not None for row in group) == 1
            for row, p in zip(group, ps, strict=True):
                added = 0.0 if row.label is None else 0.5 * 3 * (row.label - p)
                assert row.paid == pytest.approx(p + added, abs=1e-5)
                assert row.score == pytest.approx(row.paid - row.penalty - 0.5 * unit * row.kl, abs=1e-4)


@pytest.mark.slow
def test_a_share_of_gamma_is_one_of_what_is_paid(played):
    groups = played(shaping="par", steering="practical", gamma=1.0, gamma_unit="share")
    for start in (0, 2):
        rows = groups[start : start + 2]
        assert all(row.paid == pytest.approx(_sigmoid(_margin(row)), abs=1e-5) for group in rows for row in group)
        penalty, paid = (
            within_prompts(torch.tensor([[getattr(row, name) for row in group] for group in rows]))
            for name in ("penalty", "paid")
        )
        assert penalty == pytest.approx(paid, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("steering", ["practical", "rlhf"])
def test_the_largest_expected_influence_is_labelled_and_others_by_a_coin(played, steering):
    control = "shuffled" if steering == "practical" else "none"  # the penalty of another candidate says nothing
    share = 0.5 if steering == "rlhf" else 0.0
    groups = played(reward_model_pairs="influence", steering=steering, control=control, reward_model_pairs_random=share)
    for group in groups:
        believed = {id(row): _sigmoid(_margin(row)) for row in group}
        best = max(group, key=lambda row: believed[id(row)] * (1 - believed[id(row)]) * abs(row.gram))
        assert share or best.label is not None
        assert sum(row.label is not None for row in group) == 1


def test_expected_influence_is_the_mean_over_both_labels_of_what_a_step_changes():
    """A real step of a linear reward model on either label, weighed by what the model believes."""
    torch.manual_seed(0)
    weights, y, other = torch.randn(3, 6, dtype=torch.float64)
    margin, rate = weights @ (y - other), 1e-6
    changes = []
    for label in (0.0, 1.0):
        moved = weights.clone().requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(moved @ (y - other), moved.new_tensor(label))
        (gradient,) = torch.autograd.grad(loss, moved)
        changes.append(float(((-rate * gradient) @ y).abs()) / rate)
    p = float(margin.sigmoid())
    assert float(expected_influence(margin, y @ (y - other))) == pytest.approx((1 - p) * changes[0] + p * changes[1])


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["random", "uncertain"])
def test_one_label_is_carried_over_to_its_group(played, pairs):
    groups = played(steering="relaxed", steering_labels="group", gamma=0.3, gamma_unit="raw", reward_model_pairs=pairs)
    for group in groups:
        (own,) = (row for row in group if row.label is not None)
        assert pairs == "random" or own is min(group, key=lambda row: abs(_margin(row)))
        for row in group:
            label = _sigmoid(math.log(own.label / (1 - own.label)) + _margin(row) - _margin(own))
            assert row.penalty == pytest.approx(0.3 * row.gram * (_sigmoid(_margin(row)) - label), abs=1e-4)
