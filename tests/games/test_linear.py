from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foresighted.games import LINEAR, LinearSettings, simulate

pytestmark = pytest.mark.slow

PUBLISHED = LinearSettings(gradient="finite-difference", float64=True)
ARMS = ("rlhf", "relaxed", "practical")
OWN = Path(__file__).parent / "linear_seed0_points.json"
SHARED = Path(__file__).parents[3] / "shared" / "reference" / "linear_seed0.json"


@pytest.fixture(scope="module")
def seed0():
    return simulate(LINEAR, ARMS, [0], PUBLISHED)


def test_equals_points_of_the_published_trajectories(seed0):
    reference = json.loads(OWN.read_text())
    for i, arm in enumerate(ARMS):
        for name in ("signal", "noise", "utility"):
            ours = getattr(seed0, name)[i, 0, reference["iterations"]]
            np.testing.assert_allclose(ours, reference[arm][name], rtol=0, atol=1e-9)


@pytest.mark.skipif(not SHARED.is_file(), reason="the whole reference lies outside the repository")
def test_equals_the_whole_published_trajectories(seed0):
    reference = json.loads(SHARED.read_text())
    for i, arm in enumerate(ARMS):
        for name in ("signal", "noise", "utility"):
            assert len(reference[arm][name]) == 301
            np.testing.assert_allclose(getattr(seed0, name)[i, 0], reference[arm][name], rtol=0, atol=1e-9)


def naive(s: LinearSettings, form: str, gamma: float, seed: int) -> np.ndarray:
    """The linear game one number at a time: utility by iteration."""
    random = np.random.RandomState(seed)
    ideal = np.array([s.ideal if k < s.signal_dimension else 0.0 for k in range(s.dimension)])
    w = np.array([float(k < s.signal_dimension) for k in range(s.dimension)])
    w = w + random.normal(0, s.initial_noise, s.dimension)

    def utility(y):
        return s.utility_height * np.exp(-s.utility_sharpness * float((y - ideal) @ (y - ideal)))

    def objective(y):
        residual = {"rlhf": 0.0, "practical": 1.0, "relaxed": w @ y - utility(y)}[form]
        return w @ y - gamma * residual * (y @ y) - s.action_cost * (y @ y)

    y, seen = np.zeros(s.dimension), []
    for _ in range(s.iterations):
        seen.append(utility(y))
        base, slope = objective(y), np.zeros(s.dimension)
        for k in range(s.dimension):
            shifted = y.copy()
            shifted[k] += s.difference_step
            slope[k] = (objective(shifted) - base) / s.difference_step
        y = y + s.policy_step * slope
        factor = 2 if s.reward_model_gradient == "code" else 1
        w = w * (1 - s.reward_model_decay) - s.reward_model_step * factor * (w @ y - utility(y)) * y
    return np.array([*seen, utility(y)])


@pytest.mark.parametrize(
    "change",
    [
        {"action_cost": 0.02, "gamma": 0.03, "reward_model_gradient": "paper"},
        {"dimension": 12, "signal_dimension": 5, "iterations": 60, "ideal": 1.5, "policy_step": 0.05},
    ],
)
def test_equals_the_naive_game_for_other_seeds_and_parameters(change):
    s = replace(PUBLISHED, **{"iterations": 80, "dimension": 20} | change)
    found = simulate(LINEAR, ARMS, [3, 11], s)
    for i, arm in enumerate(ARMS):
        for j, seed in enumerate((3, 11)):
            expected = naive(s, arm, s.gamma if s.gamma is not None else 0.1, seed)
            np.testing.assert_allclose(found.utility[i, j], expected, rtol=0, atol=1e-9)


def test_autodiff_is_the_limit_of_forward_differences():
    s = replace(PUBLISHED, iterations=80, dimension=20)
    exact = simulate(LINEAR, ARMS, [3, 11], replace(s, gradient="autodiff")).utility
    near = simulate(LINEAR, ARMS, [3, 11], replace(s, difference_step=1e-6)).utility
    np.testing.assert_allclose(near, exact, atol=1e-4)
    single = simulate(LINEAR, ARMS, [3, 11], replace(s, gradient="autodiff", float64=False)).utility
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=2e-3)
