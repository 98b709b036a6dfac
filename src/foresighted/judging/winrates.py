"""From judgements to win rates: counts, sign test, Wilson and bootstrap intervals, position bias, length.

For a pair of policies, seed s and prompt p, let x_sp be 1 for a win of the first, -1 for a loss, 0 for a tie or for
orders that disagree, and j_sp 1 where it was judged and 0 where judging failed. The net win rate is

    net = sum x_sp / sum j_sp,      win rate = (1 + net) / 2.

Its interval comes from the grid of linearised contributions n (x_sp - net j_sp) / sum j_sp (n cells, mean 0), which
for a grid without failures are x_sp - net: `intervals.mean_interval` resamples seeds and prompts crosswise.

Where every score is the same, resampling has nothing to vary, and an interval of width 0 would claim certainty. Of n
prompts none was otherwise, so up to a share u of all prompts may be, u = z^2 / (n + z^2) being Wilson's upper bound for
0 of n. Those could go either way:

    net in [(1 - u) x - u, (1 - u) x + u].

References:
    Wilson (1927); Dubois et al., "Length-Controlled AlpacaEval" (2024), for the length model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from foresighted.judging.result import Counts, GroupResult, LengthCheck, PairResult, PositionBias
from foresighted.judging.rows import TIE, JudgementRow, counted
from foresighted.statistics.intervals import Interval, Method, Share, mean_interval, wilson_share
from foresighted.statistics.numbers import Floats
from foresighted.statistics.ratings import Outcome, logistic_fit, sign_test

_PRIOR = 0.5  # pseudo-outcomes for and against, which keep a one-sided fit finite


def pair_result(rows: Sequence[JudgementRow], *, seed: int, level: float, ordered: bool = True) -> PairResult:
    """Return what the judgements of one pair of policies say; `holm` is left to the caller.

    Args:
        rows: of one pair, all seeds and prompts.
        seed: of the bootstrap.
        level: of the intervals.
        ordered: the judge saw both orders, so that position bias is known.

    Returns:
        The result of `first` over `second`.
    """
    counts = tally(rows)
    net = net_interval(rows, seed=seed, level=level)
    rate = None if net is None else net.mapped(lambda value: (1 + value) / 2)
    seeds = sorted({row.seed for row in rows})
    return PairResult(
        first=rows[0].first,
        second=rows[0].second,
        seeds=tuple(seeds),
        prompts=len({row.prompt_id for row in rows}),
        counts=counts,
        identical=sum(row.identical for row in rows),
        failures=counted(row.failure for row in rows),
        p=sign_test(*_prompt_signs(rows)),
        holm=None,
        decided=_decided(counts, level),
        win_rate=rate,
        net=net,
        bias=position_bias(rows) if ordered else None,
        lengths=length_check(rows, level),
        categories=_groups(rows, lambda row: row.category, level),
        by_seed=_groups(rows, lambda row: str(row.seed), level) if len(seeds) > 1 else (),
    )


def outcomes(rows: Iterable[JudgementRow]) -> list[Outcome]:
    """Return the judgements that have an outcome, for ratings: ties and orders that disagree count half."""
    scores = {"win": 1.0, "loss": 0.0, "tie": 0.5, "position_bias": 0.5}
    return [
        Outcome(row.first, row.second, scores[row.result], row.seed, row.prompt_id)
        for row in rows
        if row.result in scores
    ]


def tally(rows: Iterable[JudgementRow]) -> Counts:
    """Return how often each result occurs."""
    results: list[str] = [row.result for row in rows]
    names = ("win", "tie", "loss", "position_bias", "failure")
    return Counts(*(results.count(name) for name in names))


def net_interval(rows: Sequence[JudgementRow], *, seed: int, level: float) -> Interval | None:
    """Return (wins - losses) / judged with its interval; None where nothing was judged."""
    scores, judged = grids(rows)
    if not judged.any():
        return None
    net = float(scores.sum() / judged.sum())
    grid = scores.size * (scores - net * judged) / judged.sum()
    resampled = mean_interval(grid, seed=seed, level=level)
    if resampled.flat:
        unseen = wilson_share(0, int(judged.any(axis=0).sum()), level=level).high
        centre = (1 - unseen) * net
        low, high = max(-1.0, centre - unseen), min(1.0, centre + unseen)
        return replace(resampled, mean=net, low=low, high=high, method=Method.WILSON)
    return replace(resampled.mapped(lambda value: min(max(value + net, -1.0), 1.0)), mean=net)


def grids(rows: Sequence[JudgementRow]) -> tuple[Floats, Floats]:
    """Return scores x and judged j on the (seeds, prompts) grid of a pair; a cell that is not there was not judged."""
    seeds = {name: place for place, name in enumerate(sorted({row.seed for row in rows}))}
    prompts = {name: place for place, name in enumerate(sorted({row.prompt_id for row in rows}))}
    scores, judged = np.zeros((len(seeds), len(prompts))), np.zeros((len(seeds), len(prompts)))
    for row in rows:
        place = seeds[row.seed], prompts[row.prompt_id]
        judged[place] = row.result != "failure"
        scores[place] = {"win": 1.0, "loss": -1.0}.get(row.result, 0.0)
    return scores, judged


def _prompt_signs(rows: Sequence[JudgementRow]) -> tuple[int, int]:
    """Return prompts won and lost: the sign of the sum over seeds, since seeds on one prompt are no separate draws."""
    totals = grids(rows)[0].sum(axis=0)
    return int((totals > 0).sum()), int((totals < 0).sum())


def _decided(counts: Counts, level: float) -> Share | None:
    total = counts.wins + counts.losses
    return wilson_share(counts.wins, total, level=level) if total else None


def _groups(rows: Sequence[JudgementRow], name: Callable[[JudgementRow], str], level: float) -> tuple[GroupResult, ...]:
    found = []
    for group, members in itertools.groupby(sorted(rows, key=name), key=name):
        own = list(members)
        counts = tally(own)
        found.append(GroupResult(group, counts, sign_test(*_prompt_signs(own)), _decided(counts, level)))
    return tuple(found)


def position_bias(rows: Iterable[JudgementRow]) -> PositionBias:
    """Return what the judge preferred on the pairs on which its two orders disagree."""
    biased = [row for row in rows if row.result == "position_bias"]
    half = sum(TIE in (row.forward, row.backward) for row in biased)
    first = sum(row.forward == row.first and row.backward == row.second for row in biased)
    second = len(biased) - half - first
    return PositionBias(first, second, half, sign_test(first, second))


def length_check(rows: Sequence[JudgementRow], level: float) -> LengthCheck | None:
    """Return whether the longer answer wins, and the win share at equal length; None where lengths are not known.

    The model of decided pairs is P(first wins) = sigma(a + b d), d the difference of lengths in words over its root
    mean square; the share at equal length is sigma(a), with an interval from the curvature of the likelihood. Half a
    pseudo-win for each side at each sign of d keeps one-sided outcomes finite.
    """
    known = [row for row in rows if row.first_words is not None and row.second_words is not None]
    if not known:
        return None
    words = np.array([(row.first_words, row.second_words) for row in known], np.float64)
    difference = words[:, 0] - words[:, 1]
    longer = [row for row, d in zip(known, difference, strict=True) if d > 0]
    shorter = [row for row, d in zip(known, difference, strict=True) if d < 0]
    first_longer, first_shorter = tally(longer), tally(shorter)
    won = first_longer.wins + first_shorter.losses
    total = won + first_longer.losses + first_shorter.wins
    decided = [
        (d, row.result == "win") for d, row in zip(difference, known, strict=True) if row.result in ("win", "loss")
    ]
    return LengthCheck(
        float(words[:, 0].mean()), float(words[:, 1].mean()),
        wilson_share(won, total, level=level) if total else None, sign_test(won, total - won),
        first_longer, first_shorter, _at_equal_length(decided, level),
    )  # fmt: skip


def _at_equal_length(decided: Sequence[tuple[float, bool]], level: float) -> Share | None:
    from scipy.special import expit
    from scipy.stats import norm

    lengths = np.array([d for d, _ in decided])
    if len(decided) < 2 or not lengths.any():
        return None
    scaled = lengths / math.sqrt(float((lengths**2).mean()))
    design = np.stack([np.ones(len(scaled) + 4), np.r_[scaled, 1, 1, -1, -1]], axis=1)
    outcome = np.r_[[float(won) for _, won in decided], 1, 0, 1, 0]
    weight = np.r_[np.ones(len(scaled)), np.full(4, _PRIOR)]
    effect, covariance = logistic_fit(design, outcome, weight)
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(covariance[0, 0])
    mean, low, high = (float(expit(effect[0] + shift)) for shift in (0.0, -half, half))
    return Share(sum(won for _, won in decided), len(decided), mean, low, high, level, Method.LIKELIHOOD)
