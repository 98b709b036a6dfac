"""Numbers, counts and intervals in words, the same on every page, in every table and in every sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from foresighted.statistics.collapse import Fall, Reason
from foresighted.statistics.intervals import Interval, Share
from foresighted.statistics.ratings import Rating


def count(number: int, noun: str) -> str:
    """Return a number with its noun, for example `1 seed`, `3 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(value: float) -> str:
    """Return a number as text for people: two decimals, or two significant digits where that would show 0."""
    if not math.isfinite(value):
        return "unknown"
    text = f"{value:.2f}" if value == 0 or 0.1 <= abs(value) < 1000 else f"{value:.2g}"
    return "0.00" if text == "-0.00" else text


def interval_text(interval: Interval) -> str:
    """Return `mean [low, high]`, or the mean and a remark where nothing could be resampled."""
    if not math.isfinite(interval.low):
        return f"{number(interval.mean)} [interval unknown]"
    return f"{number(interval.mean)} [{number(interval.low)}, {number(interval.high)}]"


def share_text(share: Share) -> str:
    """Return a share with its interval, in per cent."""
    return f"{share.mean:.0%} [{share.low:.0%}, {share.high:.0%}]"


def of_text(share: Share) -> str:
    """Return `successes of total` with the interval of the share, in per cent."""
    return f"{share.successes} of {share.total} [{share.low:.0%}, {share.high:.0%}]"


def rating_text(rating: Rating) -> str:
    """Return a rating with its interval, or a remark where that is unknown."""
    if rating.low is None or rating.high is None:
        return f"{rating.rating:+.2f} [interval unknown]"
    return f"{rating.rating:+.2f} [{rating.low:+.2f}, {rating.high:+.2f}]"


def methods_text(intervals: Iterable[Interval | Share | None]) -> str:
    """Return how these intervals were made, for example `Student and bootstrap intervals`."""
    found = dict.fromkeys(str(one.method) for one in intervals if one is not None)
    return f"{' and '.join(sorted(found))} intervals".strip()


def p_text(p: float | None) -> str:
    """Return a p-value for people: two significant digits, no leading zero.

    Example:
        >>> p_text(0.01812), p_text(0.8095), p_text(0.00004), p_text(1.0), p_text(None)
        ('.018', '.81', '< .001', '1', 'unknown')
    """
    if p is None:
        return "unknown"
    if p < 0.001:
        return "< .001"
    if p >= 0.995:
        return "1"
    return f"{p:.2g}".removeprefix("0").ljust(3, "0")


def p_equals(p: float | None) -> str:
    """Return `p = .018` or `p < .001`."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


REASONS = {
    Reason.COLLAPSED: "true utility fell while proxy reward did not",
    Reason.BEST_AT_THE_END: "it is best at the end",
    Reason.WITHIN_THRESHOLD: "the fall is within half the prompt-to-prompt standard deviation of the start",
    Reason.NOT_CLEAR: "the interval of the fall includes 0",
    Reason.NO_PROXY: "proxy reward is not known",
    Reason.PROXY_FELL: "proxy reward fell too",
}
"""Reasons in words."""
REASONS_OF_LOGS = {
    Reason.WITHIN_THRESHOLD: "the fall is within half the spread of the first logs",
    Reason.NOT_CLEAR: "the fall is not clear",
    Reason.PROXY_FELL: "the reward fell too",
}
"""The same of metrics without responses, where the words differ."""


def fall_text(fall: Fall) -> str:
    """Return whether a fall is a collapse, and what speaks against it."""
    if fall.corrected:
        return f"a collapse; corrected for what was looked at, the fall is at least {number(fall.low_corrected)}"
    if fall.collapsed:
        return "a collapse by itself, not once corrected for what was looked at"
    return f"not a collapse: {REASONS[fall.reason]}"


def fall_of_logs(fall: Fall, gold: str, proxy: str, steps: Sequence[int] | None = None) -> str:
    """Return how far a trusted metric fell from its best block of logs to the last, and what the proxy did.

    Args:
        fall: in places of `steps`, or in steps where there are none.
        gold: name of the trusted metric.
        proxy: name of the optimised one.
        steps: of the logs.
    """
    if fall.reason == Reason.BEST_AT_THE_END:
        return f"{gold} is best in the last logs"
    best, last = (fall.best, fall.last) if steps is None else (steps[fall.best], steps[fall.last])
    change = fall.reward_change.mean if fall.reward_change else math.nan
    least = f"at least {fall.low_corrected:.3g}; " if fall.low_corrected > 0 else "its interval includes 0; "
    told = "" if fall.collapsed else f": no collapse, {REASONS_OF_LOGS.get(fall.reason, REASONS[fall.reason])}"
    return (
        f"{gold} fell by {fall.fall.mean:.3g} ({least}{fall.threshold:.3g} counts) from its best logs (step {best}"
        f" on) to step {last}, while {proxy} changed by {change:+.3g}{told}"
    )
