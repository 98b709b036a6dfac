"""The players of one run, or of several that share what is frozen."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from foresighted.alignment.ensemble import Ensemble
from foresighted.alignment.follower import Follower
from foresighted.alignment.foresight import Foresight
from foresighted.alignment.given import Given
from foresighted.alignment.reset import Resets
from foresighted.alignment.round import Loop
from foresighted.alignment.start import Start
from foresighted.alignment.together import Together
from foresighted.errors import RunError
from foresighted.labels.asking import Asker, load_labels
from foresighted.labels.waiting import check_late
from foresighted.models.learner import Learner, policy_learner, reward_model_learner
from foresighted.models.loading import load_policy, load_reward_model
from foresighted.models.memory import keep_freed
from foresighted.models.policy import Policy
from foresighted.models.precision import faster
from foresighted.models.reward_model import RewardModel
from foresighted.models.stacked import Stack
from foresighted.settings import TrainConfig, read_yaml
from foresighted.store.directory import CONFIG
from foresighted.types import Prompt

_log = logging.getLogger(__name__)


def players(config: TrainConfig, given: Given, prompts: Sequence[Prompt], start: Path) -> Loop:
    """Load the players of a run, who have learnt nothing yet; no file is written."""
    device = _prepared(config)
    policy = load_policy(config, device, **_copied(given.policy))
    reward_model = load_reward_model(config, device, **_copied(given.reward_model))
    labels = load_labels(config, policy, device, given.labels)
    learner = policy_learner(policy.trainable(), config)
    return _loop(config, policy, learner, reward_model, labels, Start(start, config, policy, labels, prompts))


class Shared:
    """What runs of one comparison have in common, loaded once; no file is written.

    It is the frozen policy, the labeller and, where a head alone is trained and read, the reward model's body.

    Args:
        config: of any of the runs.
        given: objects in place of names.
        prompts: for training.
    """

    def __init__(self, config: TrainConfig, given: Given, prompts: Sequence[Prompt]) -> None:
        self.device = _prepared(config)
        self.policy = load_policy(config, self.device, **_copied(given.policy))
        self._given, self._prompts = given, prompts
        self._labels = load_labels(config, self.policy, self.device, given.labels)
        self._reward_model = self._loaded(config)

    def _loaded(self, config: TrainConfig) -> RewardModel:
        return load_reward_model(config, self.device, **_copied(self._given.reward_model))

    def loops(
        self, configs: Sequence[TrainConfig], starts: Sequence[Path], stack: Stack
    ) -> tuple[list[Loop], Together]:
        """Return the players of some runs, who have learnt nothing yet, and who does what they ask.

        Args:
            configs: which differ in what an arm may set, and in the seed.
            starts: folder of references and first reward model of each.
            stack: of the policy.
        """
        heads = all(config.reward_model_train == config.scope == "head" for config in configs)
        kept: dict[Path, Start] = {}
        loops = []
        for config, start in zip(configs, starts, strict=True):
            reward_model = self._reward_model.with_own_head() if heads else self._loaded(config)
            labels = self._labels.with_seed(config.seed)
            own = kept.setdefault(start, Start(start, config, self.policy, labels, self._prompts))
            learner = policy_learner(stack.fresh(config.seed), config)
            loops.append(_loop(config, self.policy, learner, reward_model, labels, own))
        return loops, Together(loops, stack, self._reward_model if heads else None)


def _loop(
    config: TrainConfig, policy: Policy, policy_learner: Learner, reward_model: RewardModel, labels: Asker, start: Start
) -> Loop:
    check_late(config, labels)
    if config.ensemble > 1:
        follower: Follower = Ensemble(reward_model, config)
    else:
        follower = Follower(reward_model, reward_model_learner(reward_model.trainable(), config), config=config)
    foresight = Foresight(config, reward_model, follower.learner.optimizer, references=config.references)
    return Loop(config, policy, policy_learner, follower, foresight, labels, start, Resets(config, policy_learner))


def _prepared(config: TrainConfig) -> torch.device:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = find_device(config)
    if device.type == "cpu":
        keep_freed()
    return device


def _copied(given: tuple[Any, Any] | None) -> dict[str, Any]:
    return {} if given is None else dict(zip(("model", "tokenizer"), copy.deepcopy(given), strict=True))


def fit(loop: Loop) -> None:
    """Bring the reward model to its state before the first round, and count the labels of the initial pairs."""
    loop.follower.begin(loop.start.fit(loop.follower.reward_model))


def with_dtype(config: TrainConfig, out: Path, loops: int) -> TrainConfig:
    """Return the same settings with the precision that `auto` comes to.

    It is what the directory says, else the faster one for the rows of so many loops, said in one line.
    """
    if config.dtype != "auto":
        return config
    saved = read_yaml(out / CONFIG).get("dtype") if (out / CONFIG).exists() else None
    if saved in ("float32", "bfloat16", "float16"):
        return replace(config, dtype=saved)
    rows = loops * config.prompts_per_round * config.candidates
    found = faster(_prepared(config), rows)
    _log.warning("dtype: %s is the faster one here for %d rows", found, rows)
    return replace(config, dtype=found)  # type: ignore[arg-type]


def find_device(config: TrainConfig) -> torch.device:
    """Return the device of a run.

    Raises:
        RunError: more than one process; `foresighted train` is for one.
    """
    state = PartialState()
    if state.num_processes > 1:
        raise RunError(f"started as {state.num_processes} processes; foresighted train runs in one: start it plainly")
    return named_device(state.device if config.device == "auto" else config.device)


def named_device(name: str | torch.device) -> torch.device:
    """Return a device that computes.

    Raises:
        RunError: it is not in this build of torch, or not in this machine.
    """
    try:
        found = torch.zeros(1, device=name)
        found.item()  # meta has none
        return found.device
    except (RuntimeError, AssertionError):  # unknown; not in this build of torch or this machine
        raise RunError(f"device: torch has no {str(name)!r} here; use auto, cpu, cuda, cuda:1 or mps") from None
