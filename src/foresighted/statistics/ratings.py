"""Wins against losses: the sign test, and Bradley-Terry ratings, one number a policy, whose differences are log-odds.

    P(i beats j) = sigma(t_i - t_j),    t_baseline = 0

Ties and pairs whose orders disagree count half for each side, and each pair of policies that was judged gets half a
pseudo-win for each side, so that a policy that won everything has a finite rating. For two policies this is
t = log((w + 1/2) / (l + 1/2)).

Intervals: a judgement moves the ratings by H^-1 times its score (H the information matrix), summed within each cell of
the (seeds x prompts) grid; `intervals.mean_interval` resamples seeds and prompts of those cells. So all pairs that
share a prompt, or a seed, move together. Where all judgements of a rating are alike, they say nothing of its spread:
its interval is unknown.

References:
    Bradley and Terry (1952); Hunter, "MM algorithms for generalized Bradley-Terry models" (2004); Holm, "A simple
    sequentially rejective multiple test procedure" (1979). The linearised crossed interval is ours: docs/evaluate.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foresighted.statistics.intervals import mean_interval
from foresighted.statistics.numbers import Floats, sigmoid

_PSEUDO = 0.5


class Outcome(NamedTuple):
    """How one policy fared against another on a prompt: 1 it won, 0 it lost, 1/2 neither."""

    first: str
    second: str
    score: float
    seed: int
    prompt: str


@dataclass(frozen=True)
class Rating:
    """Bradley-Terry rating of a policy in nats of odds, against the baseline's 0; null bounds for the baseline, and
    where nothing shows the spread."""

    rating: float
    low: float | None
    high: float | None
    beats_baseline: float
    """Probability of winning a decided pair against the baseline that the rating stands for."""


def ratings(judged: Sequence[Outcome], policies: Sequence[str], *, seed: int, level: float) -> dict[str, Rating] | None:
    """Return a rating a policy, the first one's being 0; None unless every policy was judged against some other.

    Args:
        judged: outcomes of any pairs of `policies`.
        policies: names, the baseline first.
        seed: of the bootstrap.
        level: of the intervals.
    """
    if len(policies) < 2 or not _connected(judged, policies):
        return None
    design, outcome, weight = _design(judged, policies)
    effect, covariance = logistic_fit(design, outcome, weight)
    moves = _moves(judged, design[: len(judged)], outcome[: len(judged)], effect, covariance)
    found = {policies[0]: Rating(0.0, None, None, 0.5)}
    for place, name in enumerate(policies[1:]):
        spread = mean_interval(moves[place], seed=seed, level=level)
        value = float(effect[place])
        known = math.isfinite(spread.low) and not spread.flat
        low, high = (value + end - spread.mean if known else None for end in (spread.low, spread.high))
        found[name] = Rating(value, low, high, sigmoid(value))
    return found


def _connected(judged: Sequence[Outcome], policies: Sequence[str]) -> bool:
    reached = {policies[0]}
    for _ in policies:
        reached |= {name for row in judged if {row.first, row.second} & reached for name in (row.first, row.second)}
    return reached == set(policies)


def _design(judged: Sequence[Outcome], policies: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Return rows of +1 and -1 for the two policies (no column for the baseline), outcomes and weights."""
    pairs = [(row.first, row.second) for row in judged]
    pseudo = [(pair, outcome) for pair in dict.fromkeys(pairs) for outcome in (0.0, 1.0)]
    place = {name: i for i, name in enumerate(policies)}
    design = np.zeros((len(pairs) + len(pseudo), len(policies)))
    for i, (first, second) in enumerate([*pairs, *(pair for pair, _ in pseudo)]):
        design[i, place[first]] += 1
        design[i, place[second]] -= 1
    outcome = np.array([*(row.score for row in judged), *(value for _, value in pseudo)])
    weight = np.r_[np.ones(len(pairs)), np.full(len(pseudo), _PSEUDO)]
    return design[:, 1:], outcome, weight


def _moves(judged: Sequence[Outcome], design: Floats, outcome: Floats, effect: Floats, covariance: Floats) -> Floats:
    """Return how far each cell moves each rating, times the number of cells, shape (ratings, seeds, prompts)."""
    from scipy.special import expit

    seeds = {name: i for i, name in enumerate(sorted({row.seed for row in judged}))}
    prompts = {name: i for i, name in enumerate(sorted({row.prompt for row in judged}))}
    move = ((outcome - expit(design @ effect))[:, None] * design) @ covariance
    cells = np.zeros((len(effect), len(seeds), len(prompts)))
    for row, of_row in zip(judged, move, strict=True):
        cells[:, seeds[row.seed], prompts[row.prompt]] += of_row
    return cells * (len(seeds) * len(prompts))


def sign_test(wins: int, losses: int) -> float | None:
    """Return the two-sided exact p-value of wins against losses under even odds; None where there are neither.

    Example:
        >>> round(sign_test(188, 144), 3)
        0.018
    """
    if wins + losses == 0:
        return None
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected by Holm's step-down method for how many there are; unknown ones stay unknown.

        p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[place] = highest
    return corrected


def logistic_fit(design: Floats, outcome: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Return the coefficients of a weighted logistic regression by Newton's method, and their covariance.

        maximise sum_i w_i [ y_i log s(z_i) + (1 - y_i) log s(-z_i) ],   z = X b

    Args:
        design: X, rows by coefficients, of full rank.
        outcome: y in [0, 1], one a row.
        weight: w >= 0, one a row.

    Returns:
        Coefficients b, and the inverse of the information matrix.
    """
    from scipy.special import expit

    effect: Floats = np.zeros(design.shape[1])
    information: Floats = np.eye(len(effect))
    for _ in range(100):
        share = expit(design @ effect)
        information = design.T @ (design * (weight * share * (1 - share))[:, None])
        step = np.linalg.solve(information, design.T @ (weight * (outcome - share)))
        # The likelihood is concave: a step of bounded length cannot run away from the optimum.
        effect = effect + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return effect, np.asarray(np.linalg.inv(information), np.float64)
