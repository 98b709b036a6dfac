"""`exact` and `unrolled` against a reward model whose parameters are written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from foresighted.errors import ConfigError, DataError, NumericalError
from foresighted.steering import Kernels, pairwise

DAMPING = 0.05


def _in_weight(function: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, i: int, width: float) -> np.ndarray:
    """Derivative in weight i by central differences, extrapolated from two widths.

    A weight of 0 falls below 0 here, which the loss stands as long as it is convex.
    """
    change = np.eye(len(weights))[i]

    def slope(h: float) -> np.ndarray:
        return (function(weights + h * change) - function(weights - h * change)) / (2 * h)

    return (4 * slope(width / 2) - slope(width)) / 3


def _exact_arguments(head):
    count = head.test.shape[0]
    return head.value, head.label[:count]


def _for_loss(loss, head):
    """`pairwise.exact` reads the margins of all terms, `pointwise.exact` rewards of the candidates."""
    value, label = _exact_arguments(head)
    return (value if loss == "pairwise" else value[: len(label)]), label


@pytest.mark.parametrize("weighted", [True, False])
def test_exact_is_a_dense_inverse_hessian(library, loss, forms, slopes, head, weighted):
    terms, features = head.directions.shape
    weights = head.weights if weighted else np.full(terms, 1 / terms)
    first, second = slopes(head.value, head.label)
    hessian = sum(w * c * np.outer(d, d) for w, c, d in zip(weights, second, head.directions, strict=True))
    inverse = np.linalg.inv(hessian + DAMPING * np.eye(features))
    expected = [t @ inverse @ d * e for t, d, e in zip(head.test, head.directions, first, strict=False)]
    kernels = Kernels(*(library.array(kernel) for kernel in head.kernels))
    value, label = (library.array(array) for array in _for_loss(loss, head))
    given = library.array(weights) if weighted else None
    found = forms.exact(kernels, value, label, damping=DAMPING, gamma=2.0, weights=given)
    np.testing.assert_allclose(
        np.asarray(found), 2.0 * np.array(expected), rtol=100 * library.tolerance, atol=100 * library.tolerance
    )
    assert found.dtype == value.dtype


def test_exact_is_the_influence_of_more_weight_on_a_candidate(loss, forms, slopes, head):
    """The definition: how far the reward at t_i falls, per weight of term i, when the loss is minimised anew."""
    features = head.phi.shape[0]

    def settled(weights: np.ndarray) -> np.ndarray:
        phi = head.phi
        for _ in range(100):
            first, second = slopes(head.directions @ phi, head.label)
            gradient = head.directions.T @ (weights * first) + DAMPING * phi
            hessian = (head.directions.T * (weights * second)) @ head.directions + DAMPING * np.eye(features)
            step = np.linalg.solve(hessian, gradient)
            phi = phi - step / max(1.0, np.abs(head.directions @ step).max())  # far out a full step can overshoot
        return phi

    at_rest = head._replace(phi=settled(head.weights))
    value, label = _for_loss(loss, at_rest)
    found = forms.exact(head.kernels, value, label, damping=DAMPING, weights=head.weights)
    for i, test in enumerate(head.test):
        slope = test @ _in_weight(settled, head.weights, i, width=2e-5)
        assert found[i] == pytest.approx(-slope, rel=1e-6, abs=1e-8)


def test_exact_tends_to_relaxed_where_damping_is_all_there_is(loss, forms, head):
    value, label = _for_loss(loss, head)
    own = head.value[: len(label)]
    found = forms.exact(head.kernels, value, label, damping=1e9, gamma=1e9)
    np.testing.assert_allclose(found, forms.relaxed(head.kernels.products().gram, own, label, gamma=1.0), rtol=1e-6)


def _steps(head, slopes, weights, *, count, rate, damping):
    phi = head.phi
    for _ in range(count):
        first, _ = slopes(head.directions @ phi, head.label)
        phi = phi - rate * (head.directions.T @ (weights * first) + damping * (phi - head.phi))
    return phi


@pytest.mark.parametrize("count", [1, 2, 5, 30])
@pytest.mark.parametrize("damping", [0.0, DAMPING])
def test_unrolled_is_the_derivative_of_steps_taken(library, forms, slopes, head, count, damping):
    kernels = Kernels(*(library.array(kernel) for kernel in head.kernels))
    options = {"rate": 0.1, "damping": damping}
    arrays = (library.array(head.value), library.array(head.label))
    found = forms.unrolled(kernels, *arrays, steps=count, weights=library.array(head.weights), **options)
    assert found.dtype == arrays[0].dtype

    def moved(weights: np.ndarray) -> np.ndarray:
        return _steps(head, slopes, weights, count=count, **options)

    loose = max(1e-7, 100 * library.tolerance)
    for i, test in enumerate(head.test):
        slope = test @ _in_weight(moved, head.weights, i, width=1e-3)
        assert float(found[i]) == pytest.approx(-slope, rel=loose, abs=loose)


def test_one_step_is_relaxed(loss, forms, head):
    own, label = head.value[: len(head.test)], head.label[: len(head.test)]
    found = forms.unrolled(head.kernels, head.value, head.label, steps=1, rate=0.3, damping=0.7)
    relaxed = forms.relaxed(head.kernels.products().gram, own, label, gamma=0.3)
    np.testing.assert_allclose(found, relaxed, rtol=1e-12)


def test_many_steps_are_exact_where_they_end(loss, forms, slopes, head):
    """With damping the steps settle; there the derivative is that of the minimiser, which is the exact form."""
    options = {"rate": 0.2, "damping": DAMPING}
    end = head._replace(phi=_steps(head, slopes, head.weights, count=3000, **options))
    value, label = _for_loss(loss, end)
    exact = forms.exact(head.kernels, value, label, damping=DAMPING, weights=head.weights)
    found = forms.unrolled(head.kernels, head.value, head.label, steps=3000, weights=head.weights, **options)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-9)


def test_steps_that_diverge_say_so(forms, head):
    with (
        pytest.raises(NumericalError, match=r"unrolled: 4000 steps of size 100 .*lower the step size"),
        np.errstate(all="ignore"),
    ):
        forms.unrolled(head.kernels, head.value, head.label, steps=4000, rate=100.0, damping=1.0)


def test_a_kernel_that_is_no_gram_matrix_says_so():
    kernels = Kernels(np.eye(2), np.array([[0.0, 4.0], [4.0, 0.0]]))
    with pytest.raises(NumericalError, match=r"eigenvalue -0\.49.*damping 0\.01.*above 0; raise"):
        pairwise.exact(kernels, np.zeros(2), np.full(2, 0.5), damping=0.01)


def test_wrong_arguments_are_named(loss, forms, head):
    value, label = _for_loss(loss, head)
    kernels, terms = head.kernels, len(head.weights)
    for damping in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match=rf"damping: got {damping}, must be above 0 and finite"):
            forms.exact(kernels, value, label, damping=damping)
    with pytest.raises(ConfigError, match="steps: got 0, must be at least 1"):
        forms.unrolled(kernels, head.value, head.label, steps=0, rate=0.1)
    with pytest.raises(ConfigError, match=r"rate: got 0\.0, must be above 0 and finite"):
        forms.unrolled(kernels, head.value, head.label, steps=1, rate=0.0)
    with pytest.raises(ConfigError, match=r"gamma: got -1, must be at least 0 and finite"):
        forms.unrolled(kernels, head.value, head.label, steps=1, rate=0.1, gamma=-1)
    with pytest.raises(DataError, match=rf"weights: got shape \({terms + 1},\), expected \({terms},\)"):
        forms.exact(kernels, value, label, damping=0.1, weights=np.ones(terms + 1))
    with pytest.raises(DataError, match=r"weights: got -1 at entry 0 \(flat\), 1 wrong in all"):
        forms.exact(kernels, value, label, damping=0.1, weights=np.array([-1.0, *head.weights[1:]]))
    with pytest.raises(DataError, match="kernels: got test"):
        forms.unrolled(Kernels(kernels.test, np.eye(terms + 1)), head.value, head.label, steps=1, rate=0.1)
    with pytest.raises(DataError, match=r"loss terms: got shape .*, expected \(n,\)"):
        forms.unrolled(kernels, head.value[:, None], head.label[:, None], steps=1, rate=0.1)


def test_numbers_that_are_not_finite_are_named(loss, forms, head):
    value, label = (np.array(array) for array in _for_loss(loss, head))
    name = {"pairwise": "margin", "pointwise": "reward"}[loss]
    value[-1] = np.nan
    with pytest.raises(NumericalError, match=rf"{name}: entry {len(value) - 1} \(flat\)"):
        forms.exact(head.kernels, value, label, damping=0.1)
    broken = Kernels(head.kernels.test, head.kernels.loss + np.nan)
    with pytest.raises(NumericalError, match=r"kernel: entry 0 \(flat\)"):
        forms.exact(broken, *_for_loss(loss, head), damping=0.1)
