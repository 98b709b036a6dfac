"""Asking for labels: in time, again when it fails, checked, and as bits where a run wants bits."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from foresighted.errors import ConfigError, DataError, ForesightedError, RunError
from foresighted.labels.labellers import Utilities, load_labeller
from foresighted.labels.pair import Pair
from foresighted.labels.queue import LabelQueue, Question
from foresighted.models import noise
from foresighted.models.policy import Policy
from foresighted.settings import TrainConfig
from foresighted.statistics.numbers import sigmoid
from foresighted.texts import text_of
from foresighted.types import Utility

_log = logging.getLogger(__name__)
FIRST_WAIT = 0.5
"""Seconds before a labeller is asked again; twice as long each time."""
_HOME = str(Path(__file__).parents[1])


class LabellerError(RunError):
    """A labeller that failed each time it was asked."""


class Asker:
    """Asks one labeller, whatever it is.

    Args:
        labels: a `types.Labeller`, an async function of the same arguments, or a `LabelQueue`.
        sampled: replace each preference p by 1 with probability p, else 0.
        seed: of those draws; a draw is a function of seed, prompt and both texts.
        timeout: seconds that one call may take.
        retries: times that a labeller is asked again after it failed.
        setting: what it was given for; error messages begin with it.

    Raises:
        ConfigError: something that cannot be called with three lists, and is no queue.
    """

    def __init__(
        self,
        labels: Any,
        *,
        sampled: bool = False,
        seed: int = 0,
        timeout: float = math.inf,
        retries: int = 0,
        setting: str = "labels",
    ) -> None:
        self.queue = labels if isinstance(labels, LabelQueue) else None
        """Who answers rounds later; None where labels come at once."""
        if self.queue is None:
            _check_callable(labels, setting)
        self._labels = labels
        self._sampled = sampled
        self._seed = seed
        self._timeout = timeout
        self._retries = retries
        self._setting = setting

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller knows none.

        Raises:
            DataError: the wrong number of values, or one that is not finite.
            LabellerError: the labeller failed.
        """
        if not isinstance(self._labels, Utility) or not prompts:
            return [None] * len(prompts)
        call, columns = self._labels.utility, (list(prompts), list(responses))
        found = _numbers(self._attempt(lambda: limited(call, columns, self._timeout), retries=0))
        if found is None or len(found) != len(prompts):
            got = "no numbers" if found is None else f"{len(found)} values"
            raise DataError(f"{self._setting}: utility gave {got} for {len(prompts)} responses; give one number each")
        for prompt, response, value in zip(prompts, responses, found, strict=True):
            if not math.isfinite(value):
                where = f"response {response!r:.60} to {prompt!r:.60}"
                raise DataError(f"{self._setting}: utility {value} for {where}; it must be finite")
        return list(found)

    def preferences(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
        """Return the preference for `first` of each row, in [0, 1].

        Raises:
            DataError: the wrong number of labels, or one outside [0, 1]: a mistake that asking again would not mend.
            LabellerError: the labeller failed each time.
        """
        columns = list(prompts), list(first), list(second)
        found = self._attempt(lambda: limited(self._labels, columns, self._timeout), self._retries) if prompts else []
        return self._bits(self._checked(found, prompts), prompts, first, second)

    def read(self, pairs: Sequence[Pair]) -> list[float]:
        """Have pairs labelled at once, and read the true utility of each first response; return the labels.

        Raises:
            ConfigError: a queue, which answers later.
            DataError: labels or utilities that cannot be used.
            LabellerError: the labeller failed each time.
        """
        if self.queue is not None:
            raise ConfigError(f"{self._setting}: a queue answers rounds later; this run reads labels at once")
        prompts, first, _ = _columns(pairs)
        for pair, value in zip(pairs, self.utility(prompts, first), strict=True):
            pair.first_utility = value
        return self._label(pairs)

    def ask(self, pairs: Sequence[Pair], number: int) -> None:
        """Have pairs of round `number` labelled: now, or in the queue.

        Raises:
            DataError: labels that cannot be used.
            LabellerError: the labeller failed each time, or the queue could not be reached.
        """
        queue = self.queue
        if queue is None:
            self._label(pairs)
            return
        rows = zip(pairs, *_columns(pairs), strict=True)
        questions = [Question(pair.id, number, *texts) for pair, *texts in rows]
        self._attempt(lambda: queue.submit(questions), self._retries)

    def collect(self, pending: Mapping[str, Pair]) -> dict[str, float]:
        """Return the labels that came into the queue for pairs that wait, by id.

        Raises:
            DataError: a label outside [0, 1].
            LabellerError: the queue could not be reached.
        """
        said = {} if self.queue is None else self._attempt(self.queue.collect, self._retries)
        names = [name for name in pending if name in said]
        prompts = _columns([pending[name] for name in names])[0]
        return dict(zip(names, self._checked([said[name] for name in names], prompts), strict=True))

    def _label(self, pairs: Sequence[Pair]) -> list[float]:
        """Fill in labels; a labeller of `Utilities` is not asked where both utilities are known."""
        columns = _columns(pairs)
        known = [(pair.first_utility, pair.second_utility) for pair in pairs]
        differences = [u - v for u, v in known if u is not None and v is not None]
        if isinstance(self._labels, Utilities) and len(differences) == len(pairs):
            labels = self._bits([sigmoid(difference) for difference in differences], *columns)
        else:
            labels = self.preferences(*columns)
        for pair, label in zip(pairs, labels, strict=True):
            pair.label = label
        return labels

    def _attempt(self, work: Callable[[], Any], retries: int) -> Any:
        """Return what `work` returns, at once or after more attempts.

        Raises:
            ForesightedError: what `work` raises of ours: a mistake that another attempt would not mend.
            LabellerError: it failed each time; says in one line where.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return work()
            except ForesightedError:
                raise
            except (Exception, SystemExit) as error:  # whatever a labeller's network, model or file does
                said = f"{_where(error)}failed with {type(error).__name__}: {' '.join(str(error).split())}"
                if attempt > retries:
                    raise LabellerError(f"{self._setting}: {said}; mend it, then resume") from error
                _log.warning("%s: attempt %d %s", self._setting, attempt, said)
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))

    def _checked(self, found: Any, prompts: Sequence[str]) -> list[float]:
        values = _numbers(found)
        if values is None or len(values) != len(prompts):
            shown = json.dumps(found, default=repr)
            raise DataError(f"{self._setting}: got {shown[:80]} for {len(prompts)} pairs; return one number a pair")
        for prompt, value in zip(prompts, values, strict=True):
            if not 0 <= value <= 1:
                raise DataError(f"{self._setting}: got {value}; a preference lies in [0, 1] (prompt {prompt!r:.60})")
        return values

    def _bits(
        self, labels: list[float], prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[float]:
        if not self._sampled:
            return labels
        rows = zip(labels, prompts, first, second, strict=True)
        return [float(noise.uniform(self._seed, "label", *texts) < p) for p, *texts in rows]


def load_labels(config: TrainConfig, policy: Policy, device: torch.device) -> Asker:
    """Return whom a configuration asks, and how.

    Raises:
        ConfigError: an unknown source.
    """
    return Asker(load_labeller(config, policy, device), sampled=config.sampled_labels, seed=config.seed)


def _check_callable(labels: Any, setting: str) -> None:
    if not callable(labels):
        raise ConfigError(
            f"{setting}: got {labels!r:.60}; give a function of (prompts, first, second), or a queue with submit and"
            " collect"
        )
    with contextlib.suppress(ValueError):  # some callables have no signature
        try:
            inspect.signature(labels).bind([], [], [])
        except TypeError as error:
            name = getattr(labels, "__name__", type(labels).__name__)
            raise ConfigError(f"{setting}: {name} cannot be called with (prompts, first, second): {error}") from None


def _columns(pairs: Sequence[Pair]) -> tuple[list[str], list[str], list[str]]:
    prompts, first, second = ([text_of(getattr(p, name)) for p in pairs] for name in ("prompt", "first", "second"))
    return prompts, first, second


def _numbers(found: Any) -> list[float] | None:
    with contextlib.suppress(TypeError, ValueError):
        return [float(value) for value in found]
    return None


def _where(error: BaseException) -> str:
    """Return `FILE, line N ` of the last line of a labeller's own file that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [i for i, frame in enumerate(frames) if frame.filename.startswith(_HOME)]
    theirs = frames[ours[-1] + 1 :] if ours else frames
    own = [frame for frame in theirs if frame.filename == theirs[0].filename]
    return f"{own[-1].filename}, line {own[-1].lineno} " if own else ""


def limited(call: Callable[..., Any], columns: Sequence[list[str]], limit: float) -> Any:
    """Return what a sync or async function says of some columns, within a time.

    One that is still at it when the time is up is left alone and its answer dropped. Async functions run in one event
    loop that lives as long as the process, so that what they keep open between calls stays usable.

    Raises:
        TimeoutError: no answer in time.
    """
    own = call if inspect.iscoroutinefunction(call) else type(call).__call__  # of an object
    if inspect.iscoroutinefunction(own):

        async def awaited() -> Any:
            return await call(*columns)

        future = asyncio.run_coroutine_threadsafe(awaited(), _loop())
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
