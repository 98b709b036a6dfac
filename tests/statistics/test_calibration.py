"""Overconfidence and accuracy on pairs that can be counted by hand, and the same in both engines."""

from __future__ import annotations

import math

import pytest

from foresighted.statistics.calibration import accuracy, overconfidence
from foresighted.statistics.numbers import mean, sigmoid


def test_mean_of_what_is_known():
    assert mean([1.0, None, 3.0]) == 2.0
    assert mean([None]) is None


@pytest.mark.parametrize("x", [-1000.0, -2.0, 0.0, 0.3, 1000.0])
def test_sigmoid_of_any_size(x):
    assert sigmoid(x) == pytest.approx(0.0 if x < -700 else 1 / (1 + math.exp(-x)))


def test_overconfidence_speaks_of_the_preferred_side():
    assert overconfidence([(2.0, 0.7)]) == pytest.approx(sigmoid(2.0) - 0.7)
    assert overconfidence([(-2.0, 0.3)]) == overconfidence([(2.0, 0.7)])
    assert overconfidence([(0.0, 1.0)]) == overconfidence([(0.0, 0.0)]) == 0
    assert overconfidence([(1.0, 1.0), (-1.0, 1.0), (0.0, 0.2)]) == pytest.approx((2 * sigmoid(1.0) - 1) / 3)
    assert overconfidence([]) is None


def test_accuracy_counts_a_margin_of_0_half_and_passes_over_labels_without_an_order():
    assert accuracy([(1.0, 0.9), (-1.0, 0.9), (-1.0, 0.0)]) == pytest.approx(2 / 3)
    assert accuracy([(0.0, 0.9), (0.0, 0.1), (5.0, 0.5)]) == 0.5
    assert accuracy([(1.0, 0.5)]) is None
