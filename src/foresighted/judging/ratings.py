"""Bradley-Terry ratings: one number a policy, such that the difference of two is the log-odds of winning.

    P(i beats j) = sigma(t_i - t_j),    t_baseline = 0

Ties and pairs whose orders disagree count half for each side, and each pair of policies that was judged gets half a
pseudo-win for each side, so that a policy that won everything has a finite rating. For two policies this is
t = log((w + 1/2) / (l + 1/2)).

Intervals: a judgement moves the ratings by H^-1 times its score (H the information matrix), summed within each cell of
the (seeds x prompts) grid; `intervals.mean_interval` resamples seeds and prompts of those cells. So all pairs that
share a prompt, or a seed, move together. Where all judgements of a rating are alike, they say nothing of its spread:
its interval is unknown.

References:
    Bradley and Terry (1952); Hunter, "MM algorithms for generalized Bradley-Terry models" (2004). The linearised
    crossed interval is ours: docs/evaluate.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foresighted.judging.result import Rating
from foresighted.judging.rows import JudgementRow
from foresighted.judging.winrates import Array, flat, logistic_fit
from foresighted.statistics.intervals import mean_interval

_SCORE = {"win": 1.0, "loss": 0.0, "tie": 0.5, "position_bias": 0.5}
_PSEUDO = 0.5


def ratings(
    rows: Sequence[JudgementRow], policies: Sequence[str], *, seed: int, level: float
) -> dict[str, Rating] | None:
    """Return a rating a policy, the first one's being 0; None unless every policy was judged against some other.

    Args:
        rows: judgements of any pairs of `policies`; failures are passed over.
        policies: names, the baseline first.
        seed: of the bootstrap.
        level: of the intervals.

    Returns:
        Ratings in nats of odds.
    """
    judged = [row for row in rows if row.result in _SCORE]
    if len(policies) < 2 or not _connected(judged, policies):
        return None
    design, outcome, weight = _design(judged, policies)
    effect, covariance = logistic_fit(design, outcome, weight)
    moves = _moves(judged, design[: len(judged)], outcome[: len(judged)], effect, covariance)
    found = {policies[0]: Rating(0.0, None, None, 0.5)}
    for place, name in enumerate(policies[1:]):
        spread = mean_interval(moves[place], seed=seed, level=level)
        value = float(effect[place])
        known = math.isfinite(spread.low) and not flat(spread)
        low, high = (value + end - spread.mean if known else None for end in (spread.low, spread.high))
        found[name] = Rating(value, low, high, float(_sigma(effect[place])))
    return found


def _connected(judged: Sequence[JudgementRow], policies: Sequence[str]) -> bool:
    reached = {policies[0]}
    while grown := {name for row in judged for name in (row.first, row.second) if {row.first, row.second} & reached}:
        if grown <= reached:
            break
        reached |= grown
    return reached == set(policies)


def _design(judged: Sequence[JudgementRow], policies: Sequence[str]) -> tuple[Array, Array, Array]:
    """Return rows of +1 and -1 for the two policies (no column for the baseline), outcomes and weights."""
    pairs = [(row.first, row.second) for row in judged]
    pseudo = [(pair, outcome) for pair in dict.fromkeys(pairs) for outcome in (0.0, 1.0)]
    place = {name: i for i, name in enumerate(policies)}
    design = np.zeros((len(pairs) + len(pseudo), len(policies)))
    for i, (first, second) in enumerate([*pairs, *(pair for pair, _ in pseudo)]):
        design[i, place[first]] += 1
        design[i, place[second]] -= 1
    outcome = np.array([*(_SCORE[row.result] for row in judged), *(value for _, value in pseudo)])
    weight = np.r_[np.ones(len(pairs)), np.full(len(pseudo), _PSEUDO)]
    return design[:, 1:], outcome, weight


def _moves(judged: Sequence[JudgementRow], design: Array, outcome: Array, effect: Array, covariance: Array) -> Array:
    """Return how far each cell moves each rating, times the number of cells, shape (ratings, seeds, prompts)."""
    seeds = {name: i for i, name in enumerate(sorted({row.seed for row in judged}))}
    prompts = {name: i for i, name in enumerate(sorted({row.prompt_id for row in judged}))}
    move = ((outcome - _sigma(design @ effect))[:, None] * design) @ covariance
    cells = np.zeros((len(effect), len(seeds), len(prompts)))
    for row, of_row in zip(judged, move, strict=True):
        cells[:, seeds[row.seed], prompts[row.prompt_id]] += of_row
    return cells * (len(seeds) * len(prompts))


def _sigma(value: Array) -> Array:
    from scipy.special import expit

    result: Array = expit(value)
    return result
