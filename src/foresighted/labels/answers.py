"""What people answered: one line an answer in a queue's `labels.jsonl`, and which of them count.

A line by hand is `{"id": ..., "label": ...}`; the page, and files that are read in, add who said it, and how. Lines are
only ever added. Nothing depends on a clock: what came later stands further down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foresighted.errors import DataError
from foresighted.inputs import shown
from foresighted.statistics.numbers import mean
from foresighted.store.rows import SPARSE, decode

Ask = Literal["new", "swapped", "again"]
"""Why a person is asked: for the first time, with the responses in the other order, or once more as before."""


@dataclass(frozen=True)
class Answer:
    """A line of `labels.jsonl`."""

    id: str
    """Of the question."""
    label: float | None
    """Preference for `first` over `second`, in [0, 1]; null: skipped, or taken back."""
    by: str = field(default="", metadata=SPARSE)
    """Who says so; empty for a line by hand."""
    ask: Ask = field(default="new", metadata=SPARSE)
    """Why that person was asked."""
    turned: bool | None = field(default=None, metadata=SPARSE)
    """Whether `second` was shown as response 1; null where nobody knows."""
    seconds: float | None = field(default=None, metadata=SPARSE)
    """How long the pair was looked at."""
    at: str = field(default="", metadata=SPARSE)
    """Time of day, for people to read: a clock may jump."""
    undone: bool = field(default=False, metadata=SPARSE)
    """Takes back what the same person answered when asked so."""

    @property
    def place(self) -> tuple[str, str, Ask]:
        """What a later line replaces: the answer of one person to one question, asked in one way."""
        return self.id, self.by, self.ask


def drawn(*names: str) -> float:
    """Return a number in [0, 1) that names draw, always the same."""
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def answer_of(row: dict[str, Any], where: str) -> Answer:
    """Return a line of `labels.jsonl`.

    Raises:
        DataError: it is none, with its place; a label outside [0, 1] or in quotes.
    """
    told = f'{where}: expected {{"id": ..., "label": ...}}'
    if not {"id", "label"} <= row.keys():
        raise DataError(f"{told}, got {shown(sorted(row))}")
    if isinstance(row["id"], int) and not isinstance(row["id"], bool):
        row = row | {"id": str(row["id"])}
    if isinstance(row["label"], str):
        raise DataError(f"{where}: label {shown(row['label'])} is text; expected a number from 0 to 1, without quotes")
    found = decode(row, Answer, where)
    if found.label is not None and not 0 <= found.label <= 1:
        raise DataError(f"{where}: got {found.label}; a preference lies in [0, 1]")
    return found


def standing(answers: Iterable[Answer]) -> dict[tuple[str, str, Ask], Answer]:
    """Return the answers that count, skipped ones included, in the order in which they were given.

    Of several lines for one place the last counts, and stands where it was written; what was taken back does not.
    """
    found: dict[tuple[str, str, Ask], Answer] = {}
    for answer in answers:
        found.pop(answer.place, None)
        if not answer.undone:
            found[answer.place] = answer
    return found


def labels_of(found: Mapping[Any, Answer]) -> dict[str, float]:
    """Return the label of each question that has one: each person counts once, by the mean of that person's answers."""
    said: dict[str, dict[str, list[float]]] = {}
    for answer in found.values():
        if answer.label is not None:
            said.setdefault(answer.id, {}).setdefault(answer.by, []).append(answer.label)
    return {name: mean(mean(own) or 0.0 for own in people.values()) or 0.0 for name, people in said.items()}


def skipped_of(found: Mapping[Any, Answer]) -> set[str]:
    """Return the questions that somebody skipped and nobody answered."""
    return {answer.id for answer in found.values() if answer.label is None} - labels_of(found).keys()
