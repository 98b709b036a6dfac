"""Asking for labels: at once, in time or not at all; or in a queue that people answer rounds later."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from foresighted.alignment import noise
from foresighted.errors import DataError
from foresighted.integrations.trl.config import FPOConfig
from foresighted.records import append, read_mappings
from foresighted.types import Utility

_log = logging.getLogger(__name__)
_FIRST_WAIT = 0.5
"""Seconds before a labeller is asked again; twice as long each time."""


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
        for number, row in enumerate(read_mappings(path) if path.exists() else [], start=1):
            try:
                labels[str(row["id"])] = float(row["label"])
            except (KeyError, TypeError, ValueError):
                raise DataError(f'{path}, line {number}: expected {{"id": ..., "label": ...}}') from None
        return labels


class Asker:
    """Asks a labeller, with a time limit and again when it fails.

    Args:
        labels: a `types.Labeller` or an async function of the same arguments.
        config: limits, and whether a preference becomes one bit.
    """

    def __init__(self, labels: Any, config: FPOConfig) -> None:
        self._labels = labels
        self._config = config

    def preferences(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float] | None:
        """Return the preference for `first` of each row, or None where the labeller failed each time.

        Raises:
            DataError: the wrong number of labels, or one outside [0, 1]: a mistake that asking again would not mend.
        """
        wait = _FIRST_WAIT
        for attempt in range(self._config.label_retries + 1):
            if attempt:
                time.sleep(wait)
                wait *= 2
            try:
                found = self._call(list(prompts), list(first), list(second))
            except Exception as error:  # whatever a labeller's network or model does, training goes on
                _log.warning("labels: attempt %d failed (%s: %s)", attempt + 1, type(error).__name__, error)
                continue
            return self._sampled(checked(found, len(prompts)), prompts, first, second)
        return None

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller knows none or fails: it is for records.

        Raises:
            DataError: the wrong number of values, or one that is not finite.
        """
        if not isinstance(self._labels, Utility) or not prompts:
            return [None] * len(prompts)
        try:
            found = [float(value) for value in self._labels.utility(list(prompts), list(responses))]
        except Exception as error:  # as for labels
            _log.warning("labels: no utility this time (%s: %s)", type(error).__name__, error)
            return [None] * len(prompts)
        if len(found) != len(prompts) or not all(map(math.isfinite, found)):
            raise DataError(f"labels: utility gave {len(found)} values for {len(prompts)}; give one finite value each")
        return list(found)

    def _sampled(
        self, labels: list[float], prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[float]:
        if not self._config.sampled_labels:
            return labels
        rows = zip(labels, prompts, first, second, strict=True)
        return [float(noise.uniform(self._config.label_seed, "label", *texts) < p) for p, *texts in rows]

    def _call(self, *columns: list[str]) -> Sequence[Any]:
        limit = self._config.label_timeout
        call = self._labels if inspect.iscoroutinefunction(self._labels) else type(self._labels).__call__
        if inspect.iscoroutinefunction(call):
            return _in_thread(lambda: asyncio.run(_limited(self._labels(*columns), limit)), math.inf)
        if math.isinf(limit):
            return list(self._labels(*columns))
        return _in_thread(lambda: self._labels(*columns), limit)


async def _limited(answer: Any, limit: float) -> Sequence[Any]:
    return await asyncio.wait_for(answer, None if math.isinf(limit) else limit)


def _in_thread(work: Any, limit: float) -> Sequence[Any]:
    """Return what `work` returns. One that is still at it when the time is up is left alone, its answer dropped."""
    done: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # handed to the caller
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="foresighted-labels")
    thread.start()
    thread.join(None if math.isinf(limit) else limit)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {limit:g} s")
    return done[0]  # type: ignore[no-any-return]


def checked(found: Sequence[Any], count: int) -> list[float]:
    """Return labels as numbers.

    Raises:
        DataError: the wrong number of labels, or one that is not in [0, 1].
    """
    values: list[float] = []
    with contextlib.suppress(TypeError, ValueError):
        values = [float(value) for value in found]
    if len(values) != count:
        shown = json.dumps(found, default=repr)
        raise DataError(f"labels: got {shown[:80]} for {count} pairs; return one number a pair")
    for value in values:
        if not 0 <= value <= 1:
            raise DataError(f"labels: got {value}; a preference lies in [0, 1]")
    return values
