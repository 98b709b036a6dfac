"""Settings of foresight inside a TRL trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foresighted.errors import ConfigError
from foresighted.settings import SteeringConfig, setting


@dataclass(frozen=True)
class FPOConfig(SteeringConfig):
    """What `FPOReward` does in a trainer: how it steers, and how its reward model is read, labelled and retrained.

    Example:
        >>> FPOConfig(steering="proximal", gamma=1.0, gamma_unit="share", update_every=4).scope
        'head'
    """

    seed: int = setting(0, "run", "seed of sampled labels, reference responses and a fresh adapter", low=0)
    records: str | None = setting(
        "foresighted", "run", "folder of the records inside the trainer's output_dir, or none"
    )
    reference: Literal["leave-one-out", "column", "policy"] = setting(
        "leave-one-out",
        "run",
        "what a response is compared with: the mean of its group's other responses, a response in a column of the"
        " dataset, or one that the frozen policy writes",
    )
    reference_column: str = setting("reference", "run", "that column")
    reference_max_new_tokens: int = setting(
        64, "run", "longest response that the frozen policy writes, in tokens", low=1
    )

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
    placement: Literal["every-rank", "first-rank"] = setting(
        "every-rank",
        "reward model",
        "a replica on every process, or one model on the first process (which may spread it over devices)",
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
    reward_model_batch_size: int = setting(16, "reward model", "most pairs in one pass while it learns", low=1)
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

    sampled_labels: bool = setting(False, "labels", "turn each preference p into one bit: 1 with probability p")
    label_timeout: float = setting(
        120.0, "labels", "seconds that a labeller may take for one call", above=0, high=math.inf
    )
    label_retries: int = setting(2, "labels", "times that a labeller is asked again after it failed", low=0)
    label_failures: int = setting(
        10, "labels", "rounds without any answer, one after the other, that end the run", low=1
    )
    pending_pairs: int = setting(
        10_000, "labels", "most pairs that wait for labels of a queue; the oldest are given up first", low=1
    )

    @property
    def every_pair(self) -> bool:
        """Whether every response of a group is labelled, or one pair a group."""
        return self.reads_labels or self.reward_model_pairs == "all"


def check_labels(config: FPOConfig, labelled: bool, queued: bool) -> None:
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
