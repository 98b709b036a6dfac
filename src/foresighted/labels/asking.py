"""Asking for labels: in time, again when it fails, checked, and as bits where a run wants bits."""

from __future__ import annotations

import asyncio
import copy
import inspect
import itertools
import logging
import math
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foresighted.errors import ConfigError, DataError, ForesightedError, RunError, one_line
from foresighted.labels.labellers import Left, Utilities, contained, first_parameter, load_labeller
from foresighted.labels.pair import Pair, sides
from foresighted.labels.queue import LabelQueue, Question, Skipping, as_queue
from foresighted.settings import TrainConfig
from foresighted.statistics.numbers import sigmoid
from foresighted.texts import text_of
from foresighted.types import Labeller, Utility

if TYPE_CHECKING:
    import torch

    from foresighted.models.policy import Policy

_log = logging.getLogger(__name__)
FIRST_WAIT = 0.5
"""Seconds before a labeller is asked again; twice as long each time."""
_HOME = str(Path(__file__).parents[1])
_PYTHON = str(Path(threading.__file__).parent)


class LabellerError(RunError):
    """A labeller that failed each time it was asked."""


class Asker:
    """Asks one labeller, whatever it is.

    Args:
        labels: a `types.Labeller`, an async function of the same arguments, a `LabelQueue`, or the folder of one
            (`FileQueue`).
        sampled: replace each preference p by 1 with probability p, else 0.
        seed: of those draws; a draw is a function of seed, prompt and both texts.
        timeout: seconds that one call may take.
        retries: times that a labeller is asked again after it failed.
        setting: what it was given for; error messages begin with it.

    Raises:
        ConfigError: something that cannot be called with three lists, and is no queue.
    """

    def __init__(
        self, labels: Any, *, sampled: bool = False, seed: int = 0, timeout: float = math.inf, retries: int = 0,
        setting: str = "labels",
    ) -> None:  # fmt: skip  # one argument a line says no more
        labels = as_queue(labels)
        self.queue = labels if isinstance(labels, LabelQueue) else None
        """Who answers rounds later; None where labels come at once."""
        if self.queue is None:
            first_parameter(setting, labels, "(prompts, first, second)", "or a queue: FOLDER/, or submit and collect")
        self._labels, self._setting = labels, setting
        self._sampled, self._seed = sampled, seed
        self._timeout, self._retries = timeout, retries

    @property
    def knows_utility(self) -> bool:
        """Whether the labeller can say the true utility of a response."""
        return isinstance(self._labels, Utility)

    def with_seed(self, seed: int) -> Asker:
        """Return who asks the same labeller and draws from another seed."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller knows none.

        Raises:
            DataError: the wrong number of values, or one that is not finite.
            LabellerError: the labeller failed.
        """
        if not isinstance(self._labels, Utility) or not prompts:
            return [None] * len(prompts)
        call, columns = self._labels.utility, (list(prompts), list(responses))
        said = self._attempt(lambda: _listed(limited(call, columns, self._timeout), len(prompts)), retries=0)
        found = self._numbers(said, len(prompts), "responses", call)
        for response, value in zip(responses, found, strict=True):
            if not math.isfinite(value):
                told = f"{self._setting}: utility {value} of response {response!r:.60}; it must be finite"
                raise DataError(told + _see(call))
        return list(found)

    def preferences(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
        """Return the preference for `first` of each row, in [0, 1].

        Raises:
            DataError: the wrong number of labels, or one outside [0, 1]: a mistake that asking again would not mend.
            LabellerError: the labeller failed each time.
        """
        columns = list(prompts), list(first), list(second)
        return self._bits(self._said(*columns), *columns)

    def _said(self, prompts: list[str], first: list[str], second: list[str]) -> list[float]:
        if not prompts:
            return []
        asked = lambda: _listed(limited(self._labels, (prompts, first, second), self._timeout), len(prompts))  # noqa: E731
        return self._checked(self._attempt(asked, self._retries), prompts)

    def read(self, pairs: Sequence[Pair]) -> list[float]:
        """Have pairs of a round measured and labelled at once; raises what `read_together` does."""
        return read_together([(self, pairs)])[0]

    def measure(self, pairs: Sequence[Pair]) -> None:
        """Read the true utility of each candidate that pairs of a round hold, once; raises what `utility` does."""
        measure_together([(self, pairs)])

    def ask(self, pairs: Sequence[Pair], number: int) -> None:
        """Have pairs of round `number` labelled, now or in the queue; raises what `preferences` does."""
        queue = self.queue
        if queue is None:
            label_together([(self, pairs)])
            return
        questions = [Question(p.id, number, *texts) for p, *texts in zip(pairs, *_columns(pairs), strict=True)]
        self._attempt(lambda: queue.submit(questions), self._retries)

    def collect(self, pending: Mapping[str, Pair]) -> dict[str, float]:
        """Return the labels that came into the queue for pairs that wait, by id; raises what `preferences` does."""
        said = {} if self.queue is None else self._attempt(self.queue.collect, self._retries)
        if not isinstance(said, Mapping):
            raise DataError(
                f"{self._setting}: the queue's collect gave {_shown(said)}; return a mapping of ids to labels"
            )
        names = [name for name in pending if name in said]
        prompts, *_ = _columns([pending[name] for name in names])
        return dict(zip(names, self._checked([said[name] for name in names], prompts), strict=True))

    def skipped(self) -> Set[str]:
        """Return the ids of pairs in the queue that nobody will label; raises what `preferences` does."""
        queue = self.queue
        return set(self._attempt(queue.skipped, self._retries)) if isinstance(queue, Skipping) else set()

    def _attempt(self, work: Callable[[], Any], retries: int) -> Any:
        """Return what `work` returns, at once or after more attempts; if all fail, a `LabellerError` says where."""
        for attempt in itertools.count(1):
            try:
                return work()
            except ForesightedError:  # a mistake that another attempt would not mend
                raise
            except KeyboardInterrupt:
                raise
            except BaseException as raised:  # whatever a labeller's network, model or file does, sys.exit included
                error = raised.error if isinstance(raised, Left) else raised
                where = _where(error)
                said = f"{where}failed with {one_line(error)}{'' if where else _see(self._labels)}"
                if attempt > retries:
                    raise LabellerError(f"{self._setting}: {said}; mend it, then resume") from error
                _log.warning("%s: attempt %d %s", self._setting, attempt, said)
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))

    def _numbers(self, found: Any, count: int, what: str, said_by: Any) -> list[float]:
        """Return what `_listed` made as numbers; raises a `DataError` where it is not one for each."""
        got, values = _shown(found), []
        for value in found if isinstance(found, list) and len(found) == count else ():
            if isinstance(value, str | bytes | bytearray):  # "0.5" may be a number, and " 1_0" is one to Python
                got = f"{_shown(value)} ({type(value).__name__}, not a number)"
                break
            try:
                values.append(float(value))
            except (Exception, SystemExit):  # whatever somebody's `__float__` does
                got = f"{_shown(value)} among the numbers"
        if len(values) != count:
            told = f"{self._setting}: got {got} for {count} {what}; return one number a {what[:-1]}"
            raise DataError(told + _see(said_by))
        return values

    def _checked(self, found: Any, prompts: Sequence[str]) -> list[float]:
        values = self._numbers(found, len(prompts), "pairs", self._labels)
        for prompt, value in zip(prompts, values, strict=True):
            if not 0 <= value <= 1:
                told = f"{self._setting}: got {value}; a preference lies in [0, 1] (prompt {prompt!r:.60})"
                raise DataError(told + _see(self._labels))
        return values

    def _bits(
        self, labels: list[float], prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[float]:
        if not self._sampled:
            return labels
        from foresighted.models import noise

        rows = zip(labels, prompts, first, second, strict=True)
        return [float(noise.uniform(self._seed, "label", *texts) < p) for p, *texts in rows]


def forgiven(work: Callable[[], Any], otherwise: Any, said: str) -> Any:
    """Return what `work` returns: whatever a labeller's network or model does, training goes on."""
    try:
        return work()
    except LabellerError as error:
        _log.warning("%s; %s", error, said)
        return otherwise


Asked = Sequence[tuple[Asker, Sequence[Pair]]]
"""Pairs, and by whom they are asked: of one labeller, with draws of their own."""


def read_together(asked: Asked) -> list[list[float]]:
    """Have pairs of a round of one or several experiments measured and labelled at once, each in one call.

    Raises:
        ConfigError: a queue, which answers later.
        DataError: see `Asker.utility` and `Asker.preferences`.
        LabellerError: see there.
    """
    for asker, _ in asked:
        if asker.queue is not None:
            raise ConfigError(f"{asker._setting}: a queue answers rounds later; this run reads labels at once")
    measure_together(asked)
    return label_together(asked)


def measure_together(asked: Asked) -> None:
    """Read the true utility of each candidate that pairs hold, once; raises what `Asker.utility` does."""
    held = [{(b, n): (p.prompt, p.first if first else p.second) for p, b, n, first in sides(own)} for _, own in asked]
    rows = [[(text_of(prompt), text_of(text)) for prompt, text in own.values()] for own in held]
    columns = [(asker, [p for p, _ in own], [t for _, t in own]) for (asker, _), own in zip(asked, rows, strict=True)]
    said = utility_together(columns)
    for (_, pairs), texts, values in zip(asked, held, said, strict=True):
        known = dict(zip(texts, values, strict=True))
        for pair, group, n, first in sides(pairs):
            if first:
                pair.first_utility = known[group, n]
            else:
                pair.second_utility = known[group, n]


def utility_together(
    asked: Sequence[tuple[Asker, Sequence[str], Sequence[str]]],
) -> list[list[float | None]]:
    """Return the true utility of each response of one or several experiments; raises what `Asker.utility` does."""
    rows, places = merged([list(zip(prompts, texts, strict=True)) for _, prompts, texts in asked])
    said = asked[0][0].utility(*_transposed(rows, 2))
    return [[said[place] for place in own] for own in places]


def label_together(asked: Asked) -> list[list[float]]:
    """Fill in labels; a labeller of `Utilities` is not asked where both utilities are known."""
    columns = [_columns(pairs) for _, pairs in asked]
    known = [(pair.first_utility, pair.second_utility) for _, pairs in asked for pair in pairs]
    differences = [u - v for u, v in known if u is not None and v is not None]
    asker = asked[0][0]
    if isinstance(asker._labels, Utilities) and len(differences) == len(known):
        ready = iter([sigmoid(difference) for difference in differences])
        said = [[next(ready) for _ in pairs] for _, pairs in asked]
    else:
        rows, places = merged([list(zip(*own, strict=True)) for own in columns])
        values = asker._said(*_transposed(rows, 3))
        said = [[values[place] for place in own] for own in places]
    found = [own._bits(labels, *texts) for (own, _), labels, texts in zip(asked, said, columns, strict=True)]
    for (_, pairs), labels in zip(asked, found, strict=True):
        for pair, label in zip(pairs, labels, strict=True):
            pair.label = label
    return found


def merged(rows: Sequence[Sequence[Any]]) -> tuple[list[Any], list[list[int]]]:
    """Return the rows of several experiments, those that they have alike once, and where each finds its own.

    What one experiment asks twice is asked twice: two answers of a judge may differ.
    """
    places: dict[Any, int] = {}
    found: list[list[int]] = []
    for own in rows:
        times: Counter[Any] = Counter()
        found.append([])
        for row in own:
            found[-1].append(places.setdefault((row, times[row]), len(places)))
            times[row] += 1
    return [row for row, _ in places], found


def _transposed(rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], ...]:
    return tuple([row[column] for row in rows] for column in range(width))


def load_labels(config: TrainConfig, policy: Policy, device: torch.device, given: Labeller | None = None) -> Asker:
    """Return whom a configuration asks, and how; raises what `load_labeller` does."""
    labeller = load_labeller(config, policy, device) if given is None else given
    return Asker(labeller, sampled=config.sampled_labels, seed=config.seed)


def _columns(pairs: Sequence[Pair]) -> tuple[list[str], list[str], list[str]]:
    prompts, first, second = ([text_of(getattr(p, name)) for p in pairs] for name in ("prompt", "first", "second"))
    return prompts, first, second


def _where(error: BaseException) -> str:
    """Return `FILE, line N ` of the last line of a labeller's own file that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [i for i, frame in enumerate(frames) if frame.filename.startswith(_HOME)]
    theirs = [frame for frame in (frames[ours[-1] + 1 :] if ours else frames) if not _waits(frame.filename)]
    own = [frame for frame in theirs if frame.filename == theirs[0].filename]
    return f"{own[-1].filename}, line {own[-1].lineno} " if own else ""


def _waits(file: str) -> bool:
    """Return whether a file is Python's own, where it waits for others."""
    return file.startswith(_PYTHON) and "site-packages" not in file


def _listed(said: Any, count: int) -> Any:
    """Return what a labeller said as a list of at most one value more than it should be; anything else as it is.

    A text, a set or a mapping is no list of labels, though it can be gone through.
    """
    if isinstance(said, str | bytes | bytearray | Mapping | Set) or not hasattr(type(said), "__iter__"):
        return said
    return list(itertools.islice(said, count + 1))


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except Exception:  # of an object of the user's, or a whole number of 5000 digits
        return f"a value of type {type(value).__name__}"


def _see(labels: Any) -> str:
    """Return `; see FILE, line N`, where a labeller is defined, or nothing where nobody knows."""
    own = inspect.unwrap(labels)
    code = getattr(own if inspect.isroutine(own) else type(own).__call__, "__code__", None)
    return f"; see {code.co_filename}, line {code.co_firstlineno}" if code is not None else ""


def limited(call: Callable[..., Any], columns: Sequence[list[str]], limit: float) -> Any:
    """Return what a sync or async function says of some columns, within a time.

    One that is still at it when the time is up is left alone and its answer dropped. Async functions run in one event
    loop that lives as long as the process, so that what they keep open between calls stays usable.

    Raises:
        TimeoutError: no answer in time.
    """
    own = call if inspect.iscoroutinefunction(call) else type(call).__call__  # of an object

    async def awaited() -> Any:
        return await contained(call(*columns))

    if inspect.iscoroutinefunction(own):
        future = asyncio.run_coroutine_threadsafe(awaited(), _loop())
    elif math.isinf(limit):
        return call(*columns)
    else:
        future = _in_thread(lambda: call(*columns))
    try:
        return future.result(None if math.isinf(limit) else limit)
    except TimeoutError:
        if future.done():  # the labeller's own
            raise
        future.cancel()
        raise TimeoutError(f"no answer within {limit:g} s") from None


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="foresighted-labels").start()
    return loop


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Return what will come of `work`, in a thread that does not keep the process alive."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed to the caller
            future.set_exception(error)

    future.set_running_or_notify_cancel()  # so that nobody cancels what a thread goes on with
    threading.Thread(target=run, daemon=True, name="foresighted-labels").start()
    return future
