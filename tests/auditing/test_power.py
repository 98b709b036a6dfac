"""The numbers of labels keep their promise, and the responses to look at are those with the largest error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from foresighted.auditing.power import comparisons_needed, excess, look_at, ratings_needed
from foresighted.statistics.collapse import could_have_seen
from foresighted.statistics.layout import Layout
from foresighted.statistics.profile import of_grid


@pytest.mark.parametrize("power", [0.8, 0.95])
def test_comparisons_have_the_power_that_was_asked_for(power):
    fall, random = 0.5, np.random.default_rng(0)
    count = comparisons_needed(fall, power=power)
    early = random.normal(0, 1, (4000, count)) > random.normal(-fall, 1, (4000, count))
    won = early.sum(axis=1)
    limit = stats.norm.ppf(0.975) * np.sqrt(count) / 2
    assert (won - count / 2 > limit).mean() == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_ratings_have_the_power_that_was_asked_for(correlation):
    fall, random = 0.5, np.random.default_rng(1)
    count = ratings_needed(fall, power=0.8, correlation=correlation)
    shared = random.normal(0, correlation**0.5, (4000, count))
    early, late = (shared + random.normal(0, (1 - correlation) ** 0.5, (4000, count)) for _ in range(2))
    difference = early - (late - fall)
    t = difference.mean(axis=1) / (difference.std(axis=1, ddof=1) / np.sqrt(count))
    power = (t > stats.t.ppf(0.975, count - 1)).mean()
    assert 0.77 < power < 0.87  # whole prompts: with few of them one more adds much


def test_more_power_and_smaller_falls_cost_more():
    assert comparisons_needed(0.5, power=0.9) > comparisons_needed(0.5, power=0.8) > comparisons_needed(1, power=0.8)


def test_the_responses_to_look_at_are_those_whose_reward_rose_most(logs):
    random = np.random.default_rng(0)
    prompts = 200
    effects, error = random.standard_normal(prompts), random.standard_normal(prompts)
    rewards = np.r_[effects, effects + error]
    texts = [f"early {i}" for i in range(prompts)] + [f"{i} late" for i in range(prompts)]
    table = logs.rollouts(np.repeat([0, 1], prompts), np.tile(np.arange(prompts), 2), text=texts, reward=rewards)
    layout = Layout((0, 1), (0, 1), True)
    found = look_at([("arm", table, layout, None)])
    best = np.argsort(-error)[:20]
    assert [one.text for one in found] == [f"{i} late" for i in best]
    assert found[0].earlier_text == f"early {best[0]}"
    assert found[0].round == 1
    assert found[0].excess == pytest.approx(error.max() / error.std())
    assert np.isnan(excess(table, layout, None)[:prompts]).all()


def test_known_utility_is_taken_off_and_wordings_are_shown_once(logs):
    reward = [0.0, 0.0, 0.0, 3.0, 2.0, 1.0]
    table = logs.rollouts(
        [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], text=["a", "b", "c", "same words", "same words", "other"],
        reward=reward, utility=[0.0, 0.0, 0.0, 3.0, 0.0, 0.0],
    )  # fmt: skip
    layout = Layout((0, 1), (0, 1), True)
    assert [one.text for one in look_at([("arm", table, layout, None)])] == ["same words", "other"]
    known = look_at([("arm", table, layout, "utility")])
    assert (known[0].prompt, known[0].utility) == ("q1", 0.0)


def test_power_of_a_healthy_log():
    assert could_have_seen(of_grid(_grid(100, 0.3)))
    assert not could_have_seen(of_grid(_grid(4, 3.0)))


def _grid(prompts, noise):
    random = np.random.default_rng(0)
    return random.standard_normal(prompts) + noise * random.standard_normal((6, 1, prompts))
