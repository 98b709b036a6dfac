"""What a comparison of arms says, as numbers and in plain English: as true of a wished result as of any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from foresighted.statistics.collapse import Fall, Reason
from foresighted.statistics.intervals import Interval, Share
from foresighted.statistics.wording import count, fall_text, interval_text, methods_text, of_text
from foresighted.store.rows import plain

MOST_NAMED = 6
"""Unfinished runs that a sentence names."""


@dataclass(frozen=True)
class Labels:
    """Preferences that one run read: for the initial pairs, then for selection and training."""

    seed: int
    initial: int
    later: int
    total: int


@dataclass(frozen=True)
class Evaluated:
    """Held-out means after `round` rounds. `gap`: growth of proxy reward minus growth of true utility since the first
    evaluated round, each in prompt-to-prompt standard deviations of that round."""

    round: int
    utility: Interval | None
    reward: Interval
    gap: Interval | None
    kl: Interval | None
    tokens: Interval
    distinct_1: Interval
    distinct_2: Interval


@dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest over seeds."""

    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Trained:
    """One training round: each column of `RoundRow` that is known, over seeds."""

    round: int
    columns: Mapping[str, Spread]


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison. Differences are `this arm - baseline` on the seeds both have; None where unknown."""

    label: str
    finished: bool
    seeds: tuple[int, ...]
    last_round: int
    labels: tuple[Labels, ...]
    evaluated: tuple[Evaluated, ...]
    trained: tuple[Trained, ...]
    final_utility: Interval | None
    best_utility: Interval | None
    final_reward: Interval
    collapse: Fall | None
    """Of the mean over seeds."""
    to_last: Fall | None
    """The fall to the last round, where `collapse` is one to an earlier round; else None."""
    seed_collapses: tuple[Fall, ...]
    collapsed_share: Share | None
    utility_change: Interval | None
    """From the first evaluated round to the last, as is `reward_change`; None with a single one."""
    reward_change: Interval | None
    utility_difference: Interval | None
    reward_difference: Interval | None
    earlier_differences: Mapping[str, Interval]
    """True utility less that of each arm between the baseline and this one."""


@dataclass(frozen=True)
class Comparison:
    """What the records of a comparison say. The first planned arm is the baseline."""

    planned_arms: tuple[str, ...]
    planned_seeds: tuple[int, ...]
    planned_rounds: int
    last_round: int
    prompts: int
    level: float
    any_finished: bool
    arms: tuple[Arm, ...]
    missing: tuple[str, ...]
    sentences: tuple[str, ...]
    """What was seen, in plain English, with intervals, label counts and the numbers of seeds and prompts."""

    @property
    def utility_known(self) -> bool:
        """Whether the records hold true utilities of held-out answers."""
        return any(arm.final_utility is not None for arm in self.arms)

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as plain JSON values; a bound that is infinite becomes None."""
        mapping: dict[str, Any] = plain(self)
        return mapping


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """Return what was seen, with intervals, label counts and the numbers of seeds and prompts."""
    parts = (_collapse_sentences, _difference_sentences, label_sentences, size_sentences, missing_sentences)
    return tuple(sentence for part in parts for sentence in part(comparison))


def headline(comparison: Comparison) -> str:
    """Return what was compared and how many seeds collapsed, as one sentence for somebody who reads nothing else."""
    arms, judged = comparison.arms, _judged(comparison)
    planned = "" if len(arms) == len(comparison.planned_arms) else f"{len(arms)} of "
    each = " each" if len(arms) > 1 else ""
    said = (
        f"{planned}{count(len(comparison.planned_arms), 'arm')} of iterative RLHF to round {comparison.last_round}"
        f"{' so far' if comparison.missing else ''}, {_seeds_text(comparison)}{each}, measured on"
        f" {count(comparison.prompts, 'held-out prompt')}: "
    )
    if not comparison.utility_known:
        return f"{said}no true utility was recorded, so nothing can be said about collapse."
    if not judged:
        return f"{said}too early to say anything about collapse."
    counts = [
        f"{arm.label}{'' if arm.last_round == comparison.last_round else f' (to round {arm.last_round})'}"
        f"{'' if place else ' collapsed'} in {arm.collapsed_share.successes} of {arm.collapsed_share.total}"
        f"{'' if place else ' seeds' if arm.collapsed_share.total > 1 else ' seed'}"
        for place, arm in enumerate(judged)
        if arm.collapsed_share
    ]
    return f"{said}{', '.join(counts)}."


def _seeds_text(comparison: Comparison) -> str:
    seeds = sorted({len(arm.seeds) for arm in comparison.arms})
    return count(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {count(seeds[-1], 'seed')}"


def _judged(comparison: Comparison) -> list[Arm]:
    return [arm for arm in comparison.arms if len(arm.evaluated) > 1 and arm.collapse]


def _collapse_sentences(comparison: Comparison) -> Iterable[str]:
    judged = _judged(comparison)
    if not comparison.utility_known:
        yield (
            "No true utility was recorded, so only proxy reward is known:"
            " these records can neither show nor rule out a collapse."
        )
        return
    if not judged:
        yield "Fewer than two rounds were evaluated so far, so nothing can be said about collapse yet."
        return
    collapsed = [arm.label for arm in judged if any(c.collapsed for c in (arm.collapse, *arm.seed_collapses) if c)]
    baseline = comparison.planned_arms[0]
    worse = [arm.label for arm in judged if arm.collapse and arm.collapse.reason == Reason.PROXY_FELL]
    for label in worse:
        yield f"{label} got worse, but proxy reward fell with its answers: the loop's own numbers show it."
    if baseline not in (*collapsed, *worse):
        where = f"in the baseline {baseline}" if collapsed else "in any arm or seed"
        yield (
            f"No collapse was seen {where} at this size ({count(comparison.last_round, 'round')}):"
            " these records cannot show that an arm prevents it."
        )
    counts = (f"{arm.label}: {of_text(arm.collapsed_share)}" for arm in judged if arm.collapsed_share)
    yield f"Seeds that collapsed by round {comparison.last_round}, with intervals of the share: {'; '.join(counts)}."
    for arm in judged:
        yield from _fall_sentence(arm)


def _fall_sentence(arm: Arm) -> Iterable[str]:
    """Say how far an arm fell from its best evaluated round, and whether that is a collapse; silent where it rose."""
    collapse = arm.collapse
    if collapse is None or collapse.reward_change is None or collapse.reason == Reason.BEST_AT_THE_END:
        return
    whose = "" if len(arm.seeds) == 1 else "the mean over seeds of "
    yield (
        f"{arm.label}: {whose}true utility fell by {interval_text(collapse.fall)} from its best evaluated round"
        f" ({collapse.best}) to round {collapse.last}, while proxy reward changed by"
        f" {interval_text(collapse.reward_change)} ({fall_text(collapse)})."
    )
    late = arm.to_last
    if late and late.reward_change:
        yield (
            f"{arm.label}: by round {late.last} true utility had fallen by {interval_text(late.fall)}; proxy reward"
            f" then fell too (it changed by {interval_text(late.reward_change)})."
        )


def _difference_sentences(comparison: Comparison) -> Iterable[str]:
    baseline, *others = comparison.arms
    if baseline.label != comparison.planned_arms[0]:
        yield f"The baseline {comparison.planned_arms[0]} has no records yet, so no differences can be read."
        return
    for quantity in ("true utility", "proxy reward"):
        texts = []
        for arm in others:
            difference = arm.utility_difference if quantity == "true utility" else arm.reward_difference
            if difference is not None:
                texts.append(_difference_text(arm.label, difference))
        if texts:
            yield f"Final {quantity} against {baseline.label}, paired: {'; '.join(texts)}."
    for place, earlier in enumerate(others):
        found = [(arm.label, arm.earlier_differences.get(earlier.label)) for arm in others[place + 1 :]]
        texts = [_difference_text(label, difference) for label, difference in found if difference is not None]
        if texts:
            yield f"Final true utility against {earlier.label}, paired: {'; '.join(texts)}."
    unpaired = [arm.label for arm in others if arm.reward_difference is None]
    if unpaired:
        names = ", ".join(unpaired)
        yield f"Not compared with {baseline.label}, for want of a seed that reached the same round: {names}."


def _difference_text(label: str, difference: Interval) -> str:
    ended = f"ended {'higher' if difference.mean > 0 else 'lower'}"
    said = ended if difference.excludes_zero else "shows no clear difference"
    return f"{label} {said} ({interval_text(difference)}, {count(difference.seeds, 'seed')})"


def label_sentences(comparison: Comparison) -> Iterable[str]:
    """Return how many labels the arms read."""
    totals = {arm.label: sorted({labels.total for labels in arm.labels}) for arm in comparison.arms}
    shown = {label: f"{low[0]}" if len(low) == 1 else f"{low[0]} to {low[-1]}" for label, low in totals.items()}
    if len(set(shown.values())) == 1:
        each = "Every arm" if len(shown) > 1 else "The arm"
        yield f"{each} read {next(iter(shown.values()))} labels a seed, the initial pairs included."
        return
    counts = ", ".join(f"{label}: {count}" for label, count in shown.items())
    yield (
        f"The arms did not read the same number of labels (a seed, the initial pairs included; {counts}),"
        " so a difference between them may be owed to labels as well as to steering."
    )


def size_sentences(comparison: Comparison) -> Iterable[str]:
    """Return for how many seeds and prompts all is said, and how brackets were made."""
    seeds = sorted(len(arm.seeds) for arm in comparison.arms)
    made = f"{comparison.level:.0%} {methods_text(_intervals(comparison))}"
    yield (
        f"All this is for {_seeds_text(comparison)} an arm and {count(comparison.prompts, 'held-out prompt')}, the"
        f" same in every run and round; brackets are {made}, not corrected for how many there are."
    )
    if seeds[0] == 1:
        yield "With one seed only prompts are resampled: such an interval does not speak about other seeds."
    elif seeds[0] < 5:
        yield (
            f"{seeds[0]} seeds are few: intervals are widened for it,"
            " and a difference that is not seen may still exist."
        )


def _intervals(comparison: Comparison) -> Iterable[Interval | Share | None]:
    for arm in comparison.arms:
        yield from (arm.final_utility, arm.final_reward, arm.collapsed_share)
        yield arm.collapse.fall if arm.collapse else None


def missing_sentences(comparison: Comparison) -> Iterable[str]:
    """Return which runs are not finished; nothing where all are."""
    if not comparison.missing:
        return
    if not comparison.any_finished:
        yield f"No run is finished: everything here stops at round {comparison.last_round}, the last that all share."
    more = len(comparison.missing) - MOST_NAMED
    told = [*comparison.missing[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]
    yield f"Not finished: {'; '.join(told)}."
    partial = [arm.label for arm in comparison.arms if not arm.finished]
    if comparison.any_finished and partial:
        yield f"Shown only as far as it got: {', '.join(partial)}."
