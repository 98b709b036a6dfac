"""Means and their spread against naive twins, and the choice of rows."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from foresighted.statistics.layout import Layout, choose_layout, connected
from foresighted.statistics.profile import Profile, gather, of_grid, profile

ROUNDS = (0.0, 0.5, 0.2)


def _made(logs, options, keep=None):
    rounds, asked, runs, columns = logs.panel(ROUNDS, **options)
    table = logs.rollouts(rounds, asked, run=runs, **columns)
    return table if keep is None else table.only(keep(len(table)))


def _naive_units(table, layout):
    units = {}
    rows = layout.rows_of(table.round)
    for i in range(len(table)):
        key = (int(rows[i]), int(table.run[i]), int(table.prompt[i]))
        units.setdefault(key, []).append(float(table.numbers["utility"][i]))
    return {key: math.fsum(values) / len(values) for key, values in units.items()}


def _profile(table, layout) -> Profile:
    units = gather(table, table.known("utility"), layout)
    assert units is not None
    return profile(table.numbers["utility"], units)


def test_paired_means_and_errors_are_those_of_a_paired_t_test(logs):
    table = _made(logs, {"prompts": 30})
    layout = choose_layout(table, table.known("utility"))
    assert layout.paired
    assert layout.rows == 3
    means = _profile(table, layout)
    units = _naive_units(table, layout)
    first, last = (np.array([units[row, 0, p] for p in range(30)]) for row in (0, 2))
    np.testing.assert_allclose(means.means[[0, 2]], [first.mean(), last.mean()])
    assert means.deviation == pytest.approx(first.std(ddof=1))
    test = stats.ttest_rel(last, first)
    interval = means.contrast(np.array([-1.0, 0, 1]))
    low, high = test.confidence_interval(0.95)
    np.testing.assert_allclose([interval.low, interval.high], [low, high])


def test_unpaired_errors_are_those_of_independent_samples(logs):
    random = np.random.default_rng(1)
    rounds = np.repeat([0, 1], [40, 50])
    values = random.standard_normal(90) + rounds
    table = logs.rollouts(rounds, np.arange(90), utility=values)
    layout = choose_layout(table, table.known("utility"))
    assert not layout.paired
    means = _profile(table, layout)
    error, freedom = means.error(np.array([-1.0, 1.0]))
    first, last = values[rounds == 0], values[rounds == 1]
    assert error == pytest.approx(math.sqrt(first.var(ddof=1) / 40 + last.var(ddof=1) / 50))
    assert freedom >= 38
    assert means.means[1] - means.means[0] == pytest.approx(last.mean() - first.mean())


def test_several_seeds_and_candidates_equal_the_naive_means(logs):
    options = {"prompts": 12, "seeds": 3}
    rounds, asked, runs, columns = logs.panel(ROUNDS, **options)
    twice = {name: [*values, *[value + 1 for value in values]] for name, values in columns.items()}
    table = logs.rollouts([*rounds, *rounds], [*asked, *asked], run=[*runs, *runs], **twice)
    layout = choose_layout(table, table.known("utility"))
    means = _profile(table, layout)
    units = _naive_units(table, layout)
    for row in range(3):
        naive = np.mean([units[row, s, p] for s, p in product(range(3), range(12))])
        assert means.means[row] == pytest.approx(naive)
    assert means.grid is not None
    assert means.grid.shape == (3, 3, 12)
    assert means.seeds == 3
    deviation = means.grid[0].var(axis=1, ddof=1).mean() ** 0.5
    assert means.deviation == pytest.approx(deviation)


def test_an_incomplete_panel_equals_least_squares_with_dummies(logs):
    random = np.random.default_rng(3)
    keep = random.random(3 * 60) < 0.5
    table = _made(logs, {"prompts": 60}, lambda count: np.flatnonzero(keep[:count]))
    layout = choose_layout(table, table.known("utility"))
    assert layout.paired
    units = gather(table, table.known("utility"), layout)
    assert units is not None
    assert units.design == "panel"
    means = profile(table.numbers["utility"], units)
    rows = layout.rows_of(table.round)
    names = np.unique(table.prompt)
    design = np.zeros((len(table), 2 + len(names)))
    design[np.arange(len(table)), np.searchsorted(names, table.prompt)] = 1
    for row in (1, 2):
        design[:, len(names) + row - 1] = rows == row
    found = np.linalg.lstsq(design, table.numbers["utility"], rcond=None)[0]
    np.testing.assert_allclose(means.means[1:] - means.means[0], found[len(names) :], atol=1e-9)


def test_a_complete_panel_equals_the_paired_design(logs):
    table = _made(logs, {"prompts": 25})
    layout = Layout((0, 10, 20), (0, 1, 2), True)
    units = gather(table, table.known("utility"), layout)
    assert units is not None
    from dataclasses import replace

    paired = profile(table.numbers["utility"], units)
    incomplete = profile(table.numbers["utility"], replace(units, design="panel"))
    np.testing.assert_allclose(incomplete.means, paired.means)
    for weights in (np.array([-1.0, 0.0, 1.0]), np.array([0.0, 1.0, -1.0])):
        np.testing.assert_allclose(incomplete.error(weights), paired.error(weights))
    np.testing.assert_allclose(incomplete.row(1).high, paired.row(1).high, rtol=1e-6)


@pytest.mark.slow
def test_panel_intervals_hold_what_they_say(logs):
    """Coverage of a panel's contrast at 95 %: 300 draws, so 91 % is four standard errors away."""
    held = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        table = _made(logs, {"prompts": 40, "seed": seed}, lambda n, r=random: np.flatnonzero(r.random(n) < 0.6))
        interval = _profile(table, Layout((0, 10, 20), (0, 1, 2), True)).contrast(np.array([-1.0, 0.0, 1.0]))
        held += interval.low <= 0.2 <= interval.high
    assert held / 300 > 0.91


@pytest.mark.slow
def test_corrected_low_holds_against_picking_the_best_row():
    """With no fall at all, the corrected end is above 0 for at most about 2.5 % of logs, the plain one for far more."""
    corrected = plain = 0
    for seed in range(400):
        grid = np.random.default_rng(seed).standard_normal((8, 1, 30))
        means = of_grid(grid)
        best = int(np.argmax(means.means[:-1]))
        corrected += means.corrected_low(best, len(means.means) - 1, family=1) > 0
        plain += means.contrast(np.eye(8)[best] - np.eye(8)[7]).low > 0
    assert corrected / 400 < 0.05
    assert plain > 2 * corrected
    one = of_grid(np.random.default_rng(0).standard_normal((4, 2, 30)))
    assert one.corrected_low(1, 3, family=10) < one.corrected_low(1, 3, family=1) < one.means[1] - one.means[3]


def test_paired_differences_agree_with_the_bootstrap_of_evaluate():
    grid = np.random.default_rng(5).standard_normal((2, 3, 60))
    means = of_grid(grid)
    exact, drawn = means.contrast(np.array([-1.0, 1.0])), means.difference(1, 0)
    assert drawn.mean == pytest.approx(exact.mean)
    np.testing.assert_allclose([exact.low, exact.high], [drawn.low, drawn.high], atol=0.35 * (drawn.high - drawn.low))


def test_one_value_has_an_unknown_interval(logs):
    table = logs.rollouts([0, 1], [0, 0], utility=[1.0, 2.0])
    interval = _profile(table, choose_layout(table, table.known("utility"))).contrast(np.array([-1.0, 1.0]))
    assert (interval.mean, interval.low, interval.high) == (1.0, -math.inf, math.inf)


def test_rounds_are_pooled_until_prompts_come_back(logs):
    epochs = logs.rollouts(
        np.arange(200), np.arange(200) % 40, utility=np.zeros(200)
    )  # one prompt a round, five epochs
    layout = choose_layout(epochs, epochs.known("utility"))
    assert (layout.paired, layout.rows) == (True, 5)
    assert layout.span(1) == (40, 79)
    fresh = logs.rollouts(np.repeat(np.arange(50), 4), np.arange(200), utility=np.zeros(200))
    layout = choose_layout(fresh, fresh.known("utility"))
    assert (layout.paired, layout.rows) == (False, 6)
    assert layout.rows_of(np.array([0, 49, 77])).tolist() == [0, 5, -1]


def test_rows_hang_together_or_not():
    assert connected(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 3)
    assert not connected(np.array([0, 1, 2, 2]), np.array([0, 0, 1, 1]), 3)
