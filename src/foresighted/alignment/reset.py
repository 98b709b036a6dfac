"""Two ways back of a policy: it begins anew every k rounds, or returns to where labels say that it was best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from foresighted.labels.pair import Pair
from foresighted.models.learner import Learner
from foresighted.settings import TrainConfig
from foresighted.store.rows import read_json, write_json
from foresighted.store.tensors import save_tensors

MARGIN = 0.05
"""Share of wins by which a policy must have fallen to go back."""
EVIDENCE = 3.0
"""Standard errors by which it must have fallen: the best of many windows is a lucky one, too, and every round asks."""
_SEEN = "rollback.json"
_BEST = "rollback.safetensors"


class Snapshot(NamedTuple):
    """Weights that are trained and what their optimiser knows, at one moment."""

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    numbers: dict[str, float]


def taken(learner: Learner) -> Snapshot:
    """Return a copy of what a learner has come to, in the memory of the CPU."""
    tensors, numbers = learner.state()
    weights, states = (
        {name: value.detach().to("cpu", copy=True) for name, value in own.items()}
        for own in (learner.parameters, tensors)
    )
    return Snapshot(weights, states, dict(numbers))


def put_back(learner: Learner, snapshot: Snapshot) -> None:
    """Bring a learner to where it was; the snapshot stays what it is."""
    with torch.no_grad():
        for name, parameter in learner.parameters.items():
            parameter.copy_(snapshot.weights[name])
    states = {name: value.clone() for name, value in snapshot.tensors.items()}
    learner.load_state((states, snapshot.numbers))


@dataclass
class Seen:
    """What labels have said of the policy. A label is a prompt's: the mean of its labelled candidates'."""

    window: list[list[float]] = field(default_factory=list)
    """Labels of the newest rounds since the policy began or went back, the oldest first."""
    best: list[float] = field(default_factory=list)
    """Labels of the best window."""
    round: int = 0
    """Its last; 0 as long as there is none."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Of the optimiser, then."""


class Resets:
    """Takes the policy of one run back.

    Args:
        config: `policy_reset_every` and `rollback_window`.
        learner: of the policy, which has learnt nothing yet.
    """

    def __init__(self, config: TrainConfig, learner: Learner) -> None:
        self._every, self._window, self._learner = config.policy_reset_every, config.rollback_window, learner
        self._start = taken(learner) if self._every else None
        self._seen = Seen()
        self._best: Snapshot | None = None

    def at_start(self, number: int) -> int | None:
        """Let the policy begin anew before round `number`, where that is the first after k others.

        It gets its first weights, and an optimiser that has seen nothing. The reward model and its pairs stay.

        Returns:
            1, the round that was written with these weights; None where nothing happens.

        References:
            arXiv 2505.18126.
        """
        if self._start is None or number == 1 or (number - 1) % self._every:
            return None
        put_back(self._learner, self._start)
        return 1

    def by_labels(self, number: int, pairs: Sequence[Pair]) -> int | None:
        """Take the policy back to where it was best, where the labels of the newest rounds say that it has fallen.

        The best window is that with the greatest mean label so far; the policy that wrote its last round is kept, with
        its optimiser. After a return a window is filled anew before it is compared.

        Args:
            number: of the round that the policy, as it is, has written.
            pairs: of the round, against references, labelled or not.

        Returns:
            The round that was written with the weights that the policy has again; None where nothing happens.
        """
        if not self._window:
            return None
        seen = self._seen
        seen.window = [*seen.window, of_prompts(pairs)][-self._window :]
        now = [label for own in seen.window for label in own]
        if len(seen.window) < self._window:
            return None
        if self._best is None or fmean(now) > fmean(seen.best):
            self._best = taken(self._learner)
            self._seen = Seen(seen.window, now, number, self._best.numbers)
        elif fallen(seen.best, now):
            put_back(self._learner, self._best)
            seen.window = []
            return seen.round
        return None

    def save(self, folder: Path) -> None:
        """Write what labels have said and the best policy into a checkpoint, where they are read at all."""
        if self._window:
            write_json(folder / _SEEN, self._seen)
        if self._best is not None:
            parts = {"weights": self._best.weights, "optimizer": self._best.tensors}
            flat = {f"{part}/{name}": value for part, own in parts.items() for name, value in own.items()}
            save_tensors(folder / _BEST, flat)

    def restore(self, folder: Path) -> None:
        """Put back what `save` wrote."""
        if self._window:
            again = "remove this checkpoint to go on from the one before"
            self._seen = read_json(folder / _SEEN, Seen, what="what labels said", again=again)
        if self._seen.round:
            parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
            for key, value in load_file(folder / _BEST).items():
                part, _, name = key.partition("/")
                parts[part][name] = value
            self._best = Snapshot(parts["weights"], parts["optimizer"], self._seen.numbers)


def of_prompts(pairs: Sequence[Pair]) -> list[float]:
    """Return the mean label of each prompt's labelled candidates against their reference; none where none is."""
    found: dict[int, list[float]] = {}
    for pair in pairs:
        if pair.place is not None and pair.label is not None:
            found.setdefault(pair.place.group, []).append(pair.label)
    return [fmean(labels) for labels in found.values()]


def fallen(best: Sequence[float], now: Sequence[float]) -> bool:
    """Return whether labels are lower than they were, by more than a margin and more than chance explains.

        mean(best) - mean(now) > max(MARGIN, EVIDENCE s sqrt(1 / n_best + 1 / n_now)),    s the spread of all of them

    Windows that share rounds differ by less than that, so it is the harder to go back the nearer the best is.
    """
    error = stdev([*best, *now]) * math.sqrt(1 / len(best) + 1 / len(now))
    return fmean(best) - fmean(now) > max(MARGIN, EVIDENCE * error)
