"""What an audit says in plain English: as true of a wished result as of any other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from foresighted.auditing.result import ArmAudit, Audit
from foresighted.auditing.rollouts import LARGEST_NUMBER, Rollouts
from foresighted.statistics.collapse import Fall, Reason
from foresighted.statistics.intervals import Interval
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Ints
from foresighted.statistics.series import ALPHA, window_of
from foresighted.statistics.wording import fall_of_logs, fall_text, interval_text, methods_text, number
from foresighted.store.aliases import listed

MOST_NAMED = 5
"""Arms, kinds of prompts or rows that a sentence names."""
PLURALS = {"reward": "rewards", "utility": "utilities", "label": "labels"}
UNEVEN = 0.1
"""Difference between the shares left out of two rows from which on the rows are named."""


def headline(audit: Audit) -> str:
    """Return the verdict as one sentence for somebody who reads nothing else."""
    worst = [arm for arm in audit.arms if arm.verdict == audit.verdict]
    names = ", ".join(arm.label for arm in worst[:MOST_NAMED])
    names += f" and {len(worst) - MOST_NAMED} more" if len(worst) > MOST_NAMED else ""
    of = f" ({len(worst)} of {len(audit.arms)} arms: {names})" if len(audit.arms) > 1 else ""
    first = worst[0]
    if first.logs:
        return _headline_of_logs(audit, worst, of)
    if audit.verdict == "collapsed":
        begun = [arm.onset.round for arm in worst if arm.onset]
        when = f", from about round {min(begun)} on{' at the earliest' if len(begun) > 1 else ''}," if begun else ""
        return (
            f"COLLAPSED{of}: the answers got worse{when} while the reward that the loop follows did not fall"
            f"{_until(worst)}."
        )
    if audit.verdict == "suspicious":
        return f"SUSPICIOUS{of}: {first.reason}. This is no proof; read the responses named below."
    if audit.verdict == "no collapse seen":
        return f"NO COLLAPSE SEEN{of}: {first.reason}."
    return f"CANNOT TELL{of}: {first.reason}."


def _headline_of_logs(audit: Audit, worst: Sequence[ArmAudit], of: str) -> str:
    first, names = worst[0], audit.source.columns
    if audit.verdict == "collapsed" and first.fall:
        begun = f", from about step {first.onset.round} on," if first.onset and len(worst) == 1 else ""
        seen = f" (clear at step {first.fall.last})" if len(worst) == 1 else ""
        return (
            f"COLLAPSED{of}: {names.get('utility', 'the trusted metric')} fell{begun} while {names.get('reward')} did"
            f" not{seen}."
        )
    proof = " This is no proof; read some responses." if audit.verdict == "suspicious" else ""
    return f"{audit.verdict.upper()}{of}: {first.reason}.{proof}"


def sentences(audit: Audit) -> tuple[str, ...]:
    """Return what was seen, with intervals, and what the numbers rest on."""
    found = list(audit.source.remarks)
    for arm in audit.arms:
        found += _of_logs(arm, audit) if arm.logs else _of_arm(arm, audit)
    found += _limits_of_logs(audit) if any(arm.logs for arm in audit.arms) else _limits(audit)
    if any(
        not arm.logs and arm.fall and arm.fall.reward_change is None and arm.verdict != "no collapse seen"
        for arm in audit.arms
    ):
        found.append(
            "To settle it: record, with each response, the reward that the loop follows. Without it nobody can say"
            " whether the loop saw its answers get worse."
        )
    if audit.labels_needed:
        found.append(audit.labels_needed.sentence)
    return tuple(found)


def left_out(label: str, rollouts: Rollouts, layout: Layout, measure: str | None) -> Iterable[str]:
    """Say how many rewards, and utilities or labels, are unknown; and in which rounds, if it is uneven.

    Args:
        label: of the arm.
        rollouts: its responses.
        layout: rows of the table; a round in which nothing is known is in none of them.
        measure: `utility`, `label`, or None.
    """
    spans, code = _spans(rollouts, layout)
    totals = np.bincount(code, minlength=len(spans))
    for name in ("reward", measure):
        if name is None or name not in rollouts.numbers or (known := rollouts.known(name)).all():
            continue
        lacking = np.bincount(code[~known], minlength=len(spans))
        shares = lacking / totals
        where = ""
        if shares.max() - shares.min() > UNEVEN:
            most = sorted(np.argsort(-shares, kind="stable")[:MOST_NAMED].tolist(), key=lambda place: spans[place])
            named = [f"{lacking[row]} of {totals[row]} of {_rounds(*spans[row])}" for row in most if lacking[row]]
            where = f", most of them here: {', '.join(named)}"
        told = f"{PLURALS[name]} absent, not finite or beyond {LARGEST_NUMBER:g}, and left out"
        yield f"{label}: {told}: {lacking.sum()} of {len(known)}{where}."


def _spans(rollouts: Rollouts, layout: Layout) -> tuple[list[tuple[int, int]], Ints]:
    """Return the first and last rounds of every row, and of every round that is in none; and which a response is of."""
    code = layout.rows_of(rollouts.round)
    alone, place = np.unique(rollouts.round[code < 0], return_inverse=True)
    code[code < 0] = layout.rows + place
    spans = [layout.span(row) for row in range(layout.rows)]
    return [*spans, *((round_, round_) for round_ in alone.tolist())], code


def _rounds(first: int, last: int) -> str:
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def _until(arms: Sequence[ArmAudit]) -> str:
    """Return until when proxy reward did not fall, where it fell after the fall of utility that is judged."""
    texts = []
    for arm in arms[:MOST_NAMED]:
        judged = next((fall for fall in (arm.fall, *arm.seed_falls) if fall and fall.corrected), None)
        if judged and judged.last != arm.rounds[-1].last:
            texts.append(f"until round {judged.last}" + (f" ({arm.label})" if len(arms) > 1 else ""))
    return f" {', '.join(texts)}" if texts else ""


def _of_arm(arm: ArmAudit, audit: Audit) -> Iterable[str]:
    name = f"{arm.label}: " if len(audit.arms) > 1 else ""
    if arm.fall:
        yield from _fall(name, arm, arm.fall)
    if arm.onset:
        of = "the mean over seeds" if len(arm.seeds) > 1 else "utility"
        yield (
            f"{name}The fall of {of} began about round {arm.onset.round} (between rounds {arm.onset.low} and"
            f" {arm.onset.high}, {arm.onset.level:.0%} interval)."
        )
    last = arm.rounds[-1] if arm.rounds else None
    if last and last.gap:
        yield (
            f"{name}Since the first row, reward grew more than utility by {interval_text(last.gap)} standard"
            " deviations."
        )
    fallen = [kind for kind in arm.kinds if kind.fell_by is not None]
    if fallen:
        texts = [f"{kind.kind} (by round {kind.fell_by}, {interval_text(kind.fall)})" for kind in fallen[:MOST_NAMED]]
        yield f"{name}Prompt kinds in the order in which they fell: {'; '.join(texts)}."
    if arm.calibration:
        first, end = arm.calibration[0], arm.calibration[-1]
        ordered = (
            f"; it ordered {interval_text(end.accuracy)} of the last pairs as the labels do" if end.accuracy else ""
        )
        yield (
            f"{name}The reward model's preference exceeded the label's by {interval_text(end.overconfidence)} in"
            f" {_rounds(end.first, end.last)} ({interval_text(first.overconfidence)} in"
            f" {_rounds(first.first, first.last)}){ordered}."
        )
    alarming = [symptom for symptom in arm.symptoms if symptom.alarming]
    if alarming:
        texts = [f"{symptom.what} {interval_text(symptom.change)}" for symptom in alarming]
        yield f"{name}Seen without labels, last row against first: {'; '.join(texts)}."


def _of_logs(arm: ArmAudit, audit: Audit) -> Iterable[str]:
    name, names = f"{arm.label}: " if len(audit.arms) > 1 else "", audit.source.columns
    if arm.fall and arm.fall.reward_change:
        yield f"{name}{fall_of_logs(arm.fall, names.get('utility', 'utility'), names.get('reward', 'reward'))}."
    known = [row for row in arm.rounds if row.utility]
    if arm.verdict == "collapsed" and len(known) > 1 and known[-1].utility:
        last = known[-1]
        yield f"{name}In steps {last.first} to {last.last}, the last, it is {interval_text(known[-1].utility)}."
    if arm.onset:
        yield (
            f"{name}The fall began about step {arm.onset.round} (between steps {arm.onset.low} and {arm.onset.high},"
            f" {arm.onset.level:.0%} interval)."
        )
    for symptom in arm.symptoms:
        if symptom.alarming:
            yield f"{name}Worth a look: {symptom.what} went from {number(symptom.start)} to {number(symptom.end)}."


def _limits_of_logs(audit: Audit) -> Iterable[str]:
    """Say what a verdict on metrics rests on, and what would settle it."""
    if not any(arm.measured_by for arm in audit.arms):
        yield (
            "To settle it: name a metric to trust with --trusted NAME (a reward of weight 0, an evaluation by people or"
            f" by a judge that the loop does not follow). There are: {listed(audit.source.metrics, 40)}."
        )
    if any(arm.measured_by and not arm.rounds[0].reward for arm in audit.arms if arm.rounds):
        yield "To settle it: name the metric that the loop follows with --reward NAME."
    judged = [arm for arm in audit.arms if arm.fall]
    if judged:
        yield (
            f"Checked each time {max(window_of(arm.logs) for arm in judged)} more logs were there, as CollapseMonitor"
            f" does, with a chance of {ALPHA:.0%} over the whole log (all runs together) that one without a fall is"
            " said to have one, where logs are independent. Brackets in the table are 95% Student intervals."
        )


def _fall(name: str, arm: ArmAudit, fall: Fall) -> Iterable[str]:
    measure = "True utility" if arm.measured_by == "utility" else "The mean label"
    if fall.reason == Reason.BEST_AT_THE_END:
        yield f"{name}{measure} is highest in the last row."
    else:
        reward = (
            f"while proxy reward changed by {_sure(fall.reward_change)}"
            if fall.reward_change
            else "and proxy reward is not recorded"
        )
        end = "to the last (round" if arm.rounds and fall.last == arm.rounds[-1].last else "to round"
        yield (
            f"{name}{measure} fell by {_sure(fall.fall)} from its best row (round {fall.best}) {end}"
            f" {fall.last}{')' if '(' in end else ''}, {reward}. A fall counts from {number(fall.threshold)} on"
            f" ({fall_text(fall)})."
        )
    late = arm.to_last
    if late and late.reward_change:
        yield (
            f"{name}By round {late.last} {measure[0].lower()}{measure[1:]} had fallen by {interval_text(late.fall)};"
            f" proxy reward then fell too (it changed by {interval_text(late.reward_change)})."
        )
    for one in arm.seed_falls:
        if one.collapsed:
            by = f" by round {one.last}" if arm.rounds and one.last != arm.rounds[-1].last else ""
            yield f"{name}Seed {one.seed} alone: fell by {interval_text(one.fall)}{by} ({fall_text(one)})."


def _sure(change: Interval) -> str:
    """Return a change with its interval, or why it has none."""
    if math.isfinite(change.low):
        return interval_text(change)
    return f"{number(change.mean)} (one value a row: nothing says how sure that is)"


def _limits(audit: Audit) -> Iterable[str]:
    judged = [arm.fall for arm in audit.arms if arm.fall]
    if judged:
        runs, rounds = judged[0].family, max(fall.rounds for fall in judged)
        looked = f"{runs} runs and means" if runs > 1 else "one run"
        yield (
            f"Brackets are 95% {methods_text(_intervals(audit))}, not corrected for how many there are. The verdict is:"
            f" it allows for {looked} being judged and for the best of {rounds} rows having been picked after the fact."
        )
    unpaired = [arm for arm in audit.arms if not arm.paired and len(arm.rounds) > 1]
    if unpaired:
        yield (
            "Prompts differ from round to round, so a change may be owed to prompts as well as to the policy: rows are"
            " compared as independent samples of prompts. Held-out prompts that repeat would settle it."
        )
    if any(arm.measured_by == "label" for arm in audit.arms):
        yield "No utility is recorded; the mean label stands for it."
    pooled = [arm for arm in audit.arms if any(row.first != row.last for row in arm.rounds)]
    if pooled:
        longest = max(row.last - row.first + 1 for arm in pooled for row in arm.rounds)
        yield f"Rounds are pooled: a row of the table spans up to {longest} numbers of round."
    if any(len(arm.seeds) == 1 for arm in audit.arms) and judged:
        yield "With one seed, nothing here speaks about other seeds."


def _intervals(audit: Audit) -> Iterable[Interval | None]:
    """Return the intervals that sentences give."""
    for arm in audit.arms:
        for fall in (arm.fall, arm.to_last, *arm.seed_falls):
            yield from (fall.fall, fall.reward_change) if fall else ()
        yield from (kind.fall for kind in arm.kinds)
        yield from (symptom.change for symptom in arm.symptoms if symptom.alarming)
        yield from (value for one in arm.calibration for value in (one.overconfidence, one.accuracy))
        yield from (arm.rounds[-1].gap,) if arm.rounds else ()
