"""The follower inside a trainer: the reward model, its optimiser, the pairs it has not learnt from yet, its drift."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from foresighted.integrations.trl.classifier import Classifier
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.pairs import Labelled
from foresighted.integrations.trl.processes import Processes, fingerprint
from foresighted.models.learner import Learner
from foresighted.types import Text


@dataclass
class Counts:
    """What a run has done so far; the same on every process that holds the reward model."""

    rounds: int = 0
    """Reward calls of training."""
    updates: int = 0
    labels_total: int = 0
    """Labels read."""
    labels_trained: int = 0
    labels_sum: float = 0.0
    """Of those that the reward model learnt from: how many, and their sum."""
    labels_failed: int = 0
    """Labels asked for and not given: their rounds were skipped."""
    rounds_failed: int = 0
    """Of the last rounds, one after the other, those without any answer."""
    given_up: int = 0
    """Pairs that waited too long in a queue."""


@dataclass
class Probe:
    """Responses whose rewards are read again after every update."""

    prompts: list[Text] = field(default_factory=list)
    responses: list[Text] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    """Their rewards when the probe was taken."""


class Follower:
    """The reward model of a run and what it learns from.

    Args:
        classifier: the reward model, on its device.
        config: how it learns.
        together: the processes that hold a replica.
    """

    def __init__(self, classifier: Classifier, config: FPOConfig, together: Processes) -> None:
        self.classifier = classifier
        self.config = config
        self.together = together
        parameters = classifier.trainable()
        optimizer = torch.optim.AdamW(parameters.values(), lr=config.reward_model_learning_rate, weight_decay=0.0)
        self.learner = Learner("reward model", parameters, optimizer, max_grad_norm=config.reward_model_max_grad_norm)
        self.counts = Counts()
        self.ready: list[Labelled] = []
        """Labelled, not learnt from yet."""
        self.pending: dict[str, Labelled] = {}
        """Asked for in a queue."""
        self.probe = Probe()

    @cached_property
    def frozen_fingerprint(self) -> str:
        """Hash of the weights that never change: a checkpoint holds the others only, and belongs to these."""
        trained = {id(p) for p in self.learner.parameters.values()}
        body = self.classifier.body.named_parameters()
        return fingerprint({name: p for name, p in body if id(p) not in trained})

    @property
    def baseline(self) -> float:
        """Mean label that the reward model learnt from so far; one half before there is any."""
        return self.counts.labels_sum / self.counts.labels_trained if self.counts.labels_trained else 0.5

    def wait_for(self, pairs: list[Labelled]) -> None:
        """Keep pairs until their labels come; the oldest are given up beyond `pending_pairs`."""
        self.pending |= {pair.id: pair for pair in pairs}
        while len(self.pending) > self.config.pending_pairs:
            del self.pending[next(iter(self.pending))]
            self.counts.given_up += 1

    def arrived(self, labels: dict[str, float]) -> None:
        """Take labels of pairs that wait."""
        here = [(self.pending.pop(name), labels[name]) for name in sorted(labels) if name in self.pending]
        for pair, label in here:
            pair.label = label
            self.ready.append(pair)
        self.counts.labels_total += len(here)

    def update(self) -> float | None:
        """Learn from the labelled pairs that are new, the same on every process; return the loss before it.

        None where there is no new pair.

        Raises:
            NumericalError: a loss that is not finite.
            RunError: replicas that differ afterwards.
        """
        pairs, self.ready = self.ready, []
        if not pairs:
            return None
        labels = [float(pair.label or 0.0) for pair in pairs]
        label = torch.tensor(labels, device=self.classifier.head.weight.device)
        known = self._features(pairs)

        def loss(index: list[int]) -> Tensor:
            chosen = [pairs[i] for i in index]
            features = None if known is None else (known[index, 0], known[index, 1])
            return self.classifier.loss(
                [p.prompt for p in chosen], [p.first for p in chosen], [p.second for p in chosen],
                label[index], features,
            )  # fmt: skip

        # A head on known features costs nothing: every process does all of it, in the bits of one process alone.
        mine = range(len(pairs)) if known is not None else self.together.share(len(pairs))
        self.learner.accumulation = max(1, math.ceil(len(mine) / self.config.reward_model_batch_size))
        value = self.learner.learn(
            len(pairs), loss, steps=self.config.reward_model_steps, mine=mine,
            reduce=None if known is not None else self.together.sum,
        )  # fmt: skip
        self.counts.updates += 1
        self.counts.labels_trained += len(pairs)
        self.counts.labels_sum += math.fsum(labels)
        self.together.check_equal(self.learner.parameters, "reward model", f"update {self.counts.updates}")
        return value

    def _features(self, pairs: list[Labelled]) -> Tensor | None:
        found = [pair.features for pair in pairs if pair.features is not None]
        return torch.stack(found) if self.classifier.head_only and len(found) == len(pairs) else None

    def take_probe(self, prompts: list[Text], responses: list[Text]) -> None:
        """Keep the first responses of a run as the probe."""
        size = self.config.probe_size
        if not self.probe.prompts and size:
            self.probe = Probe(prompts[:size], responses[:size], [])
            self.probe.start = self._probe_rewards()

    def drift(self) -> float | None:
        """Return the mean absolute change of the probe's rewards since it was taken; None without a probe."""
        if not self.probe.prompts:
            return None
        now = self._probe_rewards()
        return math.fsum(abs(a - b) for a, b in zip(now, self.probe.start, strict=True)) / len(now)

    def _probe_rewards(self) -> list[float]:
        return self.rewards(self.probe.prompts, self.probe.responses).tolist()

    @torch.no_grad()
    def rewards(self, prompts: list[Text], responses: list[Text]) -> Tensor:
        """Return the reward of each row, shape R."""
        features = self.classifier.features(prompts, responses, chunk=self.config.influence_chunk)
        return self.classifier.rewards(features)
