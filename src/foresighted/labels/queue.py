"""Labels that come rounds later: a queue of questions that people answer in their own time."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from foresighted.errors import ConfigError, DataError
from foresighted.labels.answers import Answer, answer_of, labels_of, skipped_of, standing
from foresighted.store import files
from foresighted.store.directory import NOUNS, QUESTIONS, kind_of
from foresighted.store.rows import append, decode, object_of
from foresighted.store.tail import Tail

_log = logging.getLogger(__name__)
LABELS = "labels.jsonl"
_LOCK = ".questions.lock"


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


@runtime_checkable
class Skipping(Protocol):
    """A queue in which a question may be passed over: nobody waits for its label any longer."""

    def skipped(self) -> Collection[str]:
        """Return the ids that were passed over and have no label."""
        ...


class FileQueue:
    """A queue in a folder: questions are appended to `questions.jsonl`, answers to `labels.jsonl`.

    An answer is a line `{"id": ..., "label": ...}`, by hand, or one of `foresighted label` (`answers.Answer`). Of
    several lines of one person for one question the last counts; of several people the label is the mean.

    Args:
        folder: made if need be; one folder may serve several runs.

    Raises:
        ConfigError: something else is there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if (kind := kind_of(self.folder)) not in ("queue", "other", "nothing") or self.folder.is_file():
            holds = "is a file" if self.folder.is_file() else f"holds {NOUNS[kind]}"
            raise ConfigError(f"labels: {self.folder} {holds}; give a folder of its own to what people are asked")
        self._questions = Tail(self.folder / QUESTIONS, _question)
        self._answers = Tail(self.folder / LABELS, answer_of)
        self._strange = 0

    def questions(self) -> dict[str, Question]:
        """Return every question in the folder, in the order in which they came.

        Raises:
            DataError: a line that is none, with its place.
        """
        return {question.id: question for question in self._questions.rows()}

    def answers(self) -> list[Answer]:
        """Return every line of answers, also those that no longer count; raises what `answers.answer_of` does."""
        return self._answers.rows()

    def submit(self, questions: Sequence[Question]) -> None:
        """Append the questions that the folder does not have yet."""
        from filelock import FileLock

        files.make_folder(self.folder)
        with FileLock(self.folder / _LOCK):  # runs of one comparison ask in one folder
            files.drop_torn_line(self._questions.path)
            known = self.questions()
            append(self._questions.path, [asdict(question) for question in questions if question.id not in known])

    def answer(self, answers: Sequence[Answer]) -> None:
        """Append answers, on the disk before returning."""
        append(self._answers.path, answers)

    def mend(self) -> None:
        """Make the last line of answers whole: one by hand without its end gets it, one of a dead process goes."""
        path = self._answers.path
        last = path.read_bytes().rpartition(b"\n")[2] if path.exists() else b""
        try:
            answer_of(object_of(last, str(path)), str(path))
        except DataError:
            files.drop_torn_line(path)
        else:
            files.append(path, "\n")

    def collect(self) -> dict[str, float]:
        """Return every label in the folder.

        Raises:
            DataError: a line that is no answer, with its place.
        """
        labels = labels_of(standing(self.answers()))
        strange = [name for name in labels if name not in self.questions()]
        if len(strange) > self._strange:
            told = "%s: %d labels are of no question there, the first of %r; they are not taken"
            _log.warning(told, self._answers.path, len(strange), strange[0])
        self._strange = len(strange)
        return {name: label for name, label in labels.items() if name in self.questions()}

    def skipped(self) -> set[str]:
        """Return the questions that somebody skipped and nobody answered."""
        return skipped_of(standing(self.answers()))


def _question(row: dict[str, Any], where: str) -> Question:
    return decode(row, Question, where)


def as_queue(labels: Any) -> Any:
    """Return the queue in a folder for a path, anything else as it is; raises what `FileQueue` does."""
    path = isinstance(labels, os.PathLike) or (isinstance(labels, str) and is_folder(labels))
    return FileQueue(labels) if path else labels


def is_folder(name: str) -> bool:
    """Return whether a name of a labeller is that of a queue's folder: one that is there, or that ends in a slash."""
    return name.endswith(("/", os.sep)) or (bool(name) and Path(name).is_dir())
