"""Calibration against closed forms and naive pairs."""

from __future__ import annotations

import numpy as np
import pytest

from foresighted.auditing.calibration import calibrate, prompt_pairs, reference_pairs
from foresighted.statistics.calibration import accuracy, overconfidence
from foresighted.statistics.layout import Layout

ONE = Layout((0,), (0,), True)


def _referenced(logs, margin, label, prompt=None):
    count = len(margin)
    prompt = np.arange(count) if prompt is None else prompt
    return logs.rollouts(np.zeros(count), prompt, reward=margin, reference_reward=np.zeros(count), label=label)


def _sigma(x):
    return 1 / (1 + np.exp(-x))


def test_a_calibrated_model(logs):
    random = np.random.default_rng(0)
    margin = random.normal(0, 1.5, 4000)
    label = (random.random(4000) < _sigma(margin)).astype(float)
    (found,) = calibrate(_referenced(logs, margin, label), ONE)
    sure = _sigma(np.abs(margin))
    assert found.pairs == 4000
    assert found.overconfidence.low < 0 < found.overconfidence.high
    assert found.brier.mean == pytest.approx(float((sure * (1 - sure)).mean()), abs=0.01)
    assert found.ece.mean < 0.04
    assert found.ece.low < 0.02
    assert found.accuracy.mean == pytest.approx(float(sure.mean()), abs=0.02)


def test_an_overconfident_model(logs):
    random = np.random.default_rng(1)
    truth = random.normal(0, 1, 2000)
    label = (random.random(2000) < _sigma(truth)).astype(float)
    (found,) = calibrate(_referenced(logs, 4 * truth, label), ONE)
    expected = float((_sigma(np.abs(4 * truth)) - _sigma(np.abs(truth))).mean())
    assert found.overconfidence.mean == pytest.approx(expected, abs=0.03)
    assert found.overconfidence.low > 0
    assert found.ece.low > 0
    assert found.ece.mean == pytest.approx(expected, abs=0.03)


def test_overconfidence_and_accuracy_are_those_of_rounds_jsonl(logs):
    random = np.random.default_rng(2)
    margin, label = random.uniform(-2, 2, 60) * (np.arange(60) % 5 > 0), random.random(60)
    label[::7] = 0.5
    (found,) = calibrate(_referenced(logs, margin, label), ONE)
    assert found.overconfidence.mean == pytest.approx(overconfidence(zip(margin, label, strict=True)))
    assert found.accuracy.mean == pytest.approx(accuracy(zip(margin, label, strict=True)))
    sure = np.where(margin > 0, label, np.where(margin < 0, 1 - label, 0.5))
    assert found.brier.mean == pytest.approx(float(((_sigma(np.abs(margin)) - sure) ** 2).mean()))


def test_labels_without_an_order_tell_no_accuracy(logs):
    (found,) = calibrate(_referenced(logs, np.linspace(-1, 1, 40), np.full(40, 0.5)), ONE)
    assert found.accuracy is None
    assert found.overconfidence.low > 0


def test_pairs_of_a_prompt_equal_the_naive_ones(logs):
    random = np.random.default_rng(3)
    order = random.permutation(24)
    prompt, round_, run = (np.tile([0, 1, 2], 8)[order], np.repeat([0, 1], 12)[order], np.tile([0, 0, 0, 1], 6)[order])
    reward, utility = random.standard_normal(24), np.round(random.standard_normal(24))
    table = logs.rollouts(round_, prompt, run=run, reward=reward, utility=utility)
    pairs = prompt_pairs(table, Layout((0, 1), (0, 1), True))
    naive = []
    for key in sorted(set(zip(run.tolist(), round_.tolist(), prompt.tolist(), strict=True))):
        of = [i for i in range(24) if (run[i], round_[i], prompt[i]) == key]
        for i, j in zip(of[::2], of[1::2], strict=False):
            first, second = (i, j) if reward[i] >= reward[j] else (j, i)
            label = 0.5 + 0.5 * np.sign(utility[first] - utility[second])
            naive.append((key[1], key[2], _sigma(reward[first] - reward[second]), label))
    got = list(zip(pairs.row, pairs.prompt, pairs.predicted, pairs.label, strict=True))
    np.testing.assert_allclose(sorted(got), sorted(naive))


def test_too_few_or_no_pairs(logs):
    assert calibrate(_referenced(logs, np.ones(5), np.ones(5)), ONE) == ()
    alone = logs.rollouts([0, 0], [0, 1], reward=[1.0, 2.0])
    assert calibrate(alone, ONE) == ()
    unlabelled = _referenced(logs, np.ones(30), np.full(30, np.nan))
    assert reference_pairs(unlabelled, ONE) is None
    assert calibrate(unlabelled, ONE) == ()
