"""Trust control against a twin in NumPy, and what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from foresighted.errors import ConfigError
from foresighted.games import LINEAR, NETWORK, GameSettings, LinearSettings, NetworkSettings, simulate
from foresighted.games.game import load_game
from foresighted.games.plan import arm_cells
from foresighted.games.run import Request, sweep
from foresighted.games.settings import setting
from foresighted.games.trust import Trust, controlled, trusted

pytestmark = pytest.mark.slow

BANDIT = load_game(f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'bandit_game.py'}:BANDIT")
TINY = LinearSettings(iterations=60, dimension=4, signal_dimension=2, float64=True, ideal=1.0)


class Twin:
    """The rule, with the ratio and the variance written out."""

    def __init__(self, s):
        self.s, self.tau, self.p, self.a, self.v = s, s.trust_start, 0.0, 0.0, 0.0

    def told(self, predicted, realised):
        s, d = self.s, self.s.trust_decay
        self.v = d * self.v + (1 - d) * ((realised - predicted) - (self.a - self.p)) ** 2
        self.p, self.a = d * self.p + (1 - d) * predicted, d * self.a + (1 - d) * realised
        if self.p <= 0:
            return
        ratio, doubt = self.a / self.p, s.trust_evidence * (1 - d) * np.sqrt(self.v / (1 + d)) / self.p
        if ratio - doubt > s.trust_grow_above:
            self.tau *= s.trust_grow
        elif ratio + doubt < s.trust_shrink_below:
            self.tau *= s.trust_shrink
        self.tau = min(max(self.tau, s.trust_least), s.trust_most)


@pytest.mark.parametrize("evidence", [0.0, 1.5])
def test_the_rule_equals_its_twin(evidence):
    s = LinearSettings(trust_evidence=evidence, trust_start=0.5, trust_least=0.2)
    random, twin, seen = np.random.default_rng(0), Twin(s), []
    with jax.enable_x64(True):
        state = Trust(*map(np.float64, (0.5, 0.0, 0.0, 0.0)))
        for _ in range(300):
            predicted, realised = random.normal(0.2, 0.5), random.normal(0.1, 0.5)
            state = controlled(s, state, predicted, realised, True)
            twin.told(predicted, realised)
            seen.append(twin.tau)
            np.testing.assert_allclose(state, (twin.tau, twin.p, twin.a, twin.v), rtol=1e-9)
        assert controlled(s, state, 5.0, -5.0, False) == state  # nothing to compare with yet
    assert min(np.diff(seen)) < 0 < max(np.diff(seen))


def played_by_hand(s, seed):
    """The linear game with trust control, a number at a time: utility and tau by iteration."""
    draws, twin = LINEAR.round_draws(s, seed), Twin(s)
    ideal = np.where(np.arange(s.dimension) < s.signal_dimension, s.ideal, 0.0)
    w = np.where(np.arange(s.dimension) < s.signal_dimension, 1.0, 0.0)
    w = w + s.initial_noise * LINEAR.start_draws(s, seed, 0)

    def utility(y):
        return s.utility_height * np.exp(-s.utility_sharpness * ((y - ideal) ** 2).sum(-1))

    def says(actions):
        return 1 / (1 + np.exp(-actions @ w)) if s.pairwise else actions @ w

    y, before, seen = np.zeros(s.dimension), None, [(utility(np.zeros(s.dimension)), s.trust_start)]
    for t in range(s.iterations):
        y = y + twin.tau * s.policy_step * (w - 2 * s.action_cost * y)
        seen.append((utility(y), twin.tau))
        actions = y + s.exploration * draws["explored"][t].astype(np.float64)
        if s.pairwise:
            labels = 1 / (1 + np.exp(-s.preference_scale * (utility(actions) - utility(np.zeros(s.dimension)))))
        else:
            labels = utility(actions) + s.label_noise * draws["noise"][t, :-1].astype(np.float64)
        if before is not None:
            twin.told(says(actions).mean() - says(before[0]).mean(), labels.mean() - before[1].mean())
        before = actions, labels
        slope = (says(actions) - labels) if s.pairwise else 2 * (says(actions) - labels)
        w = w * (1 - s.reward_model_decay) - s.reward_model_step * (slope[:, None] * actions).mean(0)
    return np.array(seen).T


@pytest.mark.parametrize(
    "change",
    [
        {"labels": "noisy", "trust_evidence": 0.3, "label_noise": 0.5, "policy_step": 0.1, "reward_model_step": 0.05},
        {"labels": "preference", "trust_evidence": 0.0, "policy_step": 0.6, "reward_model_step": 0.5},
    ],
)
def test_a_game_equals_its_twin(change):
    s = replace(TINY, control="trust", labels_per_round=3, exploration=0.2, **change)
    found = simulate(LINEAR, ["rlhf"], [1, 4], s)
    for j, seed in enumerate((1, 4)):
        utility, tau = played_by_hand(s, seed)
        np.testing.assert_allclose(found.tau[0, j], tau, rtol=1e-9)
        np.testing.assert_allclose(found.utility[0, j], utility, rtol=0, atol=1e-9)
        assert (np.diff(tau) < 0).any(), "the case must shrink tau, or it tests nothing"
        assert (np.diff(tau) > 0).any()


def test_all_steps_of_the_leader_are_scaled_and_nothing_else():
    s = NetworkSettings()
    made = trusted(NETWORK, s, Trust(0.5, 0.0, 0.0, 0.0))
    assert (made.policy_step, made.final_policy_step) == (0.025, 0.0005)
    assert (s.policy_step, s.final_policy_step) == (0.05, 0.001)
    assert replace(made, policy_step=0.05, final_policy_step=0.001) == s


def test_a_game_of_ones_own_needs_to_write_nothing():
    found = simulate(BANDIT, ["rlhf:control=trust:trust_evidence=0"], [0, 1], BANDIT.settings(iterations=20))
    assert np.isfinite(found.utility).all()
    assert (found.tau[0] != 1).any()


def test_a_game_whose_step_has_another_name_is_told():
    @dataclass(frozen=True)
    class Whole(GameSettings):
        policy_step: int = setting(1, "policy", "a step that no number may scale")

    for game, words in (
        (replace(BANDIT, leader_steps=("rate",)), "no setting rate of type float"),
        (replace(BANDIT, settings=Whole), "no setting policy_step of type float"),
        (replace(BANDIT, leader_steps=()), r"name its step sizes in Game\(leader_steps=...\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            arm_cells(game, ["rlhf:control=trust"], game.settings())
        arm_cells(game, ["rlhf"], game.settings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trust_start": 2.0}, "trust_start: got 2.0, must lie within trust_least 0.001 and trust_most 1.0"),
        ({"trust_shrink_below": 0.9}, "trust_shrink_below: got 0.9, must not exceed trust_grow_above 0.75"),
        ({"control": "thrust"}, "did you mean 'trust'"),
    ],
)
def test_settings_that_do_not_fit(settings, words):
    with pytest.raises(ConfigError, match=words):
        LinearSettings(**settings)


def test_tau_is_recorded_where_there_is_one(tmp_path):
    base = LinearSettings(iterations=8, dimension=4)
    sweep(Request(game=LINEAR, base=base, arms=("rlhf",), seeds=(0,)), tmp_path)
    assert "tau" not in pq.read_schema(tmp_path / "trajectories.parquet").names
    arms = ("rlhf", "rlhf:control=trust")
    sweep(Request(game=LINEAR, base=base, arms=arms, seeds=(0,)), tmp_path, resume=True)
    rows = pq.read_table(tmp_path / "trajectories.parquet").to_pylist()
    assert [sum(row["tau"] is None for row in rows if row["arm"] == arm) for arm in arms] == [9, 0]


def test_settings_of_a_game_may_be_called_like_those_of_the_control():
    @dataclass(frozen=True)
    class Named(LinearSettings):
        trust_me: float = setting(0.0, "game", "added to the reward")

    game = replace(LINEAR, settings=Named, reward=lambda s, w, y: w @ y + s.trust_me, reward_and_norm=None)
    found = simulate(game, ["rlhf", "rlhf:trust_me=3"], [0], Named(iterations=2, dimension=3)).proxy_reward
    np.testing.assert_allclose(found[1, 0, 0] - found[0, 0, 0], 3, rtol=1e-6)
