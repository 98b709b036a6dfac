"""The follower: the reward model, the pairs on their way to it, and how it learns from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foresighted.labels.buffer import Buffer
from foresighted.labels.pair import Pair, label_means
from foresighted.models.learner import Learner
from foresighted.models.reward_model import RewardModel
from foresighted.settings import SteeringConfig


class Follower:
    """Learns from labelled pairs, wherever they come from.

    Args:
        reward_model: on its device.
        learner: of its trainable parameters.
        steps: optimiser steps an update, each over all new pairs.
        batch_size: most pairs in one pass; None leaves it to the learner's `accumulation`.
        buffer: what it learns from.
        share: the rows of so many that this process computes (None: all).
        reduce: sums tensors over the processes that hold a replica, in place.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        learner: Learner,
        *,
        steps: int,
        batch_size: int | None = None,
        buffer: Buffer | None = None,
        share: Callable[[int], range] | None = None,
        reduce: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> None:
        self.reward_model = reward_model
        self.learner = learner
        self.buffer = Buffer() if buffer is None else buffer
        self._steps = steps
        self._batch_size = batch_size
        self._share = share
        self._reduce = reduce

    def update(self) -> float | None:
        """Learn from the labelled pairs that are new; return the loss before it, None where there is no new pair.

        Raises:
            NumericalError: a loss that is not finite.
        """
        pairs = self.buffer.take()
        if not pairs:
            return None
        loss, label = self.learn(pairs)
        self.buffer.learnt(label)
        return loss

    def learn(self, pairs: Sequence[Pair]) -> tuple[float, Tensor]:
        """Take the steps of an update on some pairs, uncounted; return the mean loss before them, and the labels."""
        model, count = self.reward_model, len(pairs)
        label = torch.tensor([pair.label for pair in pairs], device=model.device)
        found = [pair.features for pair in pairs if pair.features is not None]
        known = torch.stack(found) if model.head_only and len(found) == count else None

        def loss(index: list[int]) -> Tensor:
            chosen = [pairs[i] for i in index]
            features = None if known is None else (known[index, 0], known[index, 1])
            prompts, first, second = ([getattr(p, name) for p in chosen] for name in ("prompt", "first", "second"))
            return model.loss(prompts, first, second, label[index], features)

        # A head on known features costs nothing: every process does all of it, in the bits of one process alone.
        mine = range(count) if known is not None or self._share is None else self._share(count)
        if self._batch_size is not None:
            self.learner.accumulation = max(1, math.ceil(len(mine) / self._batch_size))
        reduce = None if known is not None else self._reduce
        return self.learner.learn(count, loss, steps=self._steps, mine=mine, reduce=reduce), label

    def steering_label(self, config: SteeringConfig, pairs: Sequence[Pair], reward: Tensor) -> Tensor | None:
        """Return p* of every candidate, or the baseline for it where the form reads none, shape B N as `reward`.

        None where a label that the form reads is missing.
        """
        if not config.reads_labels:
            return torch.full_like(reward, self.buffer.baseline)
        known = label_means(pairs, *reward.shape)
        if any(label is None for row in known for label in row):
            return None
        return torch.tensor(known, device=reward.device, dtype=reward.dtype)
