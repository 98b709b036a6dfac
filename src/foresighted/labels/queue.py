"""Labels that come rounds later: a queue of questions that people answer in their own time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from foresighted.errors import DataError
from foresighted.inputs import shown
from foresighted.store.rows import append, numbered, read_mappings


@dataclass(frozen=True)
class Question:
    """One pair that waits for a label."""

    id: str
    round: int
    prompt: str
    first: str
    second: str


@runtime_checkable
class LabelQueue(Protocol):
    """Labels that arrive rounds after they were asked for."""

    def submit(self, questions: Sequence[Question]) -> None:
        """Ask for labels; ids may be submitted twice when a run resumes."""
        ...

    def collect(self) -> dict[str, float]:
        """Return the labels known by now, by id: the preference for `first` over `second`, in [0, 1]."""
        ...


class FileQueue:
    """A queue in a folder: pairs are appended to `questions.jsonl`, people append `{"id": ..., "label": ...}` lines to
    `labels.jsonl`. A later line for the same id counts.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def submit(self, questions: Sequence[Question]) -> None:
        """Append the questions that the folder does not have yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "questions.jsonl"
        known = {row["id"] for row in read_mappings(path)} if path.exists() else set()
        append(path, [asdict(question) for question in questions if question.id not in known])

    def collect(self) -> dict[str, float]:
        """Return every label in the folder.

        Raises:
            DataError: a line without id or label.
        """
        path = self.folder / "labels.jsonl"
        labels = {}
        for number, row in numbered(path) if path.exists() else []:
            try:
                labels[str(row["id"])] = float(row["label"])
                if isinstance(row["label"], str):
                    told = f"label {shown(row['label'])} is text; expected a number from 0 to 1, without quotes"
                    raise DataError(f"{path}, line {number}: {told}")
            except (KeyError, TypeError, ValueError, OverflowError):
                raise DataError(f'{path}, line {number}: expected {{"id": ..., "label": ...}}') from None
        return labels
