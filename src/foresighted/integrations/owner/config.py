"""Settings of an owner of a reward model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foresighted.settings import LearningConfig, setting

MAY_CHANGE = (
    "labels", "device", "device_map", "group_deadline", "incomplete", "batch_rows", "label_timeout", "label_retries",
    "label_failures", "influence_chunk", "reward_model_batch_size",
)  # fmt: skip  # one table
"""Settings that may be others when an owner goes on: they leave what is computed as it is, but for the last bits."""


@dataclass(frozen=True)
class OwnerConfig(LearningConfig):
    """What a `RewardOwner` does: how it steers, how groups come together, how its reward model learns.

    Example:
        >>> OwnerConfig(reward_model="./my-reward-model", steering="practical", update_every=128).incomplete
        'error'
    """

    seed: int = setting(0, "run", "seed of sampled labels and a fresh adapter", low=0)
    device: str = setting("auto", "run", "'auto' (a GPU where torch finds one), 'cpu', 'cuda', 'cuda:1', 'mps'")
    device_map: str | None = setting(
        None, "run", "how Accelerate spreads the reward model over devices, in place of device: auto, balanced, ..."
    )
    group_deadline: float = setting(
        300.0, "groups", "seconds after a group's first response within which the others must come", above=0
    )
    incomplete: Literal["error", "bare"] = setting(
        "error",
        "groups",
        "what responses of a group get whose others did not come in time: an error, or the reward without foresight,"
        " flagged and counted",
    )
    reference: Literal["auto", "leave-one-out", "given"] = setting(
        "auto",
        "groups",
        "what a response is compared with: the mean of its group's other responses, or references of the frozen policy"
        " that come with a response of the prompt, once; auto: the last where there are any",
    )
    batch_rows: int = setting(64, "groups", "most responses that are read at a time, groups whole", low=1)

    reward_model: str = setting(
        "embedded:relevance",
        "reward model",
        "folder or hub id of a sequence classifier with one label, of an adapter on one; embedded, encoder:FOLDER for a"
        " head of zeros on an encoder, or embedded:relevance",
    )
    update_every: int = setting(64, "reward model", "K, whole groups between two updates of the reward model", low=1)
    labels: str | None = setting(
        None,
        "labels",
        "who labels: reward:MODEL, FILE.py:FUNCTION, or FOLDER/ for people; none: the reward model stays as it is",
    )
    label_timeout: float = setting(
        120.0, "labels", "seconds that a labeller may take for one call", above=0, high=math.inf
    )
