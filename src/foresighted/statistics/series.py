"""Whether one metric fell while another did not, from logs of a run: one number a step, no prompts.

Logs are taken in blocks that do not overlap: w at a time while there are at most 12 such blocks, else 2 w, 3 w, ... so
that there are at most 12, aligned at the last log. With m_j the mean of block j and s^2 the variance within blocks, the
mean over all blocks or over the two that are compared, whichever is larger,

    fall_j = m_j - m_last,      lower bound  fall_j - t sqrt(2 s^2 / n),      n logs in a block.

A fall counts if, for the best block j, its lower bound is above the threshold and the proxy did not fall since. A check
is made each time w more logs are there, and the level is kept over the whole run: the k-th check spends
alpha / (k (k + 1)) (these sum to alpha), shared equally among the blocks that it compares. So a run without a fall is
called one with a chance of at most alpha where logs are independent and normal with one variance. Long blocks keep that
nearly so where logs wander; a trend within blocks widens s and makes the check late, never early. With fewer than five
blocks (evaluations are few), a straight line is taken out of each block: there is no room for being late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from foresighted.statistics.collapse import FALL_SHARE, Fall, fall_to
from foresighted.statistics.intervals import Interval, Method, student
from foresighted.statistics.numbers import Floats
from foresighted.statistics.profile import LEVEL, Profile

WINDOW = 5
"""Logs in a block."""
SPARSE_WINDOW = 3
"""The same where there are not two blocks of `WINDOW`, and for the rise of a metric that has fewer than five."""
ALPHA = 0.01
"""Chance of a false alarm over a whole run."""
MOST_BLOCKS = 12
FEWEST_BLOCKS = 5
"""Below this, a straight line is taken out of each block."""
MOST_CHECKS = 2000
FLAT_SHARE = 0.25
"""A trusted metric is flat if it rose by less than this share of the proxy's rise, each in spreads of its own logs."""


@dataclass(frozen=True)
class Blocks:
    """Means of blocks of logs: a `statistics.collapse.Series`."""

    values: Floats
    """(blocks, n)."""
    alpha: float
    """Level of a bound, one-sided."""
    straight: bool = False
    """Whether a straight line is taken out of each block before its variance is."""

    @property
    def means(self) -> Floats:
        """By block."""
        made: Floats = self.values.mean(axis=1)
        return made

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance over all blocks."""
        count, size = self.values.shape
        return int(count * (size - 1 - self.straight))

    def variance(self, *blocks: int) -> float:
        """Return s^2 for comparing some blocks; without them, over all."""
        away = self.values - self.means[:, None]
        size = self.values.shape[1]
        if self.straight:
            place = np.arange(size) - (size - 1) / 2
            away = away - np.outer(away @ place / (place @ place), place)
        own = (away**2).sum(axis=1) / (size - 1 - self.straight)
        return float(max(own.mean(), own[list(blocks)].mean() if blocks else 0.0))

    def difference(self, later: int, earlier: int) -> Interval:
        """Return the difference of two blocks -+ t sqrt(2 s^2 / n)."""
        size = self.values.shape[1]
        error = math.sqrt(2 * self.variance(later, earlier) / size)
        half = -student(self.alpha, self.freedom) * error
        mean = float(self.means[later] - self.means[earlier])
        return Interval(mean, mean - half, mean + half, 1 - 2 * self.alpha, 1, size, Method.STUDENT)

    def corrected_low(self, best: int, end: int, *, family: int) -> float:
        """Return the lower bound: the level that a check spends allows for all that was looked at."""
        return self.difference(best, end).low

    def profile(self) -> Profile:
        """Return the means with their errors, for tables and the onset of a fall."""
        count, size = self.values.shape
        error = np.eye(count) * self.variance() / size
        counts = np.full(count, size, np.int64)
        return Profile(self.means, ((error, float(self.freedom)),), counts, 1, math.sqrt(self.variance()), None)


class Cut(NamedTuple):
    """How logs make blocks."""

    start: int
    """First log that is in one."""
    size: int
    """Logs in a block."""
    blocks: int


def cut(logs: int, window: int) -> Cut:
    """Return the blocks of a check after so many logs; those after the last full window are left for the next one."""
    checks = logs // window
    size = window * max(1, math.ceil(checks / MOST_BLOCKS))
    count = checks * window // size
    return Cut(checks * window - count * size, size, count)


def blocks_of(values: Sequence[float] | Floats, window: int, alpha: float = (1 - LEVEL) / 2) -> Blocks:
    """Return the blocks of a check with one level for all bounds."""
    start, size, count = cut(len(values), window)
    own = np.asarray(values[start : start + size * count], np.float64).reshape(count, size)
    return Blocks(own, alpha, len(values) // window < FEWEST_BLOCKS)


def window_of(logs: int) -> int:
    """Return how many logs make a block of a log that is whole."""
    usual = WINDOW if logs >= 2 * WINDOW else SPARSE_WINDOW
    return max(usual, math.ceil(logs / MOST_CHECKS))


def check_fall(
    gold: Sequence[float] | Floats,
    proxy: Sequence[float] | Floats,
    *,
    window: int,
    alpha: float,
    threshold: float,
    proxy_threshold: float,
) -> Fall | None:
    """Return the fall from the best block to the last one, or None where no second block has just ended.

    `best` is the first log of its block, `last` the last one. Earlier blocks were judged when they were the last.

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
    check = len(gold) // window - 1
    trusted = blocks_of(gold, window)
    last = len(trusted.values) - 1
    trusted = replace(trusted, alpha=alpha / (check * (check + 1)) / last)
    fall = fall_to(
        last, trusted, blocks_of(proxy, window, alpha / 2),
        threshold=threshold, reward_threshold=proxy_threshold, beyond=threshold,
    )  # fmt: skip
    start, size, _ = cut(len(gold), window)
    return replace(fall, best=start + fall.best * size, last=len(gold) - 1)


class Judged(NamedTuple):
    """What a whole log says."""

    fall: Fall
    """The first fall that is a collapse, else that of the last check; in places of logs."""
    logs: int
    """Logs that were read for it."""


def judge_logs(
    gold: Floats, proxy: Floats, *, alpha: float = ALPHA, threshold: float, proxy_threshold: float
) -> Judged | None:
    """Judge a whole log as a monitor would have, check by check; None where there are no two blocks.

    Args:
        gold: (N,) trusted metric, finite.
        proxy: (N,) optimised metric, finite.
        alpha: chance of a false alarm over the whole log.
        threshold: see `check_fall`.
        proxy_threshold: see `check_fall`.
    """
    window = window_of(len(gold))
    judged = None
    for logs in range(2 * window, len(gold) + 1, window):
        fall = check_fall(
            gold[:logs], proxy[:logs], window=window, alpha=alpha, threshold=threshold, proxy_threshold=proxy_threshold
        )
        if fall is not None:
            judged = Judged(fall, logs)
            if fall.collapsed:
                break
    return judged


def counts_from(values: Sequence[float] | Floats, window: int, beside: Sequence[float] = ()) -> float:
    """Return from which fall on a metric's falls count: half of its spread in the first window.

    Args:
        values: of all logs so far.
        window: logs in a window.
        beside: standard deviations over responses that were logged with the first window; without them the spread is
            that over its logs, less a straight line while there are few.
    """
    if len(beside):
        return FALL_SHARE * math.fsum(beside) / len(beside)
    if len(values) < window:
        return 0.0
    first = np.asarray(values[:window], np.float64)[None]
    return FALL_SHARE * math.sqrt(Blocks(first, 0.5, len(values) // window < FEWEST_BLOCKS).variance())


class Flat(NamedTuple):
    """The proxy rose, and the trusted metric did not; first block against last."""

    proxy: Interval
    gold: Interval


def rose_alone(gold: Floats, proxy: Floats, *, alpha: float = ALPHA) -> Flat | None:
    """Return the rises where the proxy's is clear and the trusted metric flat, first block against last; else None.

    Clear: its lower bound is above half the spread of its logs. Flat: not clearly above 0, and less than a quarter of
    the proxy's, each in spreads of its own logs.

    Args:
        gold: (M,) trusted metric, finite.
        proxy: (N,) optimised metric, finite, of the same run.
        alpha: chance, of both sides of an interval together, that it misses.
    """
    few = len(gold) < FEWEST_BLOCKS * WINDOW
    blocks = [
        blocks_of(values, SPARSE_WINDOW if short else WINDOW, alpha / 2)
        for values, short in ((gold, few), (proxy, len(proxy) < 2 * WINDOW))
    ]
    if min(len(one.values) for one in blocks) < 2:
        return None
    trusted, paid = (one.difference(len(one.values) - 1, 0) for one in blocks)
    spreads = [math.sqrt(one.variance(0, len(one.values) - 1)) for one in blocks]
    rise = paid.mean / spreads[1] if spreads[1] else math.copysign(math.inf, paid.mean) if paid.mean else 0.0
    own = trusted.mean / spreads[0] if spreads[0] else math.copysign(math.inf, trusted.mean) if trusted.mean else 0.0
    clear = paid.low > FALL_SHARE * spreads[1]
    return Flat(paid, trusted) if clear and trusted.low <= 0 and own < FLAT_SHARE * rise else None


def paired(gold: Mapping[int, float], proxy: Mapping[int, float]) -> tuple[list[int], list[float], list[float]]:
    """Return steps, trusted metric and proxy where the first is logged.

    Where the trusted metric is logged less often, the proxy of its step is the mean of those logged since the step
    before. Both: step -> value.
    """
    steps, golds, proxies, since = [], [], [], []
    for step in sorted(gold.keys() | proxy.keys()):
        if step in proxy:
            since.append(proxy[step])
        if step in gold and since:
            steps.append(step)
            golds.append(gold[step])
            proxies.append(math.fsum(since) / len(since))
            since = []
    return steps, golds, proxies
