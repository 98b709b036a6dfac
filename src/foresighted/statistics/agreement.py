"""How far labels of people can be trusted: agreement beyond chance, the errors that it implies, and what moved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foresighted.statistics.intervals import Interval, Method, Share
from foresighted.statistics.numbers import Floats

RESAMPLES = 2000


def alpha(units: Sequence[Sequence[float]], *, seed: int = 0, level: float = 0.95) -> Interval | None:
    """Return Krippendorff's alpha of labels, 1 for agreement and 0 for chance, with a bootstrap interval over pairs.

        alpha = 1 - D_o / D_e,   D_o: mean squared difference of two labels of one pair (each pair by its labels),
                                 D_e: of any two labels

    Squared differences (the interval metric) count a tie, .5, as half way between the responses.

    Args:
        units: labels of each pair, in [0, 1], by different people; pairs with fewer than two say nothing.
        seed: of the resampling.
        level: of the interval.

    Returns:
        None where fewer than two pairs have two labels, or all labels are equal.

    References:
        Krippendorff, "Computing Krippendorff's alpha-reliability" (2011).
    """
    several = [np.asarray(own, dtype=np.float64) for own in units if len(own) > 1]
    if len(several) < 2:
        return None
    sums = np.array([[len(own), own.sum(), (own**2).sum(), _within(own)] for own in several])  # shape pairs 4
    whole = _alpha(sums.sum(0))
    if math.isnan(whole):
        return None
    random = np.random.default_rng(seed)
    weights = random.multinomial(len(several), np.full(len(several), 1 / len(several)), size=RESAMPLES)
    drawn = _alpha((weights @ sums).T)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(whole), float(low), float(high), level, 1, len(several), Method.BOOTSTRAP)


def _within(own: Floats) -> float:
    """Return the sum of squared differences over ordered couples of labels of a pair, over its labels less one."""
    return float((2 * len(own) * (own**2).sum() - 2 * own.sum() ** 2) / (len(own) - 1))


def _alpha(sums: Floats) -> Floats:
    """Return alpha of sums over pairs: of labels, of their values, of the squares, and of `_within`; shape 4 ..."""
    count, total, squares, within = sums
    expected = (2 * count * squares - 2 * total**2) / (count * (count - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = 1 - np.where(expected > 1e-12, within / count / expected, np.nan)
    return found


def error_of(agreement: float) -> float:
    """Return the share e of errors of two people who agree so often, if both err alike and independently.

    agreement = (1 - e)^2 + e^2;   one half at agreement .5 and below, where labels say nothing
    """
    return (1 - math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def worth(error: float) -> float:
    """Return how many labels without error one with a share of errors is worth, for an interval of a win share.

    observed share - .5 = (1 - 2 e) (true share - .5), so an interval of the true share is 1 / (1 - 2 e) times as
    wide, as of (1 - 2 e)^2 times the labels
    """
    return (1 - 2 * error) ** 2


def shift(before: Share, after: Share) -> Interval:
    """Return how much a share has changed, with Newcombe's hybrid score interval.

    References:
        Newcombe, "Interval estimation for the difference between independent proportions" (1998), method 10.
    """
    moved = after.mean - before.mean
    low = moved - math.hypot(after.mean - after.low, before.high - before.mean)
    high = moved + math.hypot(after.high - after.mean, before.mean - before.low)
    return Interval(moved, low, high, before.level, 1, before.total + after.total, Method.WILSON)
