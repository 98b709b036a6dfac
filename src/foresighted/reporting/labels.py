"""Of labels that people gave: who answered how, on any page that has an audit."""

from __future__ import annotations

from foresighted.labels.quality import Person, Quality
from foresighted.reporting.charts import Table
from foresighted.reporting.page import Section
from foresighted.statistics.intervals import Share
from foresighted.statistics.wording import interval_text, number, share_text

_HEAD = (
    "who", "answers", "skipped", "ties", "response 1 preferred", "agrees with others", "same answer again",
    "same response turned round", "seconds an answer",
)  # fmt: skip


def labels_section(found: Quality | None) -> tuple[Section, ...]:
    """Return the section on labels of people; none where nobody was asked."""
    if found is None:
        return ()
    agreement = "" if found.alpha is None else f" Krippendorff's alpha: {interval_text(found.alpha)}."
    note = (
        f"{found.labelled} of {found.questions} questions have a label.{agreement} Shares with 95% Wilson intervals. A"
        " person without a bias to a place prefers response 1 half of the time, since the order is drawn."
    )
    table = Table("One row a person", _HEAD, tuple(map(_row, found.people)))
    return (Section("labels-of-people", "Labels of people", note, (), (table,), found.sentences),)


def _row(person: Person) -> tuple[str, ...]:
    shares = person.all.ties, person.all.place, person.all.agreed, person.self_agreed, person.kept
    seconds = "-" if person.seconds is None else number(person.seconds)
    name = person.name or "by hand"
    return (name, str(person.answered), str(person.skipped), *map(_cell, shares), seconds)


def _cell(share: Share | None) -> str:
    return "-" if share is None else share_text(share)
