"""Settings of a reward model that learns from labelled pairs while somebody else's engine trains the policy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from foresighted.errors import ConfigError
from foresighted.settings.fields import setting
from foresighted.settings.steering import SteeringConfig


@dataclass(frozen=True)
class LearningConfig(SteeringConfig):
    """How a reward model is read, labelled and retrained: the part that `FPOConfig` and `OwnerConfig` share."""

    seed: int = setting(0, "run", "seed of sampled labels, reference responses and a fresh adapter", low=0)

    reward_model_input: Literal["auto", "text", "pair", "response"] = setting(
        "auto",
        "reward model",
        "what it reads: text (prompt + response, no special tokens, as GRPOTrainer does), pair (two segments, as"
        " encoders are trained), or the response alone; auto: pair where the tokenizer has a separator, else text."
        " Conversations go through the reward model's chat template where it has one",
    )
    append_eos: bool = setting(
        False, "reward model", "end each text with the end token, as RewardTrainer trains on plain pairs"
    )
    update_every: int = setting(1, "reward model", "K, reward calls between two updates of the reward model", low=1)
    reward_model_pairs: Literal["winner", "all"] = setting(
        "winner",
        "reward model",
        "pairs labelled a group: the best-scored response (against the worst, or its reference), or every response"
        " once (against its neighbour in a ring, or its reference). Forms that read labels take all",
    )
    reward_model_learning_rate: float = setting(
        5e-5, "reward model", "AdamW learning rate of the reward model", above=0
    )
    reward_model_batch_size: int = setting(
        16, "reward model", "most pairs in one pass through its body while it learns", low=1
    )
    reward_model_max_grad_norm: float = setting(
        1.0, "reward model", "its gradient is scaled down to this norm", above=0
    )
    reward_model_lora_rank: int = setting(
        16, "reward model", "rank of the adapter that reward_model_train lora puts on it", low=1
    )
    reward_model_lora_alpha: int = setting(32, "reward model", "LoRA scale is alpha / rank", low=1)
    probe_size: int = setting(
        16,
        "reward model",
        "responses of the first call whose rewards are read again after every update: the drift",
        low=0,
    )

    label_timeout: float = setting(
        120.0, "labels", "seconds that a labeller may take for one call", above=0, high=math.inf
    )
    label_retries: int = setting(2, "labels", "times that a labeller is asked again after it failed", low=0)
    label_failures: int = setting(
        10, "labels", "rounds without any answer, one after the other, that end the run", low=1
    )
    wait_for_labels: int = setting(
        0,
        "labels",
        "of a queue: labels that an update of the reward model waits for, fewer where everything is answered or"
        " skipped; 0: it goes on with those that came",
        low=0,
    )
    pending_pairs: int = setting(
        10_000, "labels", "most pairs that wait for labels of a queue; the oldest are given up first", low=1
    )

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield from super()._rules()
        told = "steering_labels: group is of foresighted train alone; use candidate or baseline"
        yield self.steering_labels != "group", told

    @property
    def every_pair(self) -> bool:
        """Whether every response of a group is labelled, or one pair a group."""
        return self.reads_labels or self.reward_model_pairs == "all"


def check_labels(config: LearningConfig, labelled: bool, queued: bool) -> None:
    """Refuse a form whose labels nobody gives in time.

    Raises:
        ConfigError: names the form and what to use.
    """
    if config.reads_labels and (queued or not labelled):
        why = "a queue answers rounds later" if queued else "got none"
        raise ConfigError(
            f"labels: {why}, and steering {config.steering} reads the label of every response at once; give a labeller,"
            " or use steering_labels='baseline' or steering='practical'"
        )
