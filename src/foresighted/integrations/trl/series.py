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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats


class Fall(NamedTuple):
    """A fall of the trusted metric, from the block where it is surest to the last one."""

    best: int
    """Index of that block's last log."""
    size: float
    low: float
    """Lower bound, at the level that this check spends."""
    threshold: float
    proxy_change: float
    proxy_fell: bool
    """The proxy fell too: its interval is below 0, or its change below minus its own threshold."""

    @property
    def collapsed(self) -> bool:
        """Whether the metric fell while the proxy did not."""
        return self.low > self.threshold and not self.proxy_fell


def check_fall(
    gold: Sequence[float],
    proxy: Sequence[float],
    *,
    window: int,
    alpha: float,
    threshold: float,
    proxy_threshold: float,
) -> Fall | None:
    """Return the fall to the last block whose lower bound is highest, or None where no second block has just ended.

    Args:
        gold: the trusted metric, one value a log, all finite.
        proxy: the optimised metric, as many.
        window: logs w in a block, at least 2.
        alpha: chance of a false alarm that a run may spend.
        threshold: a fall up to this does not count, in units of `gold`.
        proxy_threshold: a fall of the proxy from this on counts as one, in units of `proxy`.

    References:
        Ours (docs/trl.md): the definition of collapse in docs/concepts.md, for means over different prompts.
    """
    if len(gold) % window or len(gold) < 2 * window:
        return None
    u, r = (np.asarray(values, dtype=np.float64).reshape(-1, window) for values in (gold, proxy))
    check = len(u) - 1
    means = u.mean(1)
    falls = means[:-1] - means[-1]
    best = int(falls.argmax())  # one error for all, so the largest fall has the highest lower bound
    low = float(falls[best]) - _margin(u, alpha / (check * (check + 1)) / check)
    change = float(r[-1].mean() - r[best].mean())
    fell = change < 0 and (change + _margin(r, alpha / 2) < 0 or -change > proxy_threshold)
    return Fall((best + 1) * window - 1, float(falls[best]), low, threshold, change, fell)


def _margin(blocks: NDArray[np.float64], alpha: float) -> float:
    """Return t sqrt(2 s^2 / w) at one-sided level alpha."""
    count, window = blocks.shape
    variance = float(blocks.var(axis=1, ddof=1).mean())
    return float(stats.t.isf(alpha, count * (window - 1))) * math.sqrt(2 * variance / window)
