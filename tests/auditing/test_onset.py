"""The onset against brute force, and on falls that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from foresighted.statistics.collapse import onset, unimodal
from foresighted.statistics.layout import choose_layout
from foresighted.statistics.profile import gather, profile


def _profiles(logs, utility, **options):
    rounds, asked, runs, columns = logs.panel(utility, **options)
    table = logs.rollouts(rounds, asked, run=runs, **columns)
    known = table.known("utility")
    layout = choose_layout(table, known)
    units = gather(table, known, layout)
    assert units is not None
    return table, layout, *(profile(table.numbers[name], units) for name in ("utility", "reward"))


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


@pytest.mark.slow
def test_onset_intervals_hold(logs):
    """A gradual fall with noise: the interval has the onset in most of 60 draws (nominal 95 %)."""
    held = 0
    for seed in range(60):
        _, layout, means, _ = _profiles(logs, (0, 0, 0, 0, 0, -0.5, -1.0, -1.5), noise=0.8, seed=seed)
        found = onset(means, layout)
        held += found.low <= 40 <= found.high
    assert held >= 50
