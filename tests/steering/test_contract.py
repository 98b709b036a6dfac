"""What every form owes, whatever the loss and the array library: values, precision, tracing, derivatives, messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foresighted import steering
from foresighted.errors import ConfigError, DataError, NumericalError
from foresighted.steering import pairwise

GAMMA = 0.7
RNG = np.random.default_rng(0)
S, G = RNG.normal(size=(3, 4)) * 5, RNG.uniform(0, 50, size=(3, 4))
VALUE, LABEL = RNG.normal(size=(3, 4)) * 4, RNG.uniform(size=(3, 4))
ELEMENTWISE = ("practical", "relaxed", "proximal")


def _call(forms, name: str, s, g, value, label, gamma):
    """Call an elementwise form with the arguments that it reads."""
    read = {"practical": (s,), "relaxed": (s, value, label), "proximal": (s, g, value, label)}
    return getattr(forms, name)(*read[name], gamma=gamma)


def _formula(loss: str, name: str, gamma: float) -> np.ndarray:
    """The table of docs/steering.md, with the implicit step solved by bisection."""

    def residual(value: np.ndarray) -> np.ndarray:
        return (1 / (1 + np.exp(-value)) if loss == "pairwise" else value) - LABEL

    low, high = VALUE - 1e4, VALUE + 1e4
    for _ in range(100):
        middle = (low + high) / 2
        above = middle - VALUE + gamma * G * residual(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return gamma * S * {"practical": 1.0, "relaxed": residual(VALUE), "proximal": residual(low)}[name]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_shape_and_precision(library, loss, forms, name):
    with np.errstate(over="ignore"):  # of the naive sigmoid
        expected = _formula(loss, name, GAMMA)
    found = _call(forms, name, *(library.array(a) for a in (S, G, VALUE, LABEL)), GAMMA)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e3 * library.tolerance, atol=1e3 * library.tolerance)
    assert found.dtype == library.array(S).dtype
    assert tuple(found.shape) == S.shape


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_without_steering_there_is_no_penalty(library, forms, name):
    found = _call(forms, name, *(library.array(a) for a in (S, G, VALUE, LABEL)), 0.0)
    assert not np.asarray(found).any()


@pytest.mark.parametrize("name", ["relaxed", "proximal"])
def test_one_number_as_label_is_that_number_for_all(library, forms, name):
    """Label-free: a baseline in place of the labels."""
    s, g, value = (library.array(a) for a in (S, G, VALUE))
    found = _call(forms, name, s, g, value, 0.25, GAMMA)
    same = _call(forms, name, s, g, value, library.array(np.full_like(LABEL, 0.25)), GAMMA)
    np.testing.assert_allclose(np.asarray(found), np.asarray(same), rtol=1e-6)


def test_a_label_is_carried_over_by_the_margins(library):
    label, margin = LABEL[:, :1], VALUE
    found = pairwise.carried(library.array(label), library.array(margin[:, :1]), library.array(margin))
    asked = np.log(label / (1 - label)) + margin - margin[:, :1]
    near = 100 * library.tolerance
    np.testing.assert_allclose(np.asarray(found), 1 / (1 + np.exp(-asked)), rtol=near, atol=near)
    np.testing.assert_allclose(np.asarray(found)[:, :1], label, rtol=near)
    bits = np.asarray(pairwise.carried(library.array([[0.0], [1.0]]), library.array([[0.3], [-2.0]]),
                                       library.array([[0.3, 2.0], [-2.0, 0.5]])))  # fmt: skip
    np.testing.assert_allclose(bits, [[0, 0], [1, 1]], atol=1e-5)
    with pytest.raises(DataError, match="label"):
        pairwise.carried(library.array([[1.5]]), library.array([[0.0]]), library.array([[0.0]]))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gamma_may_be_an_array(library, forms, name):
    arrays = [library.array(a) for a in (S, G, VALUE, LABEL)]
    many = _call(forms, name, *(a[None] for a in arrays), library.array([0.0, 0.1, 10.0])[:, None, None])
    for row, gamma in zip(many, (0.0, 0.1, 10.0), strict=True):
        np.testing.assert_allclose(
            np.asarray(row), np.asarray(_call(forms, name, *arrays, gamma)), rtol=1e3 * library.tolerance, atol=1e-4
        )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_jax_traces_gamma_and_maps_over_games(forms, name):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        jitted = jax.jit(lambda *arrays: _call(forms, name, *arrays))
        np.testing.assert_allclose(
            jitted(S, G, VALUE, LABEL, GAMMA), _call(forms, name, S, G, VALUE, LABEL, GAMMA), rtol=1e-9, atol=1e-12
        )
        mapped = jax.vmap(lambda *arrays: _call(forms, name, *arrays, GAMMA))(S, G, VALUE, LABEL)
        np.testing.assert_allclose(mapped, _call(forms, name, S, G, VALUE, LABEL, GAMMA), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_torch_maps_over_games(forms, name):
    arrays = [torch.as_tensor(a) for a in (S, G, VALUE, LABEL)]
    mapped = torch.func.vmap(lambda *a: _call(forms, name, *a, GAMMA))(*arrays)
    np.testing.assert_allclose(mapped.numpy(), _call(forms, name, *arrays, GAMMA).numpy(), rtol=1e-9)


def test_jax_traces_the_batch_forms(loss, forms, head):
    jax = pytest.importorskip("jax")
    count = head.test.shape[0]
    value = head.value if loss == "pairwise" else head.value[:count]

    def both(products, value, terms, label, weights, gamma):
        exact = forms.exact(products, value, label[:count], damping=0.1, gamma=gamma, weights=weights)
        return exact, forms.unrolled(products, terms, label, steps=3, rate=0.1, gamma=gamma)

    arguments = (head.kernels, value, head.value, head.label, head.weights)
    with jax.enable_x64(True):
        for traced, plain in zip(jax.jit(both)(*arguments, 0.7), both(*arguments, 0.7), strict=True):
            np.testing.assert_allclose(traced, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_in_reward_and_gamma_are_those_of_finite_differences(forms, name):
    arrays = [torch.tensor(a, requires_grad=True) for a in (S, G, VALUE, LABEL)]
    gamma = torch.tensor(GAMMA, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: _call(forms, name, *a), (*arrays, gamma), eps=1e-6, atol=1e-5)


def test_sigmoid_is_stable_and_has_its_derivative_at_zero(library):
    far = np.asarray(pairwise.sigmoid(library.array([-800.0, -40.0, 0.0, 40.0, 800.0])))
    np.testing.assert_allclose(far, [0.0, np.exp(-40.0), 0.5, 1.0, 1.0], rtol=1e-5)
    zero = torch.zeros(1, requires_grad=True)
    assert torch.autograd.grad(pairwise.sigmoid(zero), zero)[0].item() == 0.25


def test_hard_labels_and_extreme_margins_stay_finite(library):
    margin, label, spread = (library.array(a) for a in ([800.0, -800.0, 0.0], [0.0, 1.0, 1.0], [1e3, 1e3, 1e8]))
    for found in (pairwise.relaxed(spread, margin, label, gamma=1.0),
                  pairwise.proximal(spread, spread, margin, label, gamma=1.0)):  # fmt: skip
        assert np.isfinite(np.asarray(found)).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_a_wrong_gamma_is_named(forms, name, gamma):
    with pytest.raises(ConfigError, match=rf"^gamma: got {gamma}, .*at least 0.*finite"):
        _call(forms, name, S, G, VALUE, LABEL, gamma)


def test_a_wrong_gamma_among_many_is_found(library, forms):
    with pytest.raises(ConfigError, match=r"^gamma: got -1 at entry 1 .*at least 0"):
        forms.practical(library.array([1.0, 2.0]), gamma=library.array([0.5, -1.0]))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_numbers_that_are_not_finite_are_named(library, forms, name):
    bad = np.array(S)
    bad[1, 2] = np.inf
    with pytest.raises(NumericalError, match=r"^gram: entry 6 .*\(3, 4\).*not finite"):
        _call(forms, name, *(library.array(a) for a in (bad, G, VALUE, LABEL)), GAMMA)


@pytest.mark.parametrize("name", ["relaxed", "proximal"])
def test_rewards_of_another_shape_are_named(library, loss, forms, name):
    names = {"pairwise": "margin", "pointwise": "reward"}
    with pytest.raises(DataError, match=rf"gram \(3, 4\).*{names[loss]} \(12,\).*expected one shape"):
        _call(forms, name, *(library.array(a) for a in (S, G, VALUE.reshape(-1), LABEL)), GAMMA)


@pytest.mark.parametrize("name", ["relaxed", "proximal"])
def test_a_label_outside_zero_and_one_is_named(library, name):
    label = np.array(LABEL)
    label[0, 1], label[2, 3] = 1.5, -1.0
    with pytest.raises(DataError, match=r"^label: got 1\.5 at entry 1 .*, 2 wrong"):
        _call(pairwise, name, *(library.array(a) for a in (S, G, VALUE, label)), GAMMA)
    with pytest.raises(DataError, match=r"^label: got -0\.1; .*\[0, 1\]"):
        _call(pairwise, name, *(library.array(a) for a in (S, G, VALUE)), -0.1, GAMMA)


def test_a_utility_that_is_not_finite_is_named():
    with pytest.raises(NumericalError, match=r"^utility: entry 0 \(flat\) of shape \(1,\)"):
        steering.pointwise.relaxed(np.ones(1), np.ones(1), np.array([np.nan]), gamma=1.0)


def test_every_public_form_is_in_both_losses():
    shared = set(steering.pointwise.__all__)
    assert shared <= set(steering.pairwise.__all__)
    assert shared == {"practical", "relaxed", "proximal", "exact", "unrolled"}
