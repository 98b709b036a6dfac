"""Whether one metric fell while another did not, asked again and again while a run goes on.

Logs are taken w at a time, in blocks that do not overlap. With m_j the mean of block j and s^2 the variance within
blocks, pooled over all blocks so far,

    fall_j = m_j - m_last,      lower bound  fall_j - t sqrt(2 s^2 / w).

A fall counts if, for some j, its lower bound is above the threshold and the proxy did not fall since. The level is kept
over the whole run: the k-th check spends alpha / (k (k + 1)) (these sum to alpha), shared equally among the k blocks
that it compares, so a run without a fall is called one with a chance of at most alpha where logs are independent and
normal. A trend within blocks widens s and makes the check late, never early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from foresighted.statistics.collapse import Fall, fall_to
from foresighted.statistics.intervals import Interval, Method
from foresighted.statistics.numbers import Floats


@dataclass(frozen=True)
class Blocks:
    """Means of blocks of logs with one error for all: a `statistics.collapse.Series`."""

    values: Floats
    """(blocks, w)."""
    alpha: float
    """Level of a bound, one-sided."""

    @property
    def means(self) -> Floats:
        """By block."""
        made: Floats = self.values.mean(axis=1)
        return made

    def difference(self, later: int, earlier: int) -> Interval:
        """Return the difference of two blocks -+ t sqrt(2 s^2 / w)."""
        count, window = self.values.shape
        variance = float(self.values.var(axis=1, ddof=1).mean())
        half = float(stats.t.isf(self.alpha, count * (window - 1))) * math.sqrt(2 * variance / window)
        mean = float(self.means[later] - self.means[earlier])
        return Interval(mean, mean - half, mean + half, 1 - 2 * self.alpha, 1, window, Method.STUDENT)

    def corrected_low(self, best: int, end: int, *, family: int) -> float:
        """Return the lower bound: the level that a check spends allows for all that was looked at."""
        return self.difference(best, end).low


def check_fall(
    gold: Sequence[float],
    proxy: Sequence[float],
    *,
    window: int,
    alpha: float,
    threshold: float,
    proxy_threshold: float,
) -> Fall | None:
    """Return the fall from the best block to the last one, or None where no second block has just ended.

    Earlier blocks were judged when they were the last.

    Args:
        gold: the trusted metric, one value a log, all finite.
        proxy: the optimised metric, as many.
        window: logs w in a block, at least 2.
        alpha: chance of a false alarm that a run may spend.
        threshold: a fall up to this does not count, in units of `gold`; the lower bound must be above it.
        proxy_threshold: a fall of the proxy from this on counts as one, in units of `proxy`.

    References:
        Ours (docs/trl.md): the definition of collapse in docs/concepts.md, for means over different prompts.
    """
    if len(gold) % window or len(gold) < 2 * window:
        return None
    trusted, paid = (np.asarray(values, dtype=np.float64).reshape(-1, window) for values in (gold, proxy))
    check = len(trusted) - 1
    return fall_to(
        check, Blocks(trusted, alpha / (check * (check + 1)) / check), Blocks(paid, alpha / 2),
        threshold=threshold, reward_threshold=proxy_threshold, beyond=threshold,
    )  # fmt: skip
