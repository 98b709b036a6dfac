"""A follower with what it needs to learn beside somebody else's engine: an optimiser, a buffer, and a probe that shows
how far it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foresighted.alignment.follower import Follower
from foresighted.influence.passes import ROWS
from foresighted.labels.buffer import Buffer
from foresighted.models.fingerprint import quick_fingerprint
from foresighted.models.learner import Learner
from foresighted.models.loading import reward_model as load_reward_model
from foresighted.models.pretrained import Lora
from foresighted.models.reward_model import RewardModel
from foresighted.settings import LearningConfig
from foresighted.types import Text


@dataclass
class Probe:
    """Responses whose rewards are read again after every update."""

    prompts: list[Text] = field(default_factory=list)
    responses: list[Text] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    """Their rewards when the probe was taken."""


class ProbedFollower(Follower):
    """A reward model with AdamW over what of it is trained.

    Args:
        reward_model: the reward model, on its device.
        config: how it learns.
        share: as `Follower` takes it.
        reduce: as `Follower` takes it.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        config: LearningConfig,
        *,
        share: Callable[[int], range] | None = None,
        reduce: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> None:
        if config.reward_model_max_length is not None:  # a checkpoint's, where it was loaded with none
            reward_model.reader.longest = min(reward_model.reader.longest, config.reward_model_max_length)
        parameters = reward_model.trainable()
        optimizer = torch.optim.AdamW(parameters.values(), lr=config.reward_model_learning_rate, weight_decay=0.0)
        super().__init__(
            reward_model,
            Learner("reward model", parameters, optimizer, max_grad_norm=config.reward_model_max_grad_norm),
            config=config,
            batch_size=config.reward_model_batch_size,
            buffer=Buffer(config.pending_pairs, config.fit.buffer),
            share=share,
            reduce=reduce,
        )
        self.probe = Probe()
        self._read: tuple[Probe, Tensor] | None = None
        self._chunk, self._probe_size = config.influence_chunk or ROWS, config.probe_size

    @cached_property
    def frozen_fingerprint(self) -> str:
        """Hash of the weights that never change: a checkpoint holds the others only, and belongs to these."""
        trained = {id(p) for p in self.learner.parameters.values()}
        body = self.reward_model.body.named_parameters()
        return quick_fingerprint({name: p for name, p in body if id(p) not in trained})

    def take_probe(self, prompts: list[Text], responses: list[Text]) -> None:
        """Keep the first responses of a run as the probe."""
        size = self._probe_size
        if not self.probe.prompts and size:
            self.probe = Probe(prompts[:size], responses[:size])
            self.probe.start = self._rewards_of(self._probe_features())

    def drift(self) -> float | None:
        """Return the mean absolute change of the probe's rewards since it was taken; None without a probe."""
        if not self.probe.prompts:
            return None
        now = self._rewards_of(self._probe_features())
        return math.fsum(abs(a - b) for a, b in zip(now, self.probe.start, strict=True)) / len(now)

    def rewards(self, prompts: list[Text], responses: list[Text]) -> list[float]:
        """Return the reward of each row."""
        return self._rewards_of(self._features(prompts, responses))

    def _features(self, prompts: list[Text], responses: list[Text]) -> Tensor:
        return self.reward_model.features(prompts, responses, chunk=self._chunk)

    def _probe_features(self) -> Tensor:
        """Return the head's inputs of the probe; where the head alone is trained, they are read once."""
        if not self.reward_model.head_only or self._read is None or self._read[0] is not self.probe:
            self._read = self.probe, self._features(self.probe.prompts, self.probe.responses)
        return self._read[1]

    @torch.no_grad()
    def _rewards_of(self, features: Tensor) -> list[float]:
        values: list[float] = self.reward_model.rewards(features).tolist()
        return values


def loaded(
    source: Any, tokenizer: Any, config: LearningConfig, *, device_map: str | None = None
) -> RewardModel:  # fmt: skip
    """Return a reward model as the settings read and train it, from a loaded one or the name of one; `device_map` as
    `models.loading.reward_model` takes it."""
    return load_reward_model(
        source, tokenizer, train=config.reward_model_train, layout=config.reward_model_input,
        append_eos=config.append_eos, max_length=config.reward_model_max_length, seed=config.seed,
        lora=Lora(config.reward_model_lora_rank, config.reward_model_lora_alpha), device_map=device_map,
    )  # fmt: skip  # one argument a line says no more
