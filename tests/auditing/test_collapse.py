"""The definition against `evaluate`, the onset against brute force, and the kinds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from foresighted.alignment.comparison import judge_collapse
from foresighted.alignment.sentences import PROXY_FELL
from foresighted.auditing.collapse import could_have_seen, fallen_kinds, judge, onset, unimodal
from foresighted.auditing.layout import Layout, choose_layout
from foresighted.auditing.profile import gather, of_grid, profile


def _profiles(logs, utility, **options):
    rounds, asked, runs, columns = logs.panel(utility, **options)
    table = logs.rollouts(rounds, asked, run=runs, **columns)
    known = table.known("utility")
    layout = choose_layout(table, known)
    units = gather(table, known, layout)
    assert units is not None
    return table, layout, *(profile(table.numbers[name], units) for name in ("utility", "reward"))


@pytest.mark.parametrize("options", [{}, {"seeds": 3}, {"gain": -0.5}, {"noise": 2.0}, {"prompts": 3}])
@pytest.mark.parametrize("name", ["FALLING", "RISING", "LEVEL"])
def test_the_definition_is_that_of_evaluate(logs, name, options):
    utility = getattr(logs, name)
    _, layout, means, reward = _profiles(logs, utility, **options)
    ours = judge(means, reward, layout, family=1)
    theirs = judge_collapse(*({row: p.grid[row] for row in range(len(utility))} for p in (means, reward)))
    assert ours.by_definition == theirs.collapsed
    assert (ours.best, ours.last) == (10 * theirs.best_round, 10 * theirs.last_round)
    assert ours.fall == theirs.fall
    assert ours.threshold == pytest.approx(theirs.threshold)
    assert ours.reward_change == theirs.reward_change
    assert ours.corrected <= ours.by_definition


def test_without_reward_nothing_collapses(logs):
    _, layout, means, _ = _profiles(logs, logs.FALLING)
    fall = judge(means, None, layout, family=1)
    assert not fall.by_definition
    assert fall.reason == "proxy reward is not known"


def test_unimodal_fits_are_the_closest_ones():
    random = np.random.default_rng(0)
    values = random.standard_normal((30, 7))
    for value, fit in zip(values, unimodal(values), strict=True):
        brute = min(
            (
                np.r_[isotonic_regression(value[:mode]).x if mode else [],
                      isotonic_regression(value[mode:], increasing=False).x]
                for mode in range(8) if mode < 7
            ),
            key=lambda made: float(((made - value) ** 2).sum()),
        )  # fmt: skip
        assert ((fit - value) ** 2).sum() == pytest.approx(((brute - value) ** 2).sum())


@pytest.mark.parametrize(
    ("utility", "expected"),
    [((0, 0, 0, 0, -2, -2), 30), ((0, 1, 2, 2, 0, -2), 30), ((0, 0, -1, -2, -3, -4), 10), ((2, 0, 0, 0, 0), 0)],
)
def test_onset_of_clear_falls(logs, utility, expected):
    _, layout, means, _ = _profiles(logs, utility, noise=0.05)
    found = onset(means, layout)
    assert found.round == expected
    assert found.low <= expected <= found.high
    assert found.high - found.low <= 20


def test_onset_intervals_hold(logs):
    """A gradual fall with noise: the interval has the onset in most of 60 draws (nominal 95 %)."""
    held = 0
    for seed in range(60):
        _, layout, means, _ = _profiles(logs, (0, 0, 0, 0, 0, -0.5, -1.0, -1.5), noise=0.8, seed=seed)
        found = onset(means, layout)
        held += found.low <= 40 <= found.high
    assert held >= 50


def test_kinds_that_fell_first_come_first(logs):
    rounds, asked, runs, columns = logs.panel((0.0,) * 6, noise=0.1, prompts=30)
    fall = np.array([0, 0, -2, -2, -2, -2]), np.array([0, 0, 0, 0, -1, -1]), np.zeros(6)
    place = np.array(rounds) // 10
    utility = np.array(columns["utility"]) + np.stack(fall)[np.array(asked) % 3, place]
    kinds = tuple(("early", "late", "never")[i % 3] for i in range(30))
    table = logs.rollouts(rounds, asked, run=runs, kinds=kinds, utility=utility)
    known = table.known("utility")
    layout = choose_layout(table, known)
    found = fallen_kinds(utility, table, known, layout, best=1, threshold=0.4)
    assert [(kind.kind, kind.fell_by) for kind in found] == [("early", 20), ("late", 40), ("never", None)]
    assert found[0].fall.mean == pytest.approx(2, abs=0.2)
    assert found[0].prompts == 10


def test_power_of_a_healthy_log(logs):
    assert could_have_seen(_profiles(logs, logs.RISING, prompts=100)[2])
    assert not could_have_seen(_profiles(logs, logs.RISING, prompts=4, noise=3.0)[2])


def test_a_collapse_stays_one_when_the_reward_gives_way_later():
    utility = np.array([1.0, 1.1, 1.0, -1.0, -2.5])
    reward = np.array([0.0, 0.05, 0.1, 0.1, -1.5])
    random = np.random.default_rng(0)
    levels = random.standard_normal((2, 1, 24))
    grids = [
        values[:, None, None] + level + 0.3 * random.standard_normal((5, 1, 24))
        for values, level in zip((utility, reward), levels, strict=True)
    ]
    layout = Layout((0, 10, 20, 30, 40), (0, 1, 2, 3, 4), True)
    fall = judge(*(of_grid(grid) for grid in grids), layout, family=1)
    assert (fall.corrected, fall.last, fall.family) == (True, 30, 1)
    together = judge(of_grid(grids[0]), of_grid(grids[0] + 0.01), layout, family=1)
    assert (together.by_definition, together.reason, together.last) == (False, PROXY_FELL, 40)
    assert together.low_corrected > 0
