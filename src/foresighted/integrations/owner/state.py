"""What an owner knows, made from its journal alone: what was answered, labelled, learnt, and what is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from foresighted.integrations.owner.events import (
    Asked,
    Collected,
    Event,
    Group,
    Incomplete,
    Labels,
    Restore,
    Rollback,
    Round,
    Tie,
)
from foresighted.integrations.owner.journal import read
from foresighted.labels.buffer import Buffer, Counts
from foresighted.labels.pair import Pair, Place, unequal
from foresighted.prompts import prompt_id
from foresighted.types import Text

SPREAD_OF = 64
"""Groups by which it is known how far rewards differ: those before a group, and itself."""
MOST_PROMPTS = 4096
"""Whose references are kept; beyond it those that came first are forgotten."""


@dataclass
class Scored:
    """A group of a round that is not closed yet."""

    place: int
    number: int
    pairs: list[Pair]
    labels: Labels | None = None


@dataclass
class State:
    """What the events so far come to. Changed by `apply` alone.

    Args:
        every: K, groups of a round.
        pending: pairs that may wait in a queue.
        queued: labels come from a queue, rounds later.
        labelled: somebody labels at all.
        memory: as `Buffer` takes it.
    """

    every: int
    pending: int
    queued: bool
    labelled: bool
    memory: int
    version: int = 0
    """Of the reward model that scores."""
    newest: int = 0
    number: int = 0
    """Of the last group."""
    rounds: int = 0
    closed: Round | None = None
    """The last one."""
    last: list[Scored] = field(default_factory=list)
    """Its groups."""
    open: list[Scored] = field(default_factory=list)
    """Groups of rounds that are not closed, in order."""
    answered: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """Run and group -> where its lines begin, in bytes: one, unless its texts were others later."""
    references: dict[str, list[Text]] = field(default_factory=dict)
    """By the prompt's id, as they came first."""
    made: dict[int, Round] = field(default_factory=dict)
    """Version -> the round that made it."""
    learnt: dict[int, list[Pair]] = field(default_factory=dict)
    """Version -> the pairs that were new to it."""
    ties: dict[tuple[str, int], tuple[int, Tie]] = field(default_factory=dict)
    """Run and step -> where its line begins, and what it says."""
    groups: int = 0
    responses: int = 0
    bare: int = 0
    """Responses that were paid the bare reward though they were not evaluated."""
    refused: int = 0
    """Responses that got an error, for their group was incomplete."""
    rollbacks: int = 0
    alone: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=SPREAD_OF))
    """Margin over its reference, and S, of the last responses that came alone, in groups of one."""
    apart: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=SPREAD_OF))
    """Spread of the rewards of each of the last larger groups, and size of what gamma multiplies in its penalties."""
    buffer: Buffer = field(init=False)

    def __post_init__(self) -> None:
        self.buffer = Buffer(self.pending)

    def apply(self, event: Event, place: int) -> None:
        """Take an event that begins at a place of the journal."""
        match event:
            case Group():
                self._group(event, place)
            case Labels():
                self._labels(event)
            case Collected():
                self.buffer.arrived(event.labels)
            case Round():
                self._round(event)
            case Rollback():
                self.version = event.version
                self.rollbacks += 1
            case Tie():
                self.ties[event.run, event.step] = (place, event)
            case Incomplete():
                self.refused += len(event.members)

    def _group(self, event: Group, place: int) -> None:
        self.number = max(self.number, event.number)
        self.answered.setdefault((event.run, event.group), []).append(place)
        self.groups += 1
        self.responses += len(event.members)
        self.bare += 0 if event.foresight else len(event.members)
        if event.references:
            self.references.setdefault(prompt_id(event.prompt), event.references)
            for name in list(self.references)[: max(0, len(self.references) - MOST_PROMPTS)]:
                del self.references[name]
        if event.size == 1 and event.references:
            self.alone.extend((m.score - m.reference, m.gram) for m in event.members)
        if event.spread is not None and event.base_size is not None:
            self.apart.append((event.spread, event.base_size))
        if event.whole:
            pairs = [pair_of(event, asked) for asked in event.pairs]
            unequal(pairs)
            self.open.append(Scored(place, event.number, pairs))

    def _labels(self, event: Labels) -> None:
        scored = next((one for one in self.open if one.number == event.number), None)
        if scored is None or scored.labels is not None:
            return
        scored.labels = event
        for pair, said in zip(scored.pairs, event.known, strict=True):
            pair.label, pair.first_utility, pair.second_utility = said.label, said.first_utility, said.second_utility
        asked = [pair for pair in scored.pairs if pair.asked]
        if event.failed:
            self.buffer.fail(len(asked))
        elif self.queued:
            self.buffer.wait_for(asked)
        else:
            self.buffer.add(asked, read=len(asked))

    def _round(self, event: Round) -> None:
        self.rounds, self.closed = event.number, event
        self.last, self.open = self.open[: event.groups], self.open[event.groups :]
        known = set(event.learnt)
        taken = [pair for pair in self.buffer.ready if pair.id in known]
        self.buffer.ready = [pair for pair in self.buffer.ready if pair.id not in known]
        if event.version is not None:
            self.version, self.newest = event.version, max(self.newest, event.version)
            self.made[event.version], self.learnt[event.version] = event, taken if self.memory else []
            counts = self.buffer.counts
            counts.updates += 1
            counts.labels_trained += len(taken)
            counts.labels_sum += event.labels_sum

    @property
    def unlabelled(self) -> list[Scored]:
        """Groups that somebody has to be asked about, in order."""
        return [one for one in self.open if one.labels is None] if self.labelled else []

    @property
    def due(self) -> list[Scored]:
        """The groups of a round that can be closed; none where there is no such round."""
        first = self.open[: self.every]
        ready = len(first) == self.every and all(one.labels is not None or not self.labelled for one in first)
        return first if ready else []

    def lineage(self, version: int) -> list[int]:
        """Return the versions from which a version comes, the first update first, itself last."""
        found: list[int] = []
        while version in self.made:
            found.insert(0, version)
            version = self.made[version].parent
        return found

    def kept(self, version: int) -> list[Pair]:
        """Return what a version learnt from and goes on learning from, the oldest first."""
        found = [pair for one in self.lineage(version) for pair in self.learnt[one]]
        return found[-self.memory :] if self.memory > 0 else found

    def counts(self, version: int) -> Counts:
        """Return what was counted so far, with the labels that a version learnt from."""
        made = [self.made[one] for one in self.lineage(version)]
        return replace(
            self.buffer.counts,
            rounds=self.rounds,
            updates=len(made),
            labels_trained=sum(len(one.learnt) for one in made),
            labels_sum=sum(one.labels_sum for one in made),
        )


def pair_of(group: Group, asked: Asked) -> Pair:
    """Return a pair of a group."""
    texts = {m.member: m.text for m in group.members}
    order = [m.member for m in group.members]
    first = texts[order[asked.first]]
    second = group.references[0] if asked.second is None else texts[order[asked.second]]
    pair = Pair(asked.id, group.prompt, first, second, place=Place(0, asked.first, asked.second))
    return pair


def replayed(path: Path, new: State) -> State:
    """Return a state to which everything was applied that a journal says and that still holds."""
    gone = abandoned(read(path))
    numbers: set[int] = set()
    for place, event in read(path):
        if isinstance(event, Group):
            new.number = max(new.number, event.number)
        if isinstance(event, Round) and event.version is not None:
            new.newest = max(new.newest, event.version)
        left = any(start < place < stop for start, stop in gone)
        kept = isinstance(event, Collected) or (isinstance(event, Labels) and event.number in numbers)
        if left and not kept:
            continue
        if isinstance(event, Group):
            numbers.add(event.number)
        if isinstance(event, Restore):
            new.version = event.version
        new.apply(event, place)
    return new


def abandoned(events: Iterable[tuple[int, Event]]) -> Sequence[tuple[int, int]]:
    """Return the stretches of a journal that a trainer left behind when it went on from an earlier step, in bytes."""
    return [(event.place, place) for place, event in events if isinstance(event, Restore)]
