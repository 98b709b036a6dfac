"""What can be said without labels: trends of reward, text and reward model, each with an interval.

None of them is collapse: a policy that got better also earns more. Together they can be suspicious. A symptom alarms
where its interval excludes no change, it points the way of a collapsing loop, and it is larger than a limit below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foresighted.auditing.result import Symptom
from foresighted.auditing.rollouts import Rollouts
from foresighted.auditing.texts import FIRST_WORDS, Read
from foresighted.statistics.intervals import Interval, student_interval
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Floats, Mask
from foresighted.statistics.profile import LEVEL, Profile, gather, profile

REWARD = "reward"
IDLE = "groups whose responses all have one reward (share)"
_ROUNDING = 1e-9
FEWEST_OF_A_GROUP = 4
"""Candidates of a prompt from which a correlation is taken."""


@dataclass(frozen=True)
class Limit:
    """From which change on a symptom alarms: `sign` times the change, divided by the start if `relative`."""

    words: str
    sign: int
    least: float
    relative: bool = False


LIMITS = {
    REWARD: Limit("reward", +1, 0.5),
    "distinct_2": Limit("distinct word pairs", -1, 0.15),
    "alike": Limit("like openings", +1, 0.1),
    "spread": Limit("spread of reward", -1, 0.5, relative=True),
    "reward_length": Limit("correlation of reward with length", +1, 0.3),
}
"""Symptoms that can alarm. Length and KL alone never do: a healthy loop changes both."""


@dataclass(frozen=True)
class Measures:
    """Every label-free measure of an arm, by response (nan: none)."""

    layout: Layout
    rollouts: Rollouts
    read: Read

    def profile(self, values: Floats) -> Profile | None:
        """Return the profile of a measure over the rows of the layout, or None where a row has none of it."""
        return _profile(values, self.rollouts, np.isfinite(values), self.layout)

    def spread_out(self, values: Floats) -> Floats:
        """Return a value a read response as a value a response."""
        made = np.full(len(self.rollouts), np.nan)
        made[self.read.places] = values
        return made


def _profile(values: Floats, rollouts: Rollouts, known: Mask, layout: Layout) -> Profile | None:
    units = gather(rollouts, known, layout)
    return profile(values, units) if units else None


def lengths(rollouts: Rollouts) -> tuple[Floats, str]:
    """Return the length of each response and its unit: tokens where they are recorded, else characters."""
    if "tokens" in rollouts.numbers:
        return rollouts.numbers["tokens"], "tokens"
    if rollouts.text is None:
        return np.full(len(rollouts), np.nan), "characters"
    import pyarrow.compute as pc

    counted: Floats = pc.utf8_length(rollouts.text).to_numpy().astype(np.float64)
    return counted, "characters"


def symptoms(measures: Measures, training: Rollouts) -> tuple[Symptom, ...]:
    """Return the symptoms that can be measured; none with a single row.

    Args:
        measures: of the responses that the table shows.
        training: responses among which one prompt has several candidates (may be the same ones).
    """
    layout, rollouts = measures.layout, measures.rollouts
    if layout.rows < 2:
        return ()
    length, unit_of_length = lengths(rollouts)
    spread, coupling = within_prompts(training)
    paid = training.numbers.get("reward", np.zeros(0))
    own = rollouts if training is rollouts else None
    of_training = layout if own is not None else _over(training, layout)
    reward = rollouts.numbers.get("reward", np.full(len(rollouts), np.nan))
    made: list[Symptom | None] = [
        _reward(measures.profile(reward), layout.paired),
        _trend("length", f"length ({unit_of_length})", measures.profile(length)),
        _trend("distinct_2", f"distinct word pairs in a response's first {FIRST_WORDS} words (share)",
               measures.profile(measures.spread_out(measures.read.distinct_2))),
        _trend("alike", "chance that responses to two prompts begin alike (share)",
               measures.profile(measures.spread_out(measures.read.alike)), wider=2.0),
        _trend("kl", "KL from the reference policy (nats)",
               measures.profile(rollouts.numbers.get("kl", np.full(len(rollouts), np.nan)))),
        _trend("spread", "standard deviation of reward within a prompt",
               _profile(spread, training, np.isfinite(spread), of_training)),
        _trend("reward_length", "correlation of reward with length within a prompt",
               _profile(coupling, training, np.isfinite(coupling), of_training)),
        _idle(_profile(idle_groups(spread, paid), training, np.isfinite(spread), of_training)),
        _rescored(measures, reward),
    ]  # fmt: skip
    return tuple(symptom for symptom in made if symptom and math.isfinite(symptom.change.low))


def suspicious(found: tuple[Symptom, ...]) -> tuple[str, ...]:
    """Return, in words, the symptoms that together are suspicious: reward rose, and something else alarms."""
    alarming = [symptom.name for symptom in found if symptom.alarming]
    return tuple(LIMITS[name].words for name in alarming) if REWARD in alarming and len(alarming) > 1 else ()


def idle_groups(spread: Floats, reward: Floats) -> Floats:
    """Return 1 where a group's responses all have one reward, which teaches nothing, and 0 elsewhere; nan: no group.

    Args:
        spread: (R,) standard deviation of reward in each response's group, as `within_prompts` has it.
        reward: (R,).
    """
    known = np.abs(reward[np.isfinite(reward)])
    least = _ROUNDING * float(known.max(initial=0.0))
    return np.where(np.isfinite(spread), (spread <= least).astype(np.float64), np.nan)


def _idle(means: Profile | None) -> Symptom | None:
    """Return how the share of groups without variance moved, where there are any; it never alarms here."""
    return None if means is None or not means.means.any() else _trend("idle", IDLE, means)


def _over(training: Rollouts, layout: Layout) -> Layout:
    """Return rows of the training rounds, as many as the table has but at least five rounds in each."""
    rounds = np.unique(training.round)
    rows = [place * min(layout.rows, max(2, len(rounds) // 5)) // len(rounds) for place in range(len(rounds))]
    return Layout(tuple(rounds.tolist()), tuple(rows), False)


def _alarms(name: str, start: float, change: Interval) -> bool:
    limit = LIMITS.get(name)
    if limit is None:
        return False
    size = limit.sign * change.mean / (abs(start) if limit.relative and start else 1.0)
    return change.excludes_zero and size >= limit.least


def _trend(name: str, what: str, means: Profile | None, *, wider: float = 1.0) -> Symptom | None:
    if means is None:
        return None
    last = len(means.means) - 1
    change = means.difference(last, 0)
    if wider != 1.0:  # a mean over pairs of responses: each response is in it twice
        middle = change.mean
        change = change.mapped(lambda value: middle + wider * (value - middle))
    start = float(means.means[0])
    return Symptom(name, what, start, float(means.means[last]), change, _alarms(name, start, change))


def _reward(means: Profile | None, paired: bool) -> Symptom | None:
    """Return reward in prompt-to-prompt standard deviations of the first row."""
    if means is None or means.deviation == 0:
        return None
    last = len(means.means) - 1
    change = means.difference(last, 0).mapped(lambda value: value / means.deviation)
    where = "on the same prompts" if paired else "prompts differ"
    start, end = float(means.means[0]), float(means.means[last])
    what = f"reward, {where} (change in prompt-to-prompt standard deviations)"
    return Symptom(REWARD, what, start, end, change, _alarms(REWARD, start, change))


def within_prompts(rollouts: Rollouts) -> tuple[Floats, Floats]:
    """Return, at each response, its group's standard deviation of reward and correlation of reward with length.

    A group is what one run wrote for one prompt in one round.
    """
    nothing = np.full(len(rollouts), np.nan)
    if "reward" not in rollouts.numbers:
        return nothing, nothing
    use = np.flatnonzero(rollouts.known("reward"))
    order = use[np.lexsort((rollouts.prompt[use], rollouts.round[use], rollouts.run[use]))]
    keys = np.stack([rollouts.run[order], rollouts.round[order], rollouts.prompt[order]])
    group = np.cumsum(np.r_[False, (keys[:, 1:] != keys[:, :-1]).any(axis=0)]) if len(order) else order
    count = np.bincount(group).astype(np.float64)

    def centred(values: Floats) -> Floats:
        made: Floats = values - (np.bincount(group, weights=values) / count)[group]
        return made

    reward, length = centred(rollouts.numbers["reward"][order]), centred(lengths(rollouts)[0][order])
    with np.errstate(invalid="ignore", divide="ignore"):
        squares, others = np.bincount(group, weights=reward**2), np.bincount(group, weights=length**2)
        deviation = np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)
        correlation = np.bincount(group, weights=reward * length) / np.sqrt(squares * others)
        correlation = np.where(count >= FEWEST_OF_A_GROUP, correlation, np.nan)
    spread, coupling = nothing.copy(), nothing.copy()
    spread[order], coupling[order] = deviation[group], correlation[group]
    return spread, coupling


def _rescored(measures: Measures, reward: Floats) -> Symptom | None:
    """Return how far the reward model disagrees with its earlier self: the same texts, a common shift taken off."""
    known = np.isfinite(measures.read.rescored)
    changes = measures.read.rescored[known]
    deviation = float(np.nanstd(reward[measures.read.places])) if len(changes) > 1 else 0.0
    if deviation == 0:
        return None
    moved = np.abs(changes - changes.mean()) / deviation
    _, code = np.unique(measures.rollouts.prompt[measures.read.places][known], return_inverse=True)
    means = np.bincount(code, weights=moved) / np.bincount(code)
    if len(means) < 2:
        return None
    what = f"change of reward of {len(changes)} texts that were scored in several rounds, a common shift taken off"
    change = student_interval(means, level=LEVEL)
    return Symptom("rescored", f"{what} (standard deviations)", 0.0, change.mean, change, False)
