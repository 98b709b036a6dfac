"""Intervals for means on a (seeds x prompts) grid, for paired differences on it, and for shares.

Every seed answers the same held-out prompts, so the two sources of chance are crossed, not nested: which seeds were
run and which prompts were asked. With m the mean, A_s the seed effects and B_p the prompt effects of a grid,

    x_sp = m + A_s + B_p + E_sp,

a replicate resamples seeds (weights w) and, independently, prompts (weights v):

    m* = m + f_S sum_s w_s A_s + f_P sum_p v_p B_p,      f_n = sqrt(n / chi2_{n-1}).

The residual E is not drawn a third time: A and B already carry it, so the interval errs on the wide side. f_n turns
the normal-like spread of resampled means into Student's, without which three seeds give intervals that are much
too narrow. The interval is the central `level` of the replicates.

References:
    Owen, "The pigeonhole bootstrap" (2007), for crossed resampling; Hesterberg, "What teachers should know about the
    bootstrap" (2015), for how narrow percentile intervals of few values are; Wilson (1927) for shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from foresighted.errors import ConfigError, DataError
from foresighted.statistics.numbers import Floats
from foresighted.store.rows import NULL

RESAMPLES = 5000
_ROUNDING = 1e-9


class Method(StrEnum):
    """How an interval was made; pages and sentences call it by this name."""

    BOOTSTRAP = "bootstrap"
    STUDENT = "Student"
    WILSON = "Wilson"
    LIKELIHOOD = "likelihood"
    """From the curvature of the likelihood."""
    EXACT = "exact"
    """There is no error: low = mean = high."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and prompts and its interval; infinite bounds where nothing tells the spread."""

    mean: float
    low: float = field(metadata={NULL: -math.inf})
    high: float = field(metadata={NULL: math.inf})
    level: float
    seeds: int
    prompts: int
    method: Method

    @property
    def resampled(self) -> str:
        """What the interval speaks about: `seeds and prompts`, `prompts only`, `seeds only` or `nothing`."""
        if self.seeds > 1:
            return "seeds and prompts" if self.prompts > 1 else "seeds only"
        return "prompts only" if self.prompts > 1 else "nothing"

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def flat(self) -> bool:
        """Whether nothing varied, up to rounding."""
        return self.high - self.low < _ROUNDING * max(1.0, abs(self.mean))

    def mapped(self, to: Callable[[float], float]) -> Interval:
        """Return the interval of a quantity that is a rising function of this one."""
        return replace(self, mean=to(self.mean), low=to(self.low), high=to(self.high))


@dataclass(frozen=True)
class Share:
    """`successes` of `total`, as a share with its interval."""

    successes: int
    total: int
    mean: float
    low: float
    high: float
    level: float
    method: Method


def mean_interval(values: ArrayLike, *, seed: int, level: float = 0.95, resamples: int = RESAMPLES) -> Interval:
    """Return the mean of a grid with a two-level bootstrap interval.

    One seed: only prompts are resampled, and `resampled` of the result says so. One prompt: only seeds are. One value
    alone: the interval is (-inf, inf), for nothing is known about its spread.

    Args:
        values: (seeds, prompts), any unit.
        seed: of the resampling; the same seed gives the same resampled seeds and prompts for grids of one shape.
        level: of the interval, in (0, 1).
        resamples: number of replicates.

    Returns:
        The interval, in the unit of the values.

    Raises:
        DataError: the grid is not two-dimensional, is empty, or holds a value that is not finite.
        ConfigError: `level` or `resamples` out of range.
    """
    _check_settings(level, resamples)
    grid = _checked(values, "values")
    seeds, prompts = grid.shape
    mean = float(grid.mean())
    if grid.size == 1:
        return Interval(mean, -math.inf, math.inf, level, seeds, prompts, Method.BOOTSTRAP)
    seed_weights, prompt_weights = _weights(seeds, prompts, resamples, seed)
    deviation = seed_weights @ (grid.mean(axis=1) - mean) + prompt_weights @ (grid.mean(axis=0) - mean)
    low, high = np.quantile(deviation, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, mean + float(low), mean + float(high), level, seeds, prompts, Method.BOOTSTRAP)


def paired_interval(
    values: ArrayLike, baseline: ArrayLike, *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean difference `values - baseline`, paired by seed and prompt, with its interval.

    Args:
        values: (seeds, prompts); row and column mean the same seed and prompt in both grids.
        baseline: (seeds, prompts), the same unit.
        seed, level, resamples: as of `mean_interval`.

    Raises:
        DataError: the grids differ in shape, or as `mean_interval`.
    """
    first, second = _checked(values, "values"), _checked(baseline, "baseline")
    if first.shape != second.shape:
        raise DataError(
            f"values and baseline: got grids of {first.shape} and {second.shape} (seeds, prompts); a paired"
            " difference needs the same seeds and prompts in both"
        )
    return mean_interval(first - second, seed=seed, level=level, resamples=resamples)


def student_interval(values: Floats, *, level: float = 0.95) -> Interval:
    """Return the mean of one value a prompt, shape (P,), with Student's interval; infinite for a single value."""
    count, mean = len(values), float(values.mean())
    half = math.inf
    if count > 1:
        half = student((1 + level) / 2, float(count - 1)) * float(values.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, level, 1, count, Method.STUDENT)


@lru_cache(maxsize=256)
def student(share: float, freedom: float) -> float:
    """Return the quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def wilson_share(successes: int, total: int, *, level: float = 0.95) -> Share:
    """Return `successes / total` with its Wilson score interval.

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        successes: how many of `total`.
        total: number of trials n, at least 1.
        level: of the interval, in (0, 1).

    Returns:
        The share, in [0, 1].

    Raises:
        DataError: `total` below 1, or `successes` outside 0..total.
        ConfigError: `level` out of range.
    """
    _check_settings(level, 1)
    if total < 1 or not 0 <= successes <= total:
        raise DataError(f"share: got {successes} of {total}; expected 0 <= successes <= total and total >= 1")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    # At the ends the bounds are exactly 0 and 1; rounding must not say 1.2e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return Share(successes, total, share, low, high, level, Method.WILSON)


def _check_settings(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level!r}; expected a share strictly between 0 and 1, for example 0.95")
    if resamples < 1:
        raise ConfigError(f"resamples: got {resamples!r}; expected at least 1, better 1000 or more")


def _checked(values: ArrayLike, name: str) -> Floats:
    grid = np.asarray(values, dtype=np.float64)
    if grid.ndim != 2 or grid.size == 0:
        raise DataError(f"{name}: got shape {grid.shape}; expected (seeds, prompts) with at least one of each")
    if not np.isfinite(grid).all():
        raise DataError(f"{name}: holds a value that is not finite; leave unknown prompts out of the grid")
    return grid


@lru_cache(maxsize=16)
def _weights(seeds: int, prompts: int, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Return the seed weights (resamples, seeds) and prompt weights (resamples, prompts), f_n included."""
    random = np.random.default_rng(seed)
    return _level(seeds, resamples, random), _level(prompts, resamples, random)


def _level(count: int, resamples: int, random: np.random.Generator) -> Floats:
    if count == 1:
        return np.zeros((resamples, 1))
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples) / count
    weights: Floats = drawn * np.sqrt(count / random.chisquare(count - 1, size=resamples))[:, None]
    weights.flags.writeable = False  # shared by every call through the cache
    return weights
