"""What a rehearsal says in three sentences, a table and advice: as true of an unwished result as of a wished one."""

from __future__ import annotations

from collections.abc import Sequence

from foresighted.alignment.compared import Comparison
from foresighted.alignment.rehearsed import Rehearsal, Standing, at_equal_labels, difference_of, partner
from foresighted.settings.typed import OBJECT, command, lines
from foresighted.statistics.collapse import Reason
from foresighted.statistics.intervals import Interval
from foresighted.statistics.wording import count, fall_text, interval_text, of_text

MOST_NAMED = 3
"""Arms that a sentence names."""


def sentences(found: Rehearsal) -> tuple[str, ...]:
    """Return what the baseline does here and when it falls, what prevents that at equal labels, and what it costs."""
    if not found.standings or found.standings[0].role != "baseline":
        return (f"The baseline {found.config.arms[0]} has no records yet, so nothing can be said.",)
    return _of_the_baseline(found), _of_prevention(found), _of_the_cost(found)


def _called(standing: Standing) -> str:
    return f"plain RLHF ({standing.label})" if standing.plain else standing.label


def _size(comparison: Comparison) -> str:
    seeds = max(len(arm.seeds) for arm in comparison.arms)
    return f"in {count(comparison.last_round, 'round')} and {count(seeds, 'seed')}"


def _of_the_baseline(found: Rehearsal) -> str:
    first = found.standings[0]
    called, size = _called(first), _size(found.comparison)
    named = called[0].upper() + called[1:] if first.plain else called
    if len(first.arm.evaluated) < 2:
        return f"Too early to say what {called} does here: only round {first.arm.last_round} was evaluated so far."
    if first.wins:
        return f"{named} {_course_by_wins(first, size)}"
    fall, share = first.arm.collapse, first.arm.collapsed_share
    if fall is None or share is None or first.arm.utility_change is None:
        return f"{named}: neither a true utility nor a verdict of the judge was recorded, so nothing can be said."
    seeds = f"; by itself {share.successes} of {count(share.total, 'seed')} collapsed" if share.total > 1 else ""
    if fall.reward_change is not None and (fall.collapsed or fall.reason == Reason.PROXY_FELL):
        told = (
            f"true utility is best at round {fall.best} and falls by {interval_text(fall.fall)} to round {fall.last},"
            f" while proxy reward changes by {interval_text(fall.reward_change)}"
        )
        if fall.collapsed:
            return f"{named} collapses here {size}: {told} ({fall_text(fall)}){seeds}."
        return f"{named} gets worse here {size}, and the loop's own numbers show it: {told}{seeds}."
    change = (
        f"since the start true utility has changed by {interval_text(first.arm.utility_change)} and proxy reward by"
        f" {_text(first.arm.reward_change)}"
    )
    if share.successes:
        return f"{named} collapses here {size} in {of_text(share)} seeds, though not in their mean: {change}."
    lower = first.arm.utility_change.high < 0
    told = "gets worse here" if lower else "does not collapse here"
    return f"{named} {told} {size}: {change}; what these intervals hold is not ruled out{seeds}."


def _course_by_wins(first: Standing, size: str) -> str:
    known = [one for one in first.wins if one.first is not None]
    if not known or first.wins[-1].first is None:
        failed = first.wins[-1].failed
        why = f"judging failed on {failed} pairs of its" if failed else "--resume gets the verdicts on its last"
        return f"cannot be judged {size}: {why} answers."
    last = known[-1]
    told = (
        f"after round {last.round} the judge prefers its answers to the first policy's on {_text(last.first)} of the"
        f" prompts, while proxy reward has changed by {_text(first.arm.reward_change)}"
    )
    if last.below_first:
        better = [one.round for one in known if not one.below_first]
        since = next(one.round for one in known if one.round > max(better, default=-1))
        falls = first.arm.reward_change is not None and first.arm.reward_change.high < 0
        worse = "gets worse here, and proxy reward shows it" if falls else "collapses here, by the judge"
        return f"{worse}, {size}: from round {since} on its answers are worse than the first policy's; {told}."
    return f"does not fall here {size}: {told}; what these intervals hold is not ruled out."


def _of_prevention(found: Rehearsal) -> str:
    first, *_ = found.standings
    equal = [one for one in at_equal_labels(found.standings)[1:] if one.over is not None]
    labels = f"at equal labels ({first.labels} a seed)"
    measure = f", by {'win rate' if found.by_wins else 'true utility'} over the baseline, paired"
    if not equal:
        return f"Nothing can be said of what prevents it {labels}: no other arm with no more labels has come as far."
    better = [one for one in equal if one.over is not None and one.over.low > 0]
    worse = [one for one in equal if one.over is not None and one.over.high < 0]
    if first.fell:
        holds = sorted((one for one in better if not one.fell), key=_ended, reverse=True)
        nearest = max(equal, key=_ended)
        if holds:
            said = f"What prevents it {labels}{measure}: {_listed(holds, found)}"
        elif better:
            said = f"Nothing prevents it {labels}; what softens it{measure}: {_listed(better, found)}"
        else:
            lower = "which is clearly worse still"
            unseen = "no clear difference, and one that is not seen may still exist"
            told = lower if nearest in worse else unseen
            said = f"Nothing is shown to prevent it {labels}; nearest comes{measure}: {_one(nearest, found)}, {told}"
    else:
        parts = [f"clearly better: {_listed(better, found)}"] if better else ["no arm ended clearly better"]
        parts += [f"clearly worse: {_listed(worse, found)}"] if worse else []
        said = f"So there was nothing to prevent; {labels}{measure}, {'; '.join(parts)}"
    seeds = found.comparison.planned_seeds
    alone = "; with one seed all this speaks about prompts only" if len(seeds) == 1 else ""
    return f"{said}{_of_the_penalty(found)}{alone}."


def _of_the_penalty(found: Rehearsal) -> str:
    """Return what the penalty adds to the same KL term, and what its direction does; nothing where that is unknown."""
    told = {"none": "without its penalty", "shuffled": "with it shuffled"}
    for one in found.standings:
        if one.config.steering == "rlhf" or one.role != "candidate" or not one.config.kl_coefficient:
            continue
        texts = []
        for control, words in told.items():
            other = partner(one, found.standings, control=control)
            if other is not None and (difference := difference_of(one, other)) is not None:
                clear = "" if difference.excludes_zero else "; no clear difference"
                texts.append(f"{interval_text(difference)} over {other.label} (the same {words}{clear})")
        if texts:
            return f"; {one.label} ended {' and '.join(texts)}"
    return ""


def _of_the_cost(found: Rehearsal) -> str:
    best = found.standing(found.best)
    if best is None:
        return "What it costs cannot be said: no arm has been measured yet."
    kl = best.arm.evaluated[-1].kl
    distance = f", at a distance of {_text(kl)} nats from the first policy" if kl is not None else ""
    ended = f"{best.label}, which ended best of those {'at equal labels' if best.fell else 'that did not fall'},"
    if found.by_wins:
        rate = best.wins[-1].first if best.wins else None
        return (
            f"What it costs cannot be held against a ceiling, since the judge knows no utility: {ended} is preferred to"
            f" the first policy on {_text(rate)} of held-out prompts{distance}."
        )
    gained = f"{ended} changed true utility by {_text(best.arm.utility_change)} since the start{distance}"
    ceiling = next((one for one in found.standings if one.role == "ceiling"), None)
    if ceiling is None or (given_up := difference_of(ceiling, best)) is None:
        return f"What it costs against the ceiling is not known, since no arm chose by the true label: {gained}."
    clear = "" if given_up.excludes_zero else ", no clear difference"
    return (
        f"Against the ceiling, choosing by the true label with {ceiling.labels} labels a seed, {gained}; the ceiling"
        f" changed it by {_text(ceiling.arm.utility_change)} and ended {interval_text(given_up)} over"
        f" {best.label}{clear}."
    )


def _ended(standing: Standing) -> float:
    return standing.over.mean if standing.over else 0.0


def _listed(standings: Sequence[Standing], found: Rehearsal) -> str:
    told = [_one(one, found) for one in standings[:MOST_NAMED]]
    more = len(standings) - len(told)
    return ", ".join(told) + (f" and {count(more, 'other arm')}" if more else "")


def _one(standing: Standing, found: Rehearsal) -> str:
    share = standing.arm.collapsed_share
    seeds = f", {share.successes} of {count(share.total, 'seed')} collapsed" if share and not found.by_wins else ""
    return f"{standing.label} ({_text(standing.over_shown)}{seeds})"


def _text(interval: Interval | None) -> str:
    return "an unknown amount" if interval is None else interval_text(interval)


HEAD = ("arm", "labels a seed", "measure", "over the baseline", "proxy reward", "KL (nats)", "seeds collapsed")


def table(found: Rehearsal) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return head and rows of the table of arms, as text."""
    head = list(HEAD)
    head[2] = "won against the first policy" if found.by_wins else "true utility"
    return tuple(head), tuple(_row(one, late=found.comparison.any_finished) for one in found.standings)


def _row(one: Standing, *, late: bool) -> tuple[str, ...]:
    totals = sorted({labels.total for labels in one.arm.labels})
    share, kl = one.arm.collapsed_share, one.arm.evaluated[-1].kl
    return (
        f"{one.label} (unfinished, round {one.arm.last_round})" if late and not one.arm.finished else one.label,
        " to ".join(map(str, dict.fromkeys((totals[0], totals[-1])))) if totals else "",
        "unknown" if one.measure is None else interval_text(one.measure),
        "baseline"
        if one.role == "baseline"
        else "unknown"
        if one.over_shown is None
        else interval_text(one.over_shown),
        interval_text(one.arm.final_reward),
        "unknown" if kl is None else interval_text(kl),
        "unknown" if share is None else f"{share.successes} of {share.total}",
    )


def advice(found: Rehearsal) -> tuple[str, str, str]:
    """Return what follows: a sentence, the command of `foresighted train` and the lines of Python with its `FPOConfig`;
    empty texts where nothing follows."""
    best = found.standing(found.best)
    if best is None:
        return "", "", ""
    held = "of the arms that did not fall" if not best.fell else "though it fell, too: nothing that was played held"
    said = (
        f"What follows from {best.label}, the best mean at equal labels {held}; put your own --policy in place of the"
        " small one."
    )
    clear = any(one.over.excludes_zero for one in at_equal_labels(found.standings)[1:] if one.over)
    if not clear:
        said += (
            " No difference from the baseline was clear, so the choice among the arms is not made by this rehearsal."
        )
    objects = [name for name in ("prompts", "labels") if getattr(best.config, name).startswith(OBJECT)]
    if objects:
        said += f" {' and '.join(objects)} were given as Python objects: give them to foresighted.train from Python."
    return said, command(best.config, "runs/mine"), lines(best.config)
