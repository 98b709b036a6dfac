"""Intervals: against naive twins, closed forms, and the coverage they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foresighted.errors import ConfigError, DataError
from foresighted.statistics.intervals import mean_interval, paired_interval, wilson_share
from foresighted.statistics.wording import interval_text, number


def naive_interval(grid: np.ndarray, seed: int, resamples: int, level: float) -> tuple[float, float]:
    """Replicate by replicate, from the formula in the module's docstring."""
    seeds, prompts = grid.shape
    mean = grid.mean()
    random = np.random.default_rng(seed)
    deviations = np.zeros(resamples)
    for count, effects in ((seeds, grid.mean(axis=1) - mean), (prompts, grid.mean(axis=0) - mean)):
        if count == 1:
            continue
        drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
        chi = random.chisquare(count - 1, size=resamples)
        for replicate in range(resamples):
            chosen = np.repeat(effects, drawn[replicate])
            deviations[replicate] += math.sqrt(count / chi[replicate]) * chosen.mean()
    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    return mean + low, mean + high


@pytest.mark.parametrize("shape", [(3, 7), (1, 7), (4, 1)])
def test_matches_naive_twin(shape: tuple[int, int]) -> None:
    grid = np.random.default_rng(0).normal(size=shape)
    got = mean_interval(grid, seed=5, level=0.9, resamples=400)
    assert (got.low, got.high) == pytest.approx(naive_interval(grid, 5, 400, 0.9), abs=1e-12)
    assert got.mean == pytest.approx(grid.mean())
    assert (got.seeds, got.prompts, got.level) == (*shape, 0.9)


@pytest.mark.parametrize(
    ("seeds", "prompts", "of_seed", "of_prompt", "of_answer"),
    [(1, 16, 0.0, 1.0, 0.5), (3, 16, 1.0, 0.2, 0.2), (3, 24, 0.3, 1.0, 0.3), (8, 32, 0.3, 0.3, 1.0)],
)
def test_coverage(seeds: int, prompts: int, of_seed: float, of_prompt: float, of_answer: float) -> None:
    """A 95 % interval holds the true mean (0) about that often, also for three seeds that differ a lot."""
    random = np.random.default_rng(1)
    hits = 0
    trials = 400
    for _ in range(trials):
        grid = of_seed * random.normal(size=(seeds, 1)) + of_prompt * random.normal(size=(1, prompts))
        got = mean_interval(grid + of_answer * random.normal(size=(seeds, prompts)), seed=0, resamples=1000)
        hits += got.low <= 0 <= got.high
    assert hits / trials > 0.92


def test_one_value_level_is_not_resampled_and_says_so() -> None:
    grid = np.random.default_rng(0).normal(size=(2, 6))
    assert mean_interval(grid, seed=0).resampled == "seeds and prompts"
    assert mean_interval(grid[:1], seed=0).resampled == "prompts only"
    assert mean_interval(grid[:, :1], seed=0).resampled == "seeds only"
    alone = mean_interval([[2.0]], seed=0)
    assert (alone.mean, alone.low, alone.high, alone.resampled) == (2.0, -math.inf, math.inf, "nothing")
    assert not alone.excludes_zero
    assert interval_text(alone) == "2.00 [interval unknown]"


def test_paired_difference_drops_what_both_share() -> None:
    random = np.random.default_rng(2)
    of_prompt = 10 * random.normal(size=(1, 12))
    baseline = of_prompt + 0.1 * random.normal(size=(4, 12))
    values = of_prompt + 1 + 0.1 * random.normal(size=(4, 12))
    difference = paired_interval(values, baseline, seed=0)
    assert difference.low < 1 < difference.high
    assert difference.high - difference.low < 0.5
    assert difference.excludes_zero
    alone = mean_interval(values, seed=0)
    assert alone.high - alone.low > 5
    assert difference == mean_interval(values - baseline, seed=0)


def test_equal_arms_do_not_differ() -> None:
    grid = np.random.default_rng(0).normal(size=(2, 6))
    difference = paired_interval(grid, grid, seed=0)
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert not difference.excludes_zero


def test_same_seed_same_interval() -> None:
    grid = np.random.default_rng(0).normal(size=(2, 6))
    assert mean_interval(grid, seed=3) == mean_interval(grid, seed=3)
    assert mean_interval(grid, seed=3) != mean_interval(grid, seed=4)


def test_interval_moves_and_scales_with_the_values() -> None:
    grid = np.random.default_rng(0).normal(size=(3, 6))
    base, other = mean_interval(grid, seed=0), mean_interval(5 + 2 * grid, seed=0)
    assert other.low == pytest.approx(5 + 2 * base.low)
    assert other.high == pytest.approx(5 + 2 * base.high)


def test_wilson_known_values() -> None:
    share = wilson_share(8, 10)
    assert (share.mean, share.low, share.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    none, all_ = wilson_share(0, 3), wilson_share(3, 3)
    assert (none.low, none.high) == pytest.approx((0.0, 0.5615), abs=1e-4)
    assert (all_.low, all_.high) == pytest.approx((1 - 0.5615, 1.0), abs=1e-4)


@pytest.mark.parametrize("values", [[1.0, 2.0], [[]], [[1.0, math.nan]], [[math.inf]]])
def test_bad_grids(values: list[object]) -> None:
    with pytest.raises(DataError, match="values"):
        mean_interval(values, seed=0)  # type: ignore[arg-type]


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="level: got 95"):
        mean_interval([[1.0, 2.0]], seed=0, level=95)
    with pytest.raises(ConfigError, match="resamples"):
        mean_interval([[1.0, 2.0]], seed=0, resamples=0)
    with pytest.raises(DataError, match="same seeds and prompts"):
        paired_interval([[1.0, 2.0]], [[1.0], [2.0]], seed=0)
    for successes, total in ((0, 0), (-1, 3), (4, 3)):
        with pytest.raises(DataError, match=f"{successes} of {total}"):
            wilson_share(successes, total)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (-0.0, "0.00"), (1.234, "1.23"), (0.0123, "0.012"), (-4.2, "-4.20"), (1e-9, "1e-09")],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text
