"""The follower: the reward model, the pairs on their way to it, and how it learns from them."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foresighted.labels.buffer import Buffer, Counts
from foresighted.labels.pair import Pair, label_means
from foresighted.models.learner import Learner
from foresighted.models.reward_model import RewardModel
from foresighted.settings import SteeringConfig
from foresighted.settings.train import FEWEST
from foresighted.steering.pairwise import carried

_log = logging.getLogger(__name__)
PATIENCE = 5
"""Steps without a smaller loss on the held-back pairs after which `auto` stops."""
MOST_STEPS = 200


def partition(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return the tenth of some pairs that `auto` holds back, and the rest; a pair's id says which, for good."""
    sides: tuple[list[Pair], list[Pair]] = [], []
    for pair in pairs:
        digest = hashlib.sha256(pair.id.encode()).digest()
        sides[int.from_bytes(digest[:8], "little") % FEWEST > 0].append(pair)
    return sides


@dataclass(frozen=True)
class Lesson:
    """Pairs as a reward model learns from them."""

    model: RewardModel
    pairs: Sequence[Pair]
    label: Tensor
    known: Tensor | None
    """Head inputs of the first and of the second responses, shape 2 pairs D, where the head alone is trained."""

    def loss(self, index: list[int]) -> Tensor:
        """Return the mean loss of some pairs."""
        every = len(index) == len(self.pairs)
        label = self.label if every else self.label[index]
        if self.known is not None:  # of all pairs nothing is copied or listed, at every step, to be read once
            known = self.known if every else self.known[:, index]
            return self.model.loss_of_features(known[0], known[1], label)
        chosen = [self.pairs[i] for i in index]
        prompts, first, second = ([getattr(p, name) for p in chosen] for name in ("prompt", "first", "second"))
        return self.model.loss(prompts, first, second, label)

    @torch.no_grad()
    def now(self) -> float:
        """Return the mean loss of all of them."""
        return float(self.loss(list(range(len(self.pairs)))))


class Follower:
    """Learns from labelled pairs, wherever they come from.

    Args:
        reward_model: on its device.
        learner: of its trainable parameters.
        config: how it learns: steps an update, pairs that it remembers, what draws it back to where it began.
        steps: optimiser steps an update, where they are not the configuration's.
        batch_size: most pairs in one pass through the body; None leaves it to the learner's `accumulation`.
        buffer: what it learns from.
        share: the rows of so many that this process computes (None: all).
        reduce: sums tensors over the processes that hold a replica, in place.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        learner: Learner,
        *,
        config: SteeringConfig,
        steps: int | None = None,
        batch_size: int | None = None,
        buffer: Buffer | None = None,
        share: Callable[[int], range] | None = None,
        reduce: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> None:
        self.reward_model = reward_model
        self.learner = learner
        fit = config.fit
        self.buffer = Buffer(memory=fit.buffer) if buffer is None else buffer
        self._steps = fit.steps if steps is None else steps
        self._l2 = fit.l2
        self._start = self._weights() if self._l2 else {}
        self._batch_size = batch_size
        self._told = False
        self._share = share
        self._reduce = reduce

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Take the labelled pairs that the reward model was first fitted to: count and remember them."""
        labels = [pair.label for pair in pairs if pair.label is not None]
        self.buffer.counts = Counts(labels_total=len(labels), labels_trained=len(labels), labels_sum=math.fsum(labels))
        self.buffer.keep(pairs)

    def settle(self) -> None:
        """Bring the reward model to what was learnt, once the learner's parameters were put back."""

    def doubt(self, features: Tensor | None) -> Tensor | None:
        """Return the standard deviation of an ensemble's rewards of head inputs, shape B R from B R D; of one reward
        model None."""
        return None

    def dispute(self, features: Tensor | None, size: int) -> Tensor | None:
        """Return the standard deviation over an ensemble of the margin over the first reference, shape B `size`, of
        head inputs, B (`size` + M) D; of one reward model None."""
        return None

    def update(self) -> float | None:
        """Learn from the labelled pairs that are new and those remembered; return the loss before it, None where there
        is no new pair.

        Raises:
            NumericalError: a loss that is not finite.
        """
        pairs = self.buffer.take()
        if not pairs:
            return None
        loss = self.learn([*self.buffer.kept, *pairs])
        self.buffer.learnt(torch.tensor([pair.label for pair in pairs]))
        self.buffer.keep(pairs)
        return loss

    def learn(self, pairs: Sequence[Pair]) -> float:
        """Take the steps of an update on some pairs, uncounted; return the mean loss before them."""
        if self._steps != "auto":
            return self._learn(self._fit_to(pairs), self._steps)
        held, rest = partition(pairs)
        if len(pairs) < FEWEST or not held:
            if not self._told:
                _log.warning("reward_model_steps: auto takes one step while an update has fewer than %d pairs", FEWEST)
            self._told = True
            return self._learn(self._fit_to(pairs), 1)
        fit, of_held = self._fit_to(rest), self._fit_to(held)
        losses: list[float] = []
        best, since, kept = of_held.now(), 0, self._weights()
        while since < PATIENCE and len(losses) < MOST_STEPS:
            losses.append(self._learn(fit, 1))
            now = of_held.now()
            since = 0 if now < best else since + 1
            if now < best:
                best, kept = now, self._weights()
        with torch.no_grad():
            for name, parameter in self.learner.parameters.items():
                parameter.copy_(kept[name])
        return losses[0]

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.learner.parameters.items()}

    def _fit_to(self, pairs: Sequence[Pair]) -> Lesson:
        """Return some pairs as they are learnt from."""
        model = self.reward_model
        found = [pair.features for pair in pairs if pair.features is not None]
        known = torch.stack(found, 1) if model.head_only and pairs and len(found) == len(pairs) else None
        return Lesson(model, pairs, torch.tensor([pair.label for pair in pairs], device=model.device), known)

    def _learn(self, fit: Lesson, steps: int) -> float:
        count, known = len(fit.pairs), fit.known is not None

        def loss(index: list[int]) -> Tensor:
            if not self._l2:
                return fit.loss(index)
            away = [(p - self._start[name]).square().sum() for name, p in self.learner.parameters.items()]
            return fit.loss(index) + self._l2 / 2 * torch.stack(away).sum()

        # A head on known features costs nothing: every process does all of it, in the bits of one process alone.
        mine = range(count) if known or self._share is None else self._share(count)
        if self._batch_size is not None:
            self.learner.accumulation = 1 if known else max(1, math.ceil(len(mine) / self._batch_size))
        return self.learner.learn(count, loss, steps=steps, mine=mine, reduce=None if known else self._reduce)

    def steering_label(self, config: SteeringConfig, pairs: Sequence[Pair], reward: Tensor) -> Tensor | None:
        """Return p* of every candidate, or what stands for it: the label of one candidate of the prompt, carried over
        to the others, or the baseline; shape B N as `reward`.

        None where a label that the form reads is missing.
        """
        if not (config.reads_labels or config.carries_label):
            return torch.full_like(reward, self.buffer.baseline)
        known = label_means(pairs, *reward.shape)
        if config.carries_label:  # one a prompt is known
            found = [(n, label) for row in known for n, label in enumerate(row) if label is not None]
            where, label = (torch.tensor(column, device=reward.device)[:, None] for column in zip(*found, strict=True))
            others: Tensor = carried(label.to(reward.dtype), reward.gather(1, where), reward)
            return others
        if any(label is None for row in known for label in row):
            return None
        return torch.tensor(known, device=reward.device, dtype=reward.dtype)
