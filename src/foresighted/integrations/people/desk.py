"""Who is asked what: one pair at a time for each person, and nothing again that was answered, but for stated shares.

All of it follows from the folder and from names, so that a server that was killed goes on where it was. In memory are
only the pairs that people are looking at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Literal, NamedTuple

from foresighted.errors import DataError
from foresighted.integrations.people.settings import LabelConfig
from foresighted.labels.answers import Answer, Ask, drawn, standing
from foresighted.labels.queue import FileQueue, Question

Choice = Literal["1", "2", "0", "s"]
"""What a person says: response 1 or 2 is better, they tie, or the pair is skipped."""
LEASE = 600.0
"""Seconds for which a pair that one person looks at is not given to another."""
LONGEST = 86_400.0
"""Seconds, at most, that an answer took."""


class RefusedError(DataError):
    """An answer that is not taken; the words are for the person who gave it."""


class Asked(NamedTuple):
    """A pair before a person."""

    question: Question
    ask: Ask
    turned: bool
    """`second` is shown as response 1."""

    @property
    def responses(self) -> tuple[str, str]:
        """The responses, in the order in which they are shown."""
        first, second = self.question.first, self.question.second
        return (second, first) if self.turned else (first, second)


class Progress(NamedTuple):
    """How far a person is."""

    answered: int
    """By this person, skipped ones included."""
    open: int
    """Pairs that this person can be asked now."""
    seconds: float | None
    """Median time of this person's answers."""


@dataclass
class _Lease:
    name: str
    ask: Ask
    since: float
    firm: bool = False
    """The person took an answer back: the pair is asked again whoever else has answered it meanwhile."""


_Standing = Mapping[tuple[str, str, Ask], Answer]


class Desk:
    """Hands out pairs and takes answers.

    Args:
        queue: the folder.
        config: which pairs are asked more than once.
        clock: seconds that never go back.
    """

    def __init__(self, queue: FileQueue, config: LabelConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._config = config
        self._clock = clock
        self._leases: dict[str, _Lease] = {}

    def ask(self, person: str) -> Asked | None:
        """Return the pair that a person is to look at, the same until it is answered; None where there is none."""
        questions, found = self._queue.questions(), standing(self._queue.answers())
        mine, lease = _of(person, found), self._leases.pop(person, None)
        if lease is not None and self._stands(lease, person, questions, found):
            self._leases[person] = lease
            lease.since = self._clock()
            return self._asked(questions[lease.name], person, lease.ask)
        fresh = next(self._open(person, questions, found), None)
        due = next(self._due(mine, questions), None)
        turn = due if due is not None and (fresh is None or len(mine) % 3 == 0) else fresh
        if turn is None:
            return None
        question, ask = turn
        self._leases[person] = _Lease(question.id, ask, self._clock())
        return self._asked(question, person, ask)

    def answer(self, person: str, name: str, ask: Ask, choice: Choice, seconds: float | None = None) -> None:
        """Take an answer; it is on the disk before this returns. The same one sent twice is taken once.

        Raises:
            RefusedError: no such pair, one that this person is not asked so, or another answer stands already.
        """
        questions, found = self._queue.questions(), standing(self._queue.answers())
        if name not in questions:
            raise RefusedError(f"no pair {name!r:.60} is in this queue; go on with the next one")
        if ask != "new" and (self._kind(name) != ask or (name, person, "new") not in found):
            raise RefusedError("this pair is not asked again; go on with the next one")
        asked = self._asked(questions[name], person, ask)
        label = {"1": 0.0 if asked.turned else 1.0, "2": 1.0 if asked.turned else 0.0, "0": 0.5, "s": None}[choice]
        if (before := found.get((name, person, ask))) is not None:
            if before.label != label:
                raise RefusedError("you have answered this pair otherwise; take that back with u first")
            return
        took = None if seconds is None else round(min(max(seconds, 0.0), LONGEST), 1)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._queue.answer([Answer(name, label, person, ask, asked.turned, took, at)])
        self._leases.pop(person, None)

    def undo(self, person: str) -> bool:
        """Take back a person's newest answer, and put its pair before them again; False where there is none."""
        mine = [answer for answer in _of(person, standing(self._queue.answers())) if answer.turned is not None]
        if not mine:
            return False
        last = mine[-1]
        self._queue.answer([Answer(last.id, None, person, last.ask, last.turned, undone=True)])
        self._leases[person] = _Lease(last.id, last.ask, self._clock(), firm=True)
        return True

    def progress(self, person: str) -> Progress:
        """Return how far a person is."""
        questions, found = self._queue.questions(), standing(self._queue.answers())
        mine = _of(person, found)
        left = sum(1 for _ in self._open(person, questions, found)) + sum(1 for _ in self._due(mine, questions))
        took = [answer.seconds for answer in mine if answer.seconds is not None]
        return Progress(len(mine), left, median(took) if took else None)

    def _stands(self, lease: _Lease, person: str, questions: Mapping[str, Question], found: _Standing) -> bool:
        """Return whether the pair before a person is still to be answered."""
        if lease.name not in questions or (lease.name, person, lease.ask) in found:
            return False
        others = {answer.by for answer in found.values() if answer.id == lease.name and answer.label is not None}
        return lease.firm or lease.ask != "new" or len(others) < self._wanted(lease.name)

    def _wanted(self, name: str) -> int:
        """Return how many people are asked about a pair."""
        return 2 if drawn(name, "shared") < self._config.shared else 1

    def _open(self, person: str, questions: Mapping[str, Question], found: _Standing) -> Iterator[tuple[Question, Ask]]:
        """Yield the pairs that nobody answered, and those that a second person is asked, in the order of asking."""
        others: dict[str, set[str]] = {}
        for answer in found.values():
            if answer.label is not None or answer.by == person:
                others.setdefault(answer.id, set()).add(answer.by)
        now = self._clock()
        held = {lease.name for who, lease in self._leases.items() if who != person and now - lease.since < LEASE}
        sign = -1 if self._config.order == "newest" else 1
        for question in sorted(questions.values(), key=lambda q: (sign * q.round, drawn(q.id, "order"))):
            said = others.get(question.id, set())
            if person not in said and len(said) < self._wanted(question.id) and question.id not in held:
                yield question, "new"

    def _due(self, mine: Sequence[Answer], questions: Mapping[str, Question]) -> Iterator[tuple[Question, Ask]]:
        """Yield the pairs that a person answered long enough ago to be asked again."""
        again = {answer.id for answer in mine if answer.ask != "new"}
        for place, answer in enumerate(mine):
            ask = self._kind(answer.id)
            late = len(mine) - place > self._config.gap
            wanted = answer.ask == "new" and answer.label is not None and answer.turned is not None
            if ask is not None and late and wanted and answer.id not in again and answer.id in questions:
                yield questions[answer.id], ask

    def _kind(self, name: str) -> Ask | None:
        """Return how a pair is asked again, if it is."""
        place, config = drawn(name, "again"), self._config
        if place < config.both_orders:
            return "swapped"
        return "again" if place < config.both_orders + config.again else None

    def _asked(self, question: Question, person: str, ask: Ask) -> Asked:
        turned = drawn(question.id, "turned", person) < 0.5
        return Asked(question, ask, turned if ask != "swapped" else not turned)


def _of(person: str, found: _Standing) -> list[Answer]:
    return [answer for answer in found.values() if answer.by == person]
