"""The leader's score against closed forms, on a reward model that is linear."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foresighted.errors import ConfigError
from foresighted.games import LINEAR, NETWORK, LinearSettings, NetworkSettings, simulate
from foresighted.games.game import Follower, gradient, label_function
from foresighted.games.plan import Cell, program_key
from foresighted.games.score import score_function
from foresighted.steering import FORMS

pytestmark = pytest.mark.slow

W = np.array([[0.5, -0.2, 0.1]])
Y = np.array([[1.0, 0.5, -0.5], [0.2, 0.3, 0.9]])
DATA = np.array([[0.5, 0.1, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.0]])
LABELS = np.array([1.0, 2.0, 0.0])
PRESENT = np.array([1.0, 1.0, 0.0])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def score(form: str, weights=W, references=None, noise=None, unit="raw", **change):
    plain = {"gamma": 0.7, "dimension": 3, "signal_dimension": 1, "float64": True}
    labels = change.get("labels", "utility")
    config = LinearSettings(**{**plain, **change})
    s = SimpleNamespace(**{k: getattr(config, k) for k in config.__dataclass_fields__}, pairwise=config.pairwise)
    s.gamma_unit = unit  # of a game that scores several actions
    forms, _ = program_key(Cell(form, form, config, ()))
    rows = len(weights)

    def each(x):
        return jnp.broadcast_to(jnp.asarray(x), (rows, *x.shape))

    labels = LABELS if labels in ("utility", "noisy") else np.array([0.6, 0.8, 0.0])
    follower = Follower(jnp.asarray(weights), (), each(DATA), each(0 * DATA), each(labels), each(PRESENT))
    function = score_function(
        LINEAR, s, forms, jnp.asarray(forms.index(FORMS[form])), follower, label_function(LINEAR, s)
    )
    references = np.zeros_like(Y) if references is None else references
    return np.asarray(function(jnp.asarray(Y), jnp.asarray(references), noise)), s


def utility(s):
    return np.array([float(LINEAR.utility(s, jnp.asarray(y))) for y in Y])


def test_elementwise_forms():
    reward, norm = Y @ W[0], (Y**2).sum(1)
    got, s = score("relaxed")
    excess = reward - utility(s)
    np.testing.assert_allclose(got, reward - 0.7 * norm * excess, rtol=1e-12)
    np.testing.assert_allclose(score("rlhf")[0], reward)
    np.testing.assert_allclose(score("practical")[0], reward - 0.7 * norm)
    np.testing.assert_allclose(score("proximal")[0], reward - excess * 0.7 * norm / (1 + 0.7 * norm))
    base = score("proximal", steering_labels="baseline")[0]
    np.testing.assert_allclose(base, reward - (reward - 1.5) * 0.7 * norm / (1 + 0.7 * norm))


def test_batch_influence_asks_about_the_mean_action():
    reward = Y @ W[0]
    got, s = score("relaxed", influence="batch")
    expected = reward - 0.7 * (Y @ Y.mean(0)) * (reward - utility(s))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_pairwise_forms_compare_with_the_reference():
    references = np.array([[0.1, 0.2, 0.3], [0.0, -0.4, 0.2]])
    got, s = score("relaxed", labels="preference", references=references)
    difference, margin = Y - references, (Y - references) @ W[0]
    behind = np.array([float(LINEAR.utility(s, jnp.asarray(y))) for y in references])
    p = 1 / (1 + np.exp(-(utility(s) - behind)))
    gram = (Y * difference).sum(1)
    np.testing.assert_allclose(got, Y @ W[0] - 0.7 * gram * (1 / (1 + np.exp(-margin)) - p), rtol=1e-12)


def test_exact_uses_the_hessian_of_the_reward_model_s_data():
    got, s = score("exact", gamma=1.0, damping=0.2)
    hessian = DATA[:2].T @ DATA[:2] / 2 + 0.2 * np.eye(3)
    products = np.array([y @ np.linalg.solve(hessian, y) for y in Y])
    np.testing.assert_allclose(got, Y @ W[0] - products * (Y @ W[0] - utility(s)), rtol=1e-10)


def test_one_unrolled_step_is_relaxed():
    one = score("unrolled", unrolled_steps=1, unrolled_rate=0.3, gamma=1.0)[0]
    np.testing.assert_allclose(one, score("relaxed", gamma=0.3)[0], rtol=1e-12)


def test_ensemble_pays_the_lower_bound():
    weights = np.array([[0.5, -0.2, 0.1], [0.1, 0.4, 0.0], [0.3, 0.3, 0.3]])
    rewards = Y @ weights.T
    got, _ = score("rlhf", weights=weights, ensemble=3, confidence=2.0)
    np.testing.assert_allclose(got, rewards.mean(1) - 2 * rewards.std(1), rtol=1e-6)
    got, _ = score("practical", weights=weights, ensemble=3)
    np.testing.assert_allclose(got, rewards.mean(1) - 0.7 * (Y**2).sum(1) / 3, rtol=1e-12)


def test_shaping():
    reward = Y @ W[0]
    np.testing.assert_allclose(score("rlhf", shaping="clip", shaping_scale=0.2)[0], np.minimum(reward, 0.2))
    reference = np.array([[0.1, 0.2, 0.3], [0.0, -0.4, 0.2]])
    got, _ = score("rlhf", shaping="par", shaping_scale=2.0, references=reference)
    centred = (reward - reference @ W[0]) / 2
    np.testing.assert_allclose(got, 2 / (1 + np.exp(-centred)), rtol=1e-12)


def test_gradient_regularisation_takes_the_slope_s_square_off():
    matrix = np.array([[2.0, 0.3], [0.3, 1.0]])
    y = jnp.array([0.4, -1.0])
    s = SimpleNamespace(gradient="autodiff", gradient_regularisation=0.5, difference_step=1e-6)

    def objective(y):
        return -0.5 * y @ jnp.asarray(matrix) @ y

    expected = -matrix @ np.asarray(y) - 0.5 * matrix @ matrix @ np.asarray(y)
    np.testing.assert_allclose(gradient(objective, s)(y), expected, rtol=1e-12)
    s.gradient = "finite-difference"
    np.testing.assert_allclose(gradient(objective, s)(y), expected, atol=1e-5)


@pytest.mark.parametrize("labels", ["noisy", "sampled"])
def test_noise_enters_labels(labels):
    utility = {"dimension": 3, "signal_dimension": 1, "ideal": 2.0, "utility_height": 10.0, "utility_sharpness": 0.3}
    s = SimpleNamespace(labels=labels, pairwise=labels == "sampled", label_noise=2.0, preference_scale=1.0, **utility)
    label = label_function(LINEAR, s)
    y, reference = jnp.asarray(Y[0]), jnp.zeros(3)
    values = [float(label(y, reference, jnp.asarray(e))) for e in (-1.0, 1.0)]
    if labels == "noisy":
        assert values[1] - values[0] == pytest.approx(4.0)
    else:
        draws = jnp.asarray(np.random.default_rng(0).standard_normal(20_000))
        share = float(jax.vmap(lambda e: label(y, reference, e))(draws).mean())
        assert set(values) <= {0.0, 1.0}
        gap = float(LINEAR.utility(s, y) - LINEAR.utility(s, reference))
        assert share == pytest.approx(1 / (1 + np.exp(-gap)), abs=0.01)


@pytest.mark.parametrize(("form", "labels", "spread"), [("practical", "utility", True), ("relaxed", "utility", False),
                                                         ("relaxed", "preference", True)])  # fmt: skip
def test_gamma_as_a_share_of_the_rewards_spread(form, labels, spread):
    """raw = share * s / size(S): s of the reward where the residual has no unit, else 1; see raw_gamma."""
    references = np.array([[0.1, 0.2, 0.3], [0.0, -0.4, 0.2]])
    reward, gram = Y @ W[0], (Y * (Y - references if labels == "preference" else Y)).sum(1)
    size = gram.std() if form == "practical" else np.sqrt((gram**2).mean())
    raw = 0.5 * (reward.std() if spread else 1.0) / size
    want, _ = score(form, labels=labels, references=references, gamma=raw)
    got, _ = score(form, labels=labels, references=references, gamma=0.5, unit="share")
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_a_share_needs_two_actions():
    with pytest.raises(ConfigError, match="gamma_unit: share needs two actions"):
        LinearSettings(gamma_unit="share")
    with pytest.raises(ConfigError, match="policy_samples of at least 2, got 1"):
        NetworkSettings(gamma_unit="share")
    found = simulate(NETWORK, ["rlhf", "practical:gamma=0.5"], [0], NetworkSettings(
        iterations=4, hidden=4, dimension=3, inner_steps=2, policy_samples=2, gamma_unit="share"))  # fmt: skip
    assert np.isfinite(found.action).all()
    assert (found.action[0] != found.action[1]).any()
