"""The implicit step: its equation, its bounds, its derivatives, its limits."""

from __future__ import annotations

from itertools import product

import mpmath
import numpy as np
import pytest
import torch

from foresighted.steering import pairwise, pointwise
from foresighted.steering.pairwise import implicit_margin, sigmoid

REACH = np.concatenate([[0.0], np.logspace(-9, 10, 39)])
MARGIN = np.array([-800, -100, -40, -20, -8, -3, -1, -0.1, -1e-6, 0, 1e-6, 0.1, 1, 3, 8, 20, 40, 100, 800.0])
LABEL = np.array([0, 1e-12, 1e-6, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1 - 1e-6, 1.0])
GRID = [axis.reshape(-1) for axis in np.meshgrid(REACH, MARGIN, LABEL, indexing="ij")]
"""c = gamma G, margin, label: 9120 steps, with hard labels, no step and steps far beyond reason."""


def _slope(root: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Derivative of the equation's left side, m + c s(m)."""
    return 1 + reach * sigmoid(root) * sigmoid(-root)


def test_equation_holds_to_machine_precision():
    reach, margin, label = GRID
    root = implicit_margin(margin, reach, label, gamma=1.0)
    excess = root - margin + reach * (sigmoid(root) - label)
    terms = 1 + np.abs(root) + np.abs(margin) + reach * np.maximum(label, sigmoid(root))
    assert np.abs(excess / terms).max() <= 1e-15


@pytest.mark.slow
def test_root_is_that_of_bisection_in_fifty_digits():
    reach, margin, label = (axis[::67] for axis in GRID)
    found = implicit_margin(margin, reach, label, gamma=1.0)
    with mpmath.workdps(50):
        for c, m, p, root in zip(*(axis.tolist() for axis in (reach, margin, label, found)), strict=True):
            low, high = mpmath.mpf(m) - c, mpmath.mpf(m) + c
            for _ in range(150):
                middle = (low + high) / 2
                value = middle - m + c * (1 / (1 + mpmath.exp(-middle)) - p)
                low, high = (low, middle) if value > 0 else (middle, high)
            # rounding of m + c p and c (1 - p) - m, divided by the slope: no method in float64 does better
            slope = 1 + c / (2 + mpmath.exp(low) + mpmath.exp(-low))
            rounding = 4e-16 * (abs(m) + c * max(p, 1 - p)) / slope + 4e-16 * abs(low)
            assert abs(root - low) <= 4 * rounding + 1e-300, (c, m, p)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_four_newton_steps_are_enough(kind, monkeypatch):
    """What NEWTON_STEPS says: a further step changes nothing but rounding."""
    reach, margin, label = (axis.astype(kind) for axis in GRID)
    monkeypatch.setattr(pairwise, "NEWTON_STEPS", 4)
    four = implicit_margin(margin, reach, label, gamma=1.0)
    monkeypatch.setattr(pairwise, "NEWTON_STEPS", 12)
    twelve = implicit_margin(margin, reach, label, gamma=1.0)
    assert four.dtype == kind
    rounding = (np.abs(margin) + reach * np.maximum(label, 1 - label)) / _slope(twelve, reach) + np.abs(twelve)
    assert (np.abs(four - twelve) <= 8 * np.finfo(kind).eps * (rounding + 1)).all()


def test_step_goes_towards_the_label_and_never_past_it():
    reach, margin, label = GRID
    root = implicit_margin(margin, reach, label, gamma=1.0)
    with np.errstate(divide="ignore"):
        asked = np.log(label) - np.log1p(-label)
    slack = 1e-14 * (1 + np.abs(margin)) + 1e-15 * (np.abs(margin) + reach) / _slope(root, reach)
    assert (root >= np.minimum(asked, margin) - slack).all()
    assert (root <= np.maximum(asked, margin) + slack).all()
    assert (np.abs(root - margin) <= reach + slack).all()


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_penalty_keeps_its_digits_where_the_residual_vanishes(kind):
    """At 1e10 the residual is 1e-10 of the label: read from the equation, not as s(m+) - p*."""
    reach, margin, label = (axis.astype(kind) for axis in GRID)
    found = pairwise.proximal(reach, reach, margin, label, gamma=1.0)
    with mpmath.workdps(40):
        for i in range(0, len(reach), 41):
            c, m, p = (mpmath.mpf(float(axis[i])) for axis in (reach, margin, label))
            start = mpmath.mpf(float(implicit_margin(*(np.float64(v[i]) for v in (margin, reach, label)), gamma=1.0)))
            root = start
            for _ in range(4):
                s = 1 / (1 + mpmath.exp(-root))
                root -= (root - m + c * (s - p)) / (1 + c * s * (1 - s))
            rounding = float(abs(m) + abs(root) + 1)
            assert float(found[i]) == pytest.approx(
                float(m - root), rel=1e-5, abs=20 * float(np.finfo(kind).eps) * rounding
            )


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1e4])
def test_every_library_gives_the_same(library, gamma):
    reach, margin, label = (axis[::17] for axis in GRID)
    s = np.linspace(-3, 3, len(reach))
    keep = (reach < 1e3) & (np.abs(margin) < 50)  # float32 has 7 digits
    arrays = [axis[keep] for axis in (s, reach, margin, label)]
    expected = pairwise.proximal(*arrays, gamma=gamma)
    found = pairwise.proximal(*(library.array(axis) for axis in arrays), gamma=gamma)
    np.testing.assert_allclose(
        np.asarray(found), expected, rtol=50 * library.tolerance, atol=50 * library.tolerance * max(gamma, 1)
    )
    assert found.dtype == library.array([1.0]).dtype


def _closed_derivatives(margin, spread, label, gamma):
    """Of m+ = m - gamma G (s(m+) - p*) in margin, G and p*."""
    root = implicit_margin(margin, spread, label, gamma=gamma)
    slope = _slope(root, gamma * spread)
    return 1 / slope, -gamma * (sigmoid(root) - label) / slope, gamma * spread / slope


@pytest.mark.parametrize("gamma", [0.0, 0.2, 30.0])
def test_derivatives_by_torch_and_jax_are_the_closed_ones(gamma):
    grid = np.array(list(product([-30.0, -2.0, 0.0, 0.5, 9.0], [0.0, 1e-3, 1.0, 80.0], [0.0, 0.25, 0.5, 1.0])))
    margin, spread, label = grid.T
    expected = _closed_derivatives(margin, spread, label, gamma)
    leaves = [torch.tensor(axis, requires_grad=True) for axis in (margin, spread, label)]
    by_torch = torch.autograd.grad(implicit_margin(*leaves, gamma=gamma).sum(), leaves)
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        by_jax = jax.grad(lambda *a: implicit_margin(*a, gamma=gamma).sum(), argnums=(0, 1, 2))(margin, spread, label)
    for closed, from_torch, from_jax in zip(expected, by_torch, by_jax, strict=True):
        np.testing.assert_allclose(from_torch.numpy(), closed, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.asarray(from_jax), closed, rtol=1e-9, atol=1e-9)


def test_tends_to_relaxed_for_a_small_step(forms):
    rng = np.random.default_rng(0)
    s, spread, value, label = rng.normal(size=50), rng.uniform(0, 9, 50), rng.normal(size=50), rng.uniform(size=50)
    proximal = forms.proximal(s, spread, value, label, gamma=1e-8)
    np.testing.assert_allclose(proximal, forms.relaxed(s, value, label, gamma=1e-8), rtol=1e-6)


def test_stays_below_the_error_that_it_is_about_where_relaxed_does_not():
    margin, label, spread = np.array([2.0]), np.array([0.5]), np.array([64.0])
    explicit = margin - spread * (sigmoid(margin) - label)
    assert explicit < -2.0  # farther from the label's margin, 0, than it began
    assert 0 < implicit_margin(margin, spread, label, gamma=1.0) < 2.0
    assert pairwise.relaxed(spread, margin, label, gamma=1.0) > 24.0
    assert 0 < pairwise.proximal(spread, spread, margin, label, gamma=1.0) < 2.0


def test_pointwise_closed_form_is_the_minimiser_solved_for(library):
    """argmin_phi gamma (r(phi) - U)^2 / 2 + |phi - phi_t|^2 / 2 by a linear solve, one candidate at a time."""
    rng = np.random.default_rng(4)
    gradients, phi, utility = rng.normal(size=(6, 3)), rng.normal(size=3), rng.normal(size=6)
    test = rng.normal(size=3)
    for gamma in (0.0, 0.7, 1e6):
        expected = []
        for g, u in zip(gradients, utility, strict=True):
            settled = np.linalg.solve(np.eye(3) + gamma * np.outer(g, g), phi + gamma * u * g)
            expected.append(test @ phi - test @ settled)
        s, spread, reward = gradients @ test, (gradients**2).sum(axis=1), gradients @ phi
        found = pointwise.proximal(*(library.array(a) for a in (s, spread, reward, utility)), gamma=gamma)
        tolerance = {"rtol": 1e-8} if library.tolerance < 1e-9 else {"rtol": 1e-4}
        np.testing.assert_allclose(np.asarray(found), expected, atol=10 * library.tolerance, **tolerance)


def test_pointwise_kappa_stays_below_one():
    gain = pointwise.proximal(np.array([1e9]), np.array([1e9]), np.array([3.0]), 1.0, gamma=5.0)
    assert gain == pytest.approx([2.0])


def test_what_rounding_leaves_below_zero_of_a_squared_length_is_no_step(library, forms):
    """Two equal responses: their G comes out of a Gram matrix as -1e-7, and a normalised gamma may be huge."""
    arrays = [library.array([value]) for value in (2.0, -1e-7, 0.5, 0.25)]
    found = forms.proximal(*arrays, gamma=1e9)
    np.testing.assert_allclose(
        np.asarray(found), np.asarray(forms.relaxed(arrays[0], *arrays[2:], gamma=1e9)), rtol=1e-6
    )
