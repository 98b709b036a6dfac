"""How many labels would settle whether utility fell, and whether those that are there could have shown it."""

from __future__ import annotations

import math
from statistics import NormalDist

from foresighted.statistics.collapse import FALL_SHARE
from foresighted.statistics.intervals import student
from foresighted.statistics.profile import Profile, unit


def comparisons_needed(fall: float, *, power: float, level: float = 0.95) -> int:
    """Return how many side-by-side comparisons of an early with a late response settle a fall.

        P(early preferred) = p = Phi(fall / sqrt(2))
        n = ((z_level / 2 + z_power sqrt(p (1 - p))) / (p - 1/2))^2

    Args:
        fall: of mean utility, in standard deviations of a response's utility; early and late ones independent.
        power: chance of a clear sign test if the fall is that large, in (0, 1).
        level: of the two-sided test.

    Returns:
        The number of prompts to compare, one comparison each.

    References:
        Ours; derived in docs/audit.md.
    """
    normal = NormalDist()
    share = normal.cdf(fall / math.sqrt(2))
    alpha, beta = normal.inv_cdf((1 + level) / 2), normal.inv_cdf(power)
    return math.ceil(((alpha / 2 + beta * math.sqrt(share * (1 - share))) / (share - 0.5)) ** 2)


def ratings_needed(fall: float, *, power: float, level: float = 0.95, correlation: float = 0.0) -> int:
    """Return how many rated prompts in each half settle a fall of mean utility.

        n = 2 (1 - rho) ((t_level + t_power) / fall)^2,   t: quantiles of Student's t with n - 1 degrees of freedom

    Args:
        fall: in standard deviations of a prompt's utility.
        power: chance of an interval that excludes 0 if the fall is that large, in (0, 1).
        level: of the two-sided interval.
        correlation: rho, between early and late utility of one prompt; 0 where prompts differ.

    References:
        Ours; derived in docs/audit.md.
    """
    count = 2
    while True:
        both = student((1 + level) / 2, count - 1.0) + student(power, count - 1.0)
        if count >= 2 * (1 - correlation) * (max(both, 0.0) / fall) ** 2:
            return count
        count += 1


def could_have_seen(utility: Profile) -> bool:
    """Whether a fall of the threshold's size, first row against last, would have been clear at this size."""
    last = len(utility.means) - 1
    if last == 0:
        return False
    change = utility.contrast(unit(last + 1, last) - unit(last + 1, 0))
    half = (change.high - change.low) / 2
    if utility.deviation == 0:  # one prompt, several seeds: nothing to measure the interval by
        return math.isfinite(half)
    return half <= FALL_SHARE * utility.deviation
