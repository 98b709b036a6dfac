"""How many labels would settle whether utility fell, and which responses to look at first."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from foresighted.auditing.result import LabelsNeeded, Response
from foresighted.auditing.rollouts import Rollouts
from foresighted.statistics.collapse import FALL_SHARE
from foresighted.statistics.intervals import student
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Floats, Mask, spread
from foresighted.statistics.profile import Profile

LOOK_AT = 20
LOOK_RULE = (
    "The responses of the last row whose reward exceeds most what the same prompt (else any) earned in the first row,"
    " in standard deviations, one for each prompt and each wording. If reward is utility plus error, the expected error"
    " grows in proportion to that excess."
)
LOOK_RULE_KNOWN = (
    "The responses of the last row whose reward grew most beyond their utility since the first row (same prompt, else"
    " any), each in standard deviations, one for each prompt and each wording."
)
FEWEST_RATED = 10
"""Prompts in each half that are asked for at least: rho and the standard deviation are themselves estimated."""
MOST_SHOWN = 4000
"""Characters of a text that are shown."""


def labels_needed(
    utility: Profile | None, paired: bool, *, power: float, known: int, repeated: bool
) -> LabelsNeeded | None:
    """Return how many labels would settle a fall of half a prompt-to-prompt standard deviation, by the best design.

    Args:
        utility: profile of what is known, or None.
        paired: whether the known utilities are of the same prompts in every row.
        power: wanted chance of a clear answer.
        known: labels that are there.
        repeated: whether early and late rounds answer the same prompts.
    """
    fall, level = FALL_SHARE, 0.95
    percent = f"{power:.0%}"
    if utility is None and repeated:
        labels = comparisons_needed(fall, power=power)
        sentence = (
            f"To settle it: show a person {labels} prompts with an early and a late response side by side, order"
            f" hidden; a sign test then sees a fall of half a standard deviation with power {percent}."
        )
        return LabelsNeeded("comparisons", labels, known, power, level, fall, sentence)
    correlation = 0.0
    if utility is not None and paired and utility.grid is not None and utility.grid.shape[2] > 2:
        first, last = utility.grid[0].mean(axis=0), utility.grid[-1].mean(axis=0)
        if first.std() > 0 and last.std() > 0:
            correlation = float(np.clip(np.corrcoef(first, last)[0, 1], 0.0, 0.99))
    each = max(FEWEST_RATED, ratings_needed(fall, power=power, correlation=correlation))
    same = "the same " if paired or repeated else ""
    sentence = (
        f"To settle it: rate the responses to {same}{each} prompts early and late ({2 * each} ratings); an interval"
        f" then sees a fall of half a standard deviation with power {percent}."
    )
    return LabelsNeeded("ratings", 2 * each, known, power, level, fall, sentence)


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


def look_at(arms: list[tuple[str, Rollouts, Layout, str | None]], count: int = LOOK_AT) -> tuple[Response, ...]:
    """Return the responses that a person should look at first.

    Args:
        arms: label, responses, rows and measure (`utility`, `label` or None) of each arm.
        count: how many.

    Returns:
        They, the first one first; none where the log has neither prompts nor responses.
    """
    found: list[tuple[float, int, int]] = []
    for place, (_, rollouts, layout, measure) in enumerate(arms):
        if layout.rows < 1 or "reward" not in rollouts.numbers:
            continue
        scores = excess(rollouts, layout, measure)
        candidates = np.flatnonzero(np.isfinite(scores))
        best = candidates[np.argsort(-scores[candidates], kind="stable")[: 50 * count]]
        found += [(float(scores[i]), place, int(i)) for i in best]
    found.sort(key=lambda one: (-one[0], one[1], one[2]))
    chosen: list[Response] = []
    prompts: set[tuple[str, int]] = set()
    openings: set[str] = set()
    for score, place, i in found:
        label, rollouts, layout, _ = arms[place]
        text = rollouts.texts(np.array([i]))[0]
        opening = " ".join(text.split())[:32].casefold()
        prompt = int(rollouts.prompt[i])
        if (label, prompt) in prompts or (opening and opening in openings):
            continue
        prompts.add((label, prompt))
        openings.add(opening)
        chosen.append(_response(label, rollouts, layout, i, score, text))
        if len(chosen) == count:
            break
    return tuple(chosen) if any(one.prompt or one.text for one in chosen) else ()  # numbers alone: nothing to read


def excess(rollouts: Rollouts, layout: Layout, measure: str | None) -> Floats:
    """Return how far each response of the last row exceeds the first row's reward, less the same of utility if known.

        e = (r - base r) / sd(r - base r)   [ - (U - base U) / sd(U - base U) ]

    with base the first row's mean for the same prompt of the same run, or of all where the prompt is not in it, and
    sd over the last row. (R,); nan outside the last row and where a value is not known.
    """
    rows = layout.rows_of(rollouts.round)
    last = rows == layout.rows - 1
    scores = np.where(last, 0.0, np.nan)
    for name, sign in (("reward", 1.0), (measure, -1.0)):
        if name is not None:
            risen = rollouts.numbers[name] - _base(rollouts, rollouts.numbers[name], rows == 0)
            known = risen[last & np.isfinite(risen)]
            scores = scores + sign * risen / (spread(known) or 1.0)
    return scores


def _base(rollouts: Rollouts, values: Floats, first: Mask) -> Floats:
    """Return the mean of `values` in the first row for each response's prompt and run, or of all of it."""
    known = first & np.isfinite(values)
    code = rollouts.run * len(rollouts.prompts) + rollouts.prompt
    seen, place = np.unique(code[known], return_inverse=True)
    if not len(seen):
        return np.zeros(len(values))
    means = np.bincount(place, weights=values[known]) / np.bincount(place)
    at = np.searchsorted(seen, code).clip(max=len(seen) - 1)
    made: Floats = np.where(seen[at] == code, means[at], values[known].mean())
    return made


def _response(label: str, rollouts: Rollouts, layout: Layout, i: int, score: float, text: str) -> Response:
    rows = layout.rows_of(rollouts.round)
    same = (rollouts.prompt == rollouts.prompt[i]) & (rollouts.run == rollouts.run[i]) & (rows == 0)
    earlier = np.flatnonzero(same)[:1] if layout.rows > 1 else np.zeros(0, np.int64)
    values = rollouts.numbers
    measure = next((name for name in ("utility", "label") if name in values), None)
    known = float(values[measure][i]) if measure else float("nan")
    before = float(values["reward"][earlier[0]]) if len(earlier) else None
    return Response(
        arm=label, seed=rollouts.runs[rollouts.run[i]][1], round=int(rollouts.round[i]),
        prompt=rollouts.prompts[rollouts.prompt[i]][:MOST_SHOWN], kind=rollouts.kinds[rollouts.prompt[i]],
        text=text[:MOST_SHOWN], reward=float(values["reward"][i]), utility=known if np.isfinite(known) else None,
        excess=score,
        earlier_round=int(rollouts.round[earlier[0]]) if len(earlier) else None,
        earlier_text=rollouts.texts(earlier)[0][:MOST_SHOWN] if len(earlier) else None,
        earlier_reward=before if before is not None and np.isfinite(before) else None,
    )  # fmt: skip
