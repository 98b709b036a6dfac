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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from foresighted.errors import ConfigError, DataError, ForesightedError
from foresighted.integrations.trl.config import FPOConfig
from foresighted.models import noise
from foresighted.store.records import append, read_mappings
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

    Raises:
        ConfigError: something that cannot be called with three lists.
    """

    def __init__(self, labels: Any, config: FPOConfig) -> None:
        if not callable(labels):
            raise ConfigError(
                f"labels: got {labels!r:.60}; give a function of (prompts, first, second), or a queue with submit and"
                " collect"
            )
        with contextlib.suppress(ValueError):  # some callables have no signature
            try:
                inspect.signature(labels).bind([], [], [])
            except TypeError as error:
                raise ConfigError(
                    f"labels: {getattr(labels, '__name__', type(labels).__name__)} cannot be called with (prompts,"
                    f" first, second): {error}"
                ) from None
        self._labels = labels
        self._config = config

    def preferences(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float] | None:
        """Return the preference for `first` of each row, or None where the labeller failed each time.

        Raises:
            DataError: the wrong number of labels, or one outside [0, 1]: a mistake that asking again would not mend.
        """
        columns = list(prompts), list(first), list(second)
        done, found = again(lambda: limited(self._labels, columns, self._config.label_timeout), self._config)
        return self._sampled(checked(found, len(prompts)), prompts, first, second) if done else None

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller knows none or fails: it is for records.

        Raises:
            DataError: the wrong number of values, or one that is not finite.
        """
        if not isinstance(self._labels, Utility) or not prompts:
            return [None] * len(prompts)
        columns = list(prompts), list(responses)
        try:
            said = limited(self._labels.utility, columns, self._config.label_timeout)
        except Exception as error:  # as for labels
            _log.warning("labels: no utility this time (%s: %s)", type(error).__name__, error)
            return [None] * len(prompts)
        found = [float(value) for value in said]
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


def again(work: Callable[[], Any], config: FPOConfig) -> tuple[bool, Any]:
    """Return whether `work` went well, at once or after `label_retries` more attempts, and what it returned.

    Raises:
        ForesightedError: what `work` raises of ours: a mistake that another attempt would not mend.
    """
    wait = _FIRST_WAIT
    for attempt in range(config.label_retries + 1):
        if attempt:
            time.sleep(wait)
            wait *= 2
        try:
            return True, work()
        except ForesightedError:
            raise
        except Exception as error:  # whatever a labeller's network or model does, training goes on
            _log.warning("labels: attempt %d failed (%s: %s)", attempt + 1, type(error).__name__, error)
    return False, None


def limited(call: Callable[..., Any], columns: Sequence[list[str]], limit: float) -> Any:
    """Return what a sync or async function says of some columns, within a time.

    One that is still at it when the time is up is left alone and its answer dropped. Async functions run in one event
    loop that lives as long as the process, so that what they keep open between calls stays usable.

    Raises:
        TimeoutError: no answer in time.
    """
    own = call if inspect.iscoroutinefunction(call) else type(call).__call__  # of an object
    if inspect.iscoroutinefunction(own):
        future = asyncio.run_coroutine_threadsafe(call(*columns), _loop())
        try:
            return future.result(None if math.isinf(limit) else limit)
        except TimeoutError:
            future.cancel()
            raise TimeoutError(f"no answer within {limit:g} s") from None
    return call(*columns) if math.isinf(limit) else _in_thread(lambda: call(*columns), limit)


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="foresighted-labels").start()
    return loop


def _in_thread(work: Callable[[], Any], limit: float) -> Any:
    done: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # handed to the caller
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="foresighted-labels")
    thread.start()
    thread.join(limit)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {limit:g} s")
    return done[0]


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
