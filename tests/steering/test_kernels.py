"""`kernels` and `raw_gamma` against loops over written-out gradients."""

from __future__ import annotations

import numpy as np
import pytest

from foresighted.errors import ConfigError, DataError, NumericalError
from foresighted.steering import kernels, pairwise, raw_gamma

PROMPTS, CANDIDATES, PARAMETERS = 3, 4, 9


def _gradients(reference: str, seed: int = 0) -> np.ndarray:
    """Return gradients of each prompt's rows, (B, rows, P)."""
    rows = CANDIDATES + (reference == "response")
    return np.random.default_rng(seed).normal(size=(PROMPTS, rows, PARAMETERS))


def _naive(gradients: np.ndarray, reference: str, influence: str, paid: str) -> tuple[np.ndarray, np.ndarray]:
    """Return test points and directions, one candidate at a time."""
    test, directions = [], []
    for prompt in gradients:
        for i in range(CANDIDATES):
            others = [prompt[j] for j in range(CANDIDATES) if j != i]
            compared = {"response": prompt[-1], "leave-one-out": np.mean(others, axis=0), "none": 0 * prompt[i]}
            test.append(prompt[i])
            directions.append(prompt[i] - compared[reference])
    if paid == "margin":
        test = directions
    if influence == "batch":
        test = [np.mean(test, axis=0)] * len(test)
    return np.array(test), np.array(directions)


@pytest.mark.parametrize("reference", ["response", "leave-one-out", "none"])
@pytest.mark.parametrize("influence", ["self", "batch"])
@pytest.mark.parametrize("paid", ["reward", "margin"])
def test_kernels_are_products_of_written_out_gradients(library, reference, influence, paid):
    gradients = _gradients(reference)
    test, directions = _naive(gradients, reference, influence, paid)
    flat = gradients.reshape(-1, PARAMETERS)
    gram = library.array(flat @ flat.T)
    found = kernels(gram, prompts=PROMPTS, reference=reference, influence=influence, paid=paid)
    close = {"rtol": library.tolerance, "atol": 20 * library.tolerance}
    np.testing.assert_allclose(np.asarray(found.test), test @ directions.T, **close)
    np.testing.assert_allclose(np.asarray(found.loss), directions @ directions.T, **close)
    s, g = found.products()
    np.testing.assert_allclose(np.asarray(s), (test * directions).sum(axis=1), **close)
    np.testing.assert_allclose(np.asarray(g), (directions**2).sum(axis=1), **close)
    assert found.test.dtype == library.array([1.0]).dtype


def test_leave_one_out_is_the_group_mean_form_but_for_a_factor():
    gradients = _gradients("leave-one-out")
    flat = gradients.reshape(-1, PARAMETERS)
    s, _ = kernels(flat @ flat.T, prompts=PROMPTS, reference="leave-one-out").products()
    from_group_mean = [g @ (g - prompt.mean(axis=0)) for prompt in gradients for g in prompt]
    np.testing.assert_allclose(s, CANDIDATES / (CANDIDATES - 1) * np.array(from_group_mean), rtol=1e-12)


def test_batch_products_average_to_what_self_says_of_the_mean():
    gradients = _gradients("none")
    flat = gradients.reshape(-1, PARAMETERS)
    s, _ = kernels(flat @ flat.T, prompts=PROMPTS, reference="none", influence="batch").products()
    np.testing.assert_allclose(s.mean(), flat.mean(axis=0) @ flat.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "prompts", "reference", "message"),
    [
        ((6,), 2, "response", r"gram: got shape \(6,\), expected \(R, R\)"),
        ((6, 5), 2, "response", r"gram: got shape \(6, 5\) for 2 prompts; expected B \(N \+ 1\) rows"),
        ((6, 6), 4, "response", r"gram: got shape \(6, 6\) for 4 prompts"),
        ((6, 6), 0, "response", r"gram: got shape \(6, 6\) for 0 prompts"),
        ((6, 6), 6, "response", r"gram: got 1 rows a prompt; reference 'response' needs 2"),
        ((6, 6), 6, "leave-one-out", r"gram: got 1 rows a prompt; reference 'leave-one-out' needs 2"),
    ],
)
def test_a_gram_matrix_that_does_not_fit_the_prompts_is_named(shape, prompts, reference, message):
    with pytest.raises(DataError, match=message):
        kernels(np.ones(shape), prompts=prompts, reference=reference)


def test_a_gram_matrix_with_nan_says_where(library):
    gram = np.eye(4)
    gram[1, 2] = np.nan
    with pytest.raises(NumericalError, match=r"gram: entry 6 .*\(4, 4\).*not finite"):
        kernels(library.array(gram), prompts=2)


def _rewards(seed: int = 1) -> np.ndarray:
    level = np.array([[0.0], [50.0], [-7.0]])  # of a prompt: it chooses no winner, and must not count
    return level + np.random.default_rng(seed).normal(size=(PROMPTS, CANDIDATES))


def _products(seed: int) -> np.ndarray:
    common = np.array([[75.0], [60.0], [0.0]])  # of all candidates of a prompt
    return common + np.random.default_rng(seed).normal(size=(PROMPTS, CANDIDATES))


def _within(values) -> float:
    return float(np.sqrt(np.mean([np.mean((row - row.mean()) ** 2) for row in np.asarray(values)])))


def test_a_penalty_without_residual_differs_within_prompts_by_a_share_of_what_rewards_do(library):
    reward, s = _rewards(), library.array(_products(2))
    penalty = pairwise.practical(s, gamma=raw_gamma(0.3, library.array(reward), s, residual="one"))
    assert _within(penalty) == pytest.approx(0.3 * _within(reward), rel=100 * library.tolerance)


def test_a_penalty_of_residual_1_is_a_share_of_the_spread_within_prompts(library):
    reward, s = _rewards(), library.array(_products(2))
    penalty = np.asarray(pairwise.practical(s, gamma=raw_gamma(0.3, library.array(reward), s, residual="probability")))
    assert np.sqrt(np.mean(penalty**2)) == pytest.approx(0.3 * _within(reward), rel=20 * library.tolerance)


@pytest.mark.parametrize("residual", ["one", "probability"])
@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_raw_gamma_makes_the_choice_of_a_winner_free_of_scale(factor, residual):
    """A reward model times a factor has gradients times it: S grows with its square, reward and penalty with it."""
    reward, s = _rewards(), np.random.default_rng(3).normal(size=(PROMPTS, CANDIDATES))

    def score(scale: float) -> np.ndarray:
        r, product = scale * reward, scale**2 * s
        return r - pairwise.practical(product, gamma=raw_gamma(0.5, r, product, residual=residual))

    np.testing.assert_allclose(score(factor), factor * score(1.0), rtol=1e-10)
    larger = reward - pairwise.practical(factor * s, gamma=raw_gamma(0.5, reward, factor * s, residual=residual))
    np.testing.assert_allclose(larger, score(1.0), rtol=1e-10)  # more parameters, the same rewards


def test_raw_gamma_of_a_residual_in_reward_has_no_spread_in_it():
    reward, s = _rewards(), np.full((PROMPTS, CANDIDATES), 4.0)
    assert float(raw_gamma(0.5, reward, s, residual="reward")) == pytest.approx(0.5 / 4.0)
    assert float(raw_gamma(0.5, 100 * reward, s, residual="reward")) == pytest.approx(0.5 / 4.0)


@pytest.mark.parametrize("residual", ["one", "probability", "reward"])
def test_raw_gamma_of_nothing_is_nothing(library, residual):
    nothing = library.array(np.zeros((PROMPTS, CANDIDATES)))
    assert float(raw_gamma(0.5, library.array(_rewards()), nothing, residual=residual)) == 0.0


def test_products_that_differ_by_rounding_alone_are_not_blown_up():
    reward = _rewards().astype(np.float32)
    s = np.float32(75.0) + np.random.default_rng(4).integers(0, 2, reward.shape).astype(np.float32) * np.spacing(
        np.float32(75.0)
    )
    assert len(np.unique(s)) > 1
    assert float(raw_gamma(1.0, reward, s, residual="one")) == 0.0


def test_raw_gamma_names_what_is_wrong():
    one = np.ones((2, 2))
    with pytest.raises(DataError, match=r"reward: got shape \(4,\), expected \(prompts, candidates\)"):
        raw_gamma(0.5, np.ones(4), one, residual="one")
    with pytest.raises(DataError, match=r"base: got shape \(4,\), expected \(prompts, candidates\)"):
        raw_gamma(0.5, one, np.ones(4), residual="one")
    with pytest.raises(ConfigError, match=r"gamma: got -1, must be at least 0 and finite"):
        raw_gamma(-1, one, one, residual="one")
    with pytest.raises(NumericalError, match=r"reward: entry 3 \(flat\) of shape \(2, 2\) is not finite"):
        raw_gamma(1, np.array([[0, 1], [2, np.inf]]), one, residual="one")
    with pytest.raises(NumericalError, match=r"base: entry 0 \(flat\) of shape \(1, 1\) is not finite"):
        raw_gamma(1, one, np.array([[np.nan]]), residual="one")
