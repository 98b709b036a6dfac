"""The leader's total derivative is policy gradient plus steering term: docs/decomposition_game.py, solved."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

GAME = Path(__file__).parents[2] / "docs" / "decomposition_game.py"


@pytest.fixture(scope="module")
def theory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decomposition_game", GAME)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its annotations are looked up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("well_specified", [False, True])
@pytest.mark.parametrize(("loss", "paid"), [("pointwise", "reward"), ("pairwise", "reward"), ("pairwise", "margin")])
def test_total_derivative_is_policy_gradient_plus_steering_term(theory, loss, paid, well_specified):
    for seed in range(4):
        game = theory.make_game(seed, loss, paid=paid, well_specified=well_specified)
        phi = theory.optimum(game, theory.share(game.logits))
        gradient, _ = theory.gradient_and_hessian(game, theory.share(game.logits), phi)
        assert np.abs(gradient).max() <= 1e-14
        policy_gradient = theory.score_gradient(game.logits, theory.payment(game, game.logits, phi))
        steering = theory.score_gradient(game.logits, -theory.exact_penalty(game, "batch", phi))
        total = theory.total_derivative(game)
        assert np.abs(total - policy_gradient - steering).max() <= 1e-9
        assert np.abs(steering).max() > 1e-5, "a steering term of nothing proves nothing"


def test_policy_gradient_is_that_of_a_follower_who_stands_still(theory):
    game = theory.make_game(0, "pairwise", paid="reward", well_specified=False)
    phi = theory.optimum(game, theory.share(game.logits))
    expected = theory.score_gradient(game.logits, theory.payment(game, game.logits, phi))
    for i in range(game.logits.size):
        change = 1e-5 * np.eye(game.logits.size)[i].reshape(game.logits.shape)
        slope = theory.objective(game, game.logits + change, phi) - theory.objective(game, game.logits - change, phi)
        assert slope / 2e-5 == pytest.approx(expected[i], abs=1e-9)


def test_reward_and_margin_share_a_policy_gradient_but_not_a_steering_term(theory):
    """A Bradley-Terry loss knows margins alone, so the two leaders want the same until the follower answers."""
    games = [theory.make_game(0, "pairwise", paid=paid, well_specified=False) for paid in ("reward", "margin")]
    logits = games[0].logits
    phi = theory.optimum(games[0], theory.share(logits))
    policy, steering = [], []
    for game in (game._replace(logits=logits) for game in games):
        policy.append(theory.score_gradient(logits, theory.payment(game, logits, phi)))
        steering.append(theory.score_gradient(logits, -theory.exact_penalty(game, "batch", phi)))
    np.testing.assert_allclose(policy[0], policy[1], atol=1e-12)
    assert np.abs(steering[0] - steering[1]).max() > 0.01


def test_a_well_specified_follower_without_damping_leaves_nothing_to_steer(theory, monkeypatch):
    monkeypatch.setattr(theory, "DAMPING", 1e-9)
    game = theory.make_game(0, "pointwise", paid="reward", well_specified=True)
    phi = theory.optimum(game, theory.share(game.logits))
    assert np.abs(theory.exact_penalty(game, "batch", phi)).max() < 1e-6
