"""The follower inside a trainer: one of several equal replicas, and a probe that shows how far it moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from foresighted.alignment.follower import Follower
from foresighted.influence.passes import ROWS
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.processes import Processes
from foresighted.labels.buffer import Buffer
from foresighted.models.fingerprint import quick_fingerprint
from foresighted.models.learner import Learner
from foresighted.models.loading import reward_model as load_reward_model
from foresighted.models.pretrained import Lora
from foresighted.models.reward_model import RewardModel
from foresighted.types import Text


@dataclass
class Probe:
    """Responses whose rewards are read again after every update."""

    prompts: list[Text] = field(default_factory=list)
    responses: list[Text] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    """Their rewards when the probe was taken."""


class Replica(Follower):
    """The reward model of a run as one process holds it.

    Args:
        reward_model: the reward model, on its device.
        config: how it learns.
        together: the processes that hold a replica.
    """

    def __init__(self, reward_model: RewardModel, config: FPOConfig, together: Processes) -> None:
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
            share=together.share,
            reduce=together.sum,
        )
        self.config = config
        self.together = together
        self.probe = Probe()

    @cached_property
    def frozen_fingerprint(self) -> str:
        """Hash of the weights that never change: a checkpoint holds the others only, and belongs to these."""
        trained = {id(p) for p in self.learner.parameters.values()}
        body = self.reward_model.body.named_parameters()
        return quick_fingerprint({name: p for name, p in body if id(p) not in trained})

    def update(self) -> float | None:
        """Learn as every `Follower` does, the same on every process.

        Raises:
            NumericalError: a loss that is not finite.
            RunError: replicas that differ afterwards.
        """
        loss = super().update()
        if loss is not None:
            when = f"update {self.buffer.counts.updates}"
            self.together.check_equal(self.learner.parameters, "reward model", when)
        return loss

    def take_probe(self, prompts: list[Text], responses: list[Text]) -> None:
        """Keep the first responses of a run as the probe."""
        size = self.config.probe_size
        if not self.probe.prompts and size:
            self.probe = Probe(prompts[:size], responses[:size], self.rewards(prompts[:size], responses[:size]))

    def drift(self) -> float | None:
        """Return the mean absolute change of the probe's rewards since it was taken; None without a probe."""
        if not self.probe.prompts:
            return None
        now = self.rewards(self.probe.prompts, self.probe.responses)
        return math.fsum(abs(a - b) for a, b in zip(now, self.probe.start, strict=True)) / len(now)

    @torch.no_grad()
    def rewards(self, prompts: list[Text], responses: list[Text]) -> list[float]:
        """Return the reward of each row."""
        features = self.reward_model.features(prompts, responses, chunk=self.config.influence_chunk or ROWS)
        values: list[float] = self.reward_model.rewards(features).tolist()
        return values


def loaded(source: Any, tokenizer: Any, config: FPOConfig) -> RewardModel:
    """Return a reward model as the settings read and train it, from a loaded one or the name of one."""
    return load_reward_model(
        source, tokenizer, train=config.reward_model_train, layout=config.reward_model_input,
        append_eos=config.append_eos, max_length=config.reward_model_max_length, seed=config.seed,
        lora=Lora(config.reward_model_lora_rank, config.reward_model_lora_alpha),
    )  # fmt: skip  # one argument a line says no more
