"""What was asked, what came back, what the reward model has learnt from, and the pairs between one and the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from foresighted.labels.pair import Pair

_PLAIN = ("id", "prompt", "first", "second", "label")


@dataclass
class Counts:
    """What a run has done so far; the same on every process that holds the reward model."""

    rounds: int = 0
    """Reward calls of training, where a trainer makes them."""
    updates: int = 0
    """Of the reward model."""
    labels_total: int = 0
    """Labels read."""
    labels_trained: int = 0
    labels_sum: float = 0.0
    """Of those that the reward model learnt from: how many, and their sum as it read them, in single precision."""
    labels_failed: int = 0
    """Labels asked for and not given: their rounds were skipped."""
    rounds_failed: int = 0
    """Of the last rounds, one after the other, those without any answer."""
    given_up: int = 0
    """Pairs that waited too long in a queue."""


class Buffer:
    """Pairs on their way from a labeller to the reward model, and the counts of a run.

    Args:
        most_pending: pairs that may wait for labels of a queue; the oldest are given up first.
        memory: pairs learnt from before that are learnt from again, the newest; -1: all.
    """

    def __init__(self, most_pending: int = 10_000, memory: int = 0) -> None:
        self._most_pending = most_pending
        self._memory = memory
        self.counts = Counts()
        self.ready: list[Pair] = []
        """Labelled, not learnt from yet."""
        self.pending: dict[str, Pair] = {}
        """Asked for in a queue."""
        self.kept: list[Pair] = []
        """Learnt from before and to be learnt from again, the oldest first."""

    @property
    def baseline(self) -> float:
        """Mean label that the reward model learnt from so far; one half before there is any."""
        return self.counts.labels_sum / self.counts.labels_trained if self.counts.labels_trained else 0.5

    def add(self, pairs: Sequence[Pair], *, read: int) -> None:
        """Take labelled pairs to learn from, and count the labels that were read for them and for others."""
        self.ready += pairs
        self.counts.labels_total += read
        self.counts.rounds_failed = 0

    def fail(self, count: int) -> None:
        """Count the labels of a round that nobody gave."""
        self.counts.labels_failed += count
        self.counts.rounds_failed += 1

    def wait_for(self, pairs: Sequence[Pair]) -> None:
        """Keep pairs until their labels come; beyond the limit the oldest are given up."""
        self.counts.rounds_failed = 0
        self.pending |= {pair.id: pair for pair in pairs}
        while len(self.pending) > self._most_pending:
            del self.pending[next(iter(self.pending))]
            self.counts.given_up += 1

    def arrived(self, labels: Mapping[str, float]) -> None:
        """Take labels of pairs that wait; the records of their rounds stay as they were written."""
        here = [replace(self.pending.pop(name), label=labels[name]) for name in sorted(labels) if name in self.pending]
        self.ready += here
        self.counts.labels_total += len(here)

    def take(self) -> list[Pair]:
        """Return the labelled pairs that are new; from now on they are no longer."""
        pairs, self.ready = self.ready, []
        return pairs

    def keep(self, pairs: Sequence[Pair]) -> None:
        """Remember pairs to learn from again, as many as the memory holds."""
        self.kept += pairs if self._memory else ()
        if self._memory > 0:
            self.kept = self.kept[-self._memory :]

    def learnt(self, labels: Tensor) -> None:
        """Count an update of the reward model, and the labels that it learnt from for the first time, shape pairs."""
        self.counts.updates += 1
        self.counts.labels_trained += len(labels)
        self.counts.labels_sum += float(labels.double().sum())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return counts and pairs as plain JSON, and the features of those pairs that have them."""
        parts = {"ready": self.ready, "pending": list(self.pending.values()), "kept": self.kept}
        pairs = [pair for part in parts.values() for pair in part]
        features = {str(i): pair.features for i, pair in enumerate(pairs) if pair.features is not None}
        plain = {
            name: [{field: getattr(pair, field) for field in _PLAIN} for pair in part] for name, part in parts.items()
        }
        return {"counts": asdict(self.counts), **plain}, features

    def load_state(
        self, counts: Counts, ready: Sequence[Pair], pending: Sequence[Pair], kept: Sequence[Pair],
        features: Mapping[str, Tensor],
    ) -> None:  # fmt: skip  # one argument a line says no more
        """Put back what `state` returned, read as what it was."""
        for i, pair in enumerate((*ready, *pending, *kept)):
            pair.features = features.get(str(i))
        self.ready, self.pending, self.kept = list(ready), {pair.id: pair for pair in pending}, list(kept)
        self.counts = counts
