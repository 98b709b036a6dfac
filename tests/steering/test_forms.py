from __future__ import annotations

import numpy as np
import pytest
import torch

from foresighted import steering

RNG = np.random.default_rng(0)
GRAM, MARGIN = RNG.normal(size=200) * 5, RNG.normal(size=200) * 4
SPREAD, LABEL = RNG.uniform(0, 50, size=200), RNG.uniform(size=200)


def test_practical_and_relaxed_are_their_formulas():
    assert steering.pairwise.practical(np.array([2.0, -1.0]), gamma=0.5).tolist() == [1.0, -0.5]
    got = steering.pairwise.relaxed(np.array([2.0]), np.array([0.0]), np.array([0.25]), gamma=3.0)
    assert got == pytest.approx([3.0 * 2.0 * 0.25])


@pytest.mark.parametrize("gamma", [0.0, 1e-6, 0.3, 10.0, 1e6])
def test_implicit_margin_solves_its_equation(gamma):
    m = steering.pairwise.implicit_margin(MARGIN, SPREAD, LABEL, gamma=gamma)
    residual = m - MARGIN + gamma * SPREAD * (steering.pairwise.sigmoid(m) - LABEL)
    assert np.abs(residual).max() <= 1e-12 * max(1.0, gamma * SPREAD.max())


def test_implicit_margin_equals_bisection_in_high_precision():
    low, high = MARGIN - 2 * SPREAD, MARGIN + 2 * SPREAD
    for _ in range(200):
        middle = (low + high) / 2
        above = middle - MARGIN + 2 * SPREAD * (steering.pairwise.sigmoid(middle) - LABEL) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    np.testing.assert_allclose(steering.pairwise.implicit_margin(MARGIN, SPREAD, LABEL, gamma=2.0), low, rtol=1e-10, atol=1e-12)


def test_implicit_step_never_overshoots_the_label_but_the_explicit_one_does():
    margin, spread, label = np.array([3.0]), np.array([100.0]), np.array([0.3])
    settled = steering.pairwise.sigmoid(steering.pairwise.implicit_margin(margin, spread, label, gamma=1.0))
    explicit = steering.pairwise.sigmoid(margin - spread * (steering.pairwise.sigmoid(margin) - label))
    assert explicit[0] < label[0] <= settled[0] < steering.pairwise.sigmoid(margin)[0]


def test_proximal_tends_to_relaxed_for_a_small_step():
    gamma = 1e-7
    proximal = steering.pairwise.proximal(GRAM, SPREAD, MARGIN, LABEL, gamma=gamma)
    relaxed = steering.pairwise.relaxed(GRAM, MARGIN, LABEL, gamma=gamma)
    np.testing.assert_allclose(proximal, relaxed, rtol=1e-4)


def test_hard_labels_and_extreme_margins_stay_finite():
    margin, label = np.array([800.0, -800.0, 0.0]), np.array([0.0, 1.0, 1.0])
    spread = np.array([1e3, 1e3, 1e8])
    assert np.isfinite(steering.pairwise.proximal(spread, spread, margin, label, gamma=1.0)).all()
    assert np.isfinite(steering.pairwise.relaxed(spread, margin, label, gamma=1.0)).all()


def test_torch_gives_what_numpy_gives():
    arrays = [torch.tensor(a) for a in (GRAM, SPREAD, MARGIN, LABEL)]
    got = steering.pairwise.proximal(*arrays, gamma=0.7)
    np.testing.assert_allclose(got.numpy(), steering.pairwise.proximal(GRAM, SPREAD, MARGIN, LABEL, gamma=0.7), rtol=1e-10)


def test_float32_is_accurate_to_float32():
    single = [a.astype(np.float32) for a in (GRAM, SPREAD, MARGIN, LABEL)]
    got = steering.pairwise.proximal(*single, gamma=0.7)
    assert got.dtype == np.float32
    want = steering.pairwise.proximal(*(a.astype(np.float64) for a in single), gamma=0.7)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4)
