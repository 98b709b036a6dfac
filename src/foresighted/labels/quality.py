"""How good the labels of a queue are: who agrees with whom, and who prefers a place, wavers or has drifted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from foresighted.errors import ForesightedError
from foresighted.labels.answers import Answer, Ask, standing
from foresighted.labels.queue import FileQueue, is_folder
from foresighted.settings import read_yaml
from foresighted.statistics.agreement import alpha, error_of, shift, worth
from foresighted.statistics.intervals import Interval, Share, wilson_share
from foresighted.statistics.wording import count, interval_text, of_text, share_text
from foresighted.store.directory import CONFIG, kind_of

FEWEST = 20
"""Answers of each half of a person's, below which nothing is said of drift."""


@dataclass(frozen=True)
class Shares:
    """Shares of some answers of a person; None where there is nothing to count."""

    ties: Share | None
    """Ties, of all answers that are labels."""
    place: Share | None
    """Response 1 preferred, of the answers that decide; one half without a bias to a place."""
    agreed: Share | None
    """The same response preferred as by somebody else, of pairs on which both decide."""


@dataclass(frozen=True)
class Person:
    """What a person's answers say of that person."""

    name: str
    """Empty for lines by hand."""
    answered: int
    skipped: int
    all: Shares
    self_agreed: Share | None
    """The same answer, of pairs that were asked again as before."""
    kept: Share | None
    """The same response, of pairs asked in both orders and decided both times; else the same place was preferred."""
    seconds: float | None
    """Median time an answer."""
    drift: Mapping[str, Interval]
    """Change of each of `Shares` from the first half of the answers to the second; none below 20 answers a half."""


@dataclass(frozen=True)
class Quality:
    """What the answers in a queue say of its labels."""

    questions: int
    labelled: int
    people: tuple[Person, ...]
    alpha: Interval | None
    """Krippendorff's, of people's first answers."""
    agreed: Share | None
    """Couples of people who prefer the same response, of those on one pair who both decide."""
    sentences: tuple[str, ...]


def told(found: Quality | None) -> tuple[str, ...]:
    """Return what is known of the labels of a queue, in words."""
    if found is None:
        return ("Nobody has answered yet.",)
    who = count(len(found.people), "person") if len(found.people) == 1 else f"{len(found.people)} people"
    return (f"{found.labelled} of {count(found.questions, 'question')} have a label, by {who}.", *found.sentences)


def quality_of_run(path: Path) -> tuple[Quality | None, tuple[str, ...]]:
    """Return how good the labels are that people gave a run or the runs of a comparison, and that in words; nothing
    for anything else."""
    if kind_of(path) not in ("run", "comparison"):
        return None, ()
    folder = str(read_yaml(path / CONFIG).get("labels") if (path / CONFIG).exists() else "")
    if not is_folder(folder):
        return None, ()
    try:
        queue = FileQueue(folder)
        found = quality(queue.answers(), len(queue.questions()))
    except ForesightedError as error:
        return None, (f"Labels of people: {error}.",)
    if not queue.questions():
        return None, (f"Labels of people: {folder} is not here, so nothing is said of them.",)
    return found, tuple(f"Labels of people: {text}" for text in told(found))


_Place = tuple[str, str, Ask]


def quality(answers: Iterable[Answer], questions: int) -> Quality | None:
    """Return what answers say of their labels; None where there is no label.

    Args:
        answers: lines of a queue, in order.
        questions: how many were asked.
    """
    found = {place: answer for place, answer in standing(answers).items() if answer.label is not None}
    if not found:
        return None
    skipped = [answer for answer in standing(answers).values() if answer.label is None]
    firsts: dict[str, dict[str, float]] = {}
    for answer in found.values():
        if answer.ask == "new" and answer.label is not None:
            firsts.setdefault(answer.id, {})[answer.by] = answer.label
    names = sorted({answer.by for answer in found.values()})
    people = tuple(_person(name, found, skipped, firsts) for name in names)
    couples = [
        (a, b)
        for own in firsts.values()
        for place, a in enumerate(own.values())
        for b in list(own.values())[place + 1 :]
        if a != 0.5 and b != 0.5
    ]
    agreed = _share([(a > 0.5) == (b > 0.5) for a, b in couples])
    beyond = alpha([list(own.values()) for own in firsts.values()])
    labelled = len({answer.id for answer in found.values()})
    return Quality(questions, labelled, people, beyond, agreed, tuple(_sentences(labelled, people, beyond, agreed)))


def _person(
    name: str, found: Mapping[_Place, Answer], skipped: Sequence[Answer], firsts: Mapping[str, Mapping[str, float]]
) -> Person:
    mine = [answer for answer in found.values() if answer.by == name]
    new = [answer for answer in mine if answer.ask == "new"]
    half = len(new) // 2
    before, after = (_shares(part, firsts) for part in (new[:half], new[half:]))
    drift = {}
    for which in ("ties", "place", "agreed"):
        one, other = getattr(before, which), getattr(after, which)
        if one is not None and other is not None and min(one.total, other.total) >= FEWEST:
            drift[which] = shift(one, other)
    took = [answer.seconds for answer in mine if answer.seconds is not None]
    swapped = _again(mine, found, "swapped")
    return Person(
        name=name,
        answered=len(mine),
        skipped=sum(answer.by == name for answer in skipped),
        all=_shares(new, firsts),
        self_agreed=_share([a.label == b.label for a, b in _again(mine, found, "again")]),
        kept=_share([(a.label or 0) == b.label for a, b in swapped if 0.5 not in (a.label, b.label)]),
        seconds=median(took) if took else None,
        drift=drift,
    )


def _again(mine: Sequence[Answer], found: Mapping[_Place, Answer], ask: Ask) -> list[tuple[Answer, Answer]]:
    """Return a person's first and second answer to each pair that was asked so again."""
    couples = [(found.get((answer.id, answer.by, "new")), answer) for answer in mine if answer.ask == ask]
    return [(first, second) for first, second in couples if first is not None]


def _shares(answers: Sequence[Answer], firsts: Mapping[str, Mapping[str, float]]) -> Shares:
    decided = [answer for answer in answers if answer.label is not None and answer.label != 0.5]
    agreed = [
        ((answer.label or 0) > 0.5 and label > 0.5) or ((answer.label or 0) < 0.5 and label < 0.5)
        for answer in decided
        for other, label in firsts.get(answer.id, {}).items()
        if other != answer.by and label != 0.5
    ]
    return Shares(
        ties=_share([answer.label == 0.5 for answer in answers]),
        place=_share([((a.label or 0) > 0.5) != a.turned for a in decided if a.turned is not None]),
        agreed=_share(agreed),
    )


def _share(flags: Sequence[bool]) -> Share | None:
    return wilson_share(sum(flags), len(flags)) if flags else None


_MOVED = {"ties": "ties", "place": "answers for response 1", "agreed": "agreement with others"}


def _sentences(labelled: int, people: Sequence[Person], beyond: Interval | None, agreed: Share | None) -> Iterable[str]:
    if agreed is None or beyond is None:
        yield "No two people decided on the same pairs, so nothing is known of how far they agree."
    else:
        yield (
            f"People who decide on the same pair agree in {of_text(agreed)}; Krippendorff's alpha is"
            f" {interval_text(beyond)}."
        )
        error, least, most = (error_of(a) for a in (agreed.mean, agreed.high, agreed.low))
        told = f"If both err alike and independently, {error:.0%} [{least:.0%}, {most:.0%}] of the labels are wrong"
        if most >= 0.5 and error >= 0.5:
            yield f"{told}: they say nothing."
        else:
            yield (
                f"{told}, so an interval from the {count(labelled, 'label')} is as wide as from"
                f" {round(labelled * worth(error))} [{round(labelled * worth(most))}, {round(labelled * worth(least))}]"
                " without errors."
            )
    for person in people:
        yield from _of_person(person)


def _of_person(person: Person) -> Iterable[str]:
    name = person.name or "somebody, by hand,"
    place, kept, same = person.all.place, person.kept, person.self_agreed
    if place is not None and not place.low <= 0.5 <= place.high:
        yield f"{name} prefers response {1 if place.mean > 0.5 else 2} by its place: 1 in {of_text(place)}."
    if kept is not None and kept.high < 1 and kept.total - kept.successes > 0:
        yield f"{name} keeps to the response when the order changes in {of_text(kept)}."
    if same is not None and same.successes < same.total:
        yield f"{name} gives the same answer again in {of_text(same)}."
    for which, moved in person.drift.items():
        if moved.excludes_zero:
            more = f"{100 * moved.mean:+.0f} points [{100 * moved.low:+.0f}, {100 * moved.high:+.0f}]"
            yield f"{name} has drifted: {_MOVED[which]} {more} from the first half of the answers to the second."
    if person.all.ties is not None and person.all.ties.low > 0.5:
        yield f"{name} calls {share_text(person.all.ties)} of the pairs a tie."
