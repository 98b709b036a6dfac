"""What verl's configuration says of the owner, and whether its reward workers hold what is sampled at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foresighted.errors import ConfigError, nearest
from foresighted.integrations.ray.actor import Plan, planned, start
from foresighted.integrations.ray.client import RayOwner

_log = logging.getLogger(__name__)
HELD = 1000
"""Calls that a RewardLoopWorker holds at once: Ray's default for actors with async methods, which verl leaves so."""
_MANAGER = "pkg://foresighted.integrations.verl"


@dataclass(frozen=True)
class Asked:
    """The section `foresighted` of verl's configuration, and what of the rest it needs.

    Example:
        python -m verl.trainer.main_ppo ... +foresighted.owner=rewards +foresighted.config=owner.yaml \\
            +foresighted.out=/shared/owner
    """

    owner: str
    """Name of the owner in the cluster."""
    run: str
    """What verl calls the run: project_name/experiment_name."""
    size: int
    """Responses of a prompt."""
    plan: Plan | None
    """What the owner is made of where there is none; None: it is there already."""

    @classmethod
    def of(cls, config: Any) -> Asked:
        """Read verl's whole configuration.

        Raises:
            ConfigError: names what is missing, unknown or too small.
        """
        said = _section(config)
        trainer = config.trainer
        if not trainer.get("use_v1", True):
            raise ConfigError(
                "trainer.use_v1: got false; the owner tells evaluation by the V1 trainer's queue, use true"
            )
        if config.reward.reward_model.enable and config.reward.custom_reward_function.path is None:
            told = "verl would ask that model and leave the owner out; use false, the owner has the reward model"
            raise ConfigError(f"reward.reward_model.enable: got true; {told}")
        if "owner" not in said:
            raise ConfigError("foresighted.owner: missing; name the owner with +foresighted.owner=NAME")
        plan = planned(said["config"], said["out"]) if "config" in said else None
        run = f"{trainer.project_name}/{trainer.experiment_name}"
        return cls(str(said["owner"]), run, int(config.actor_rollout_ref.rollout.n), plan)

    def connect(self) -> RayOwner:
        """Return the owner, made where there is none and the configuration says of what.

        Raises:
            ForesightedError: there is none, or it is made of something else.
        """
        return RayOwner(self.owner) if self.plan is None else start(self.owner, self.plan)


def _section(config: Any) -> dict[str, Any]:
    found = config.get("foresighted")
    if not isinstance(found, Mapping):
        raise ConfigError("foresighted: missing in verl's configuration; name the owner with +foresighted.owner=NAME")
    said = {str(name): value for name, value in found.items() if value is not None}
    known = ("owner", "config", "out")
    for name in said:
        if name not in known:
            raise ConfigError(f"foresighted.{name}: unknown{nearest(name, known)}; known are {', '.join(known)}")
    if ("config" in said) != ("out" in said):
        one = "out" if "config" in said else "config"
        raise ConfigError(
            f"foresighted.{one}: missing; an owner is made of +foresighted.config=FILE and +foresighted.out=FOLDER"
        )
    return said


def in_flight(config: Any) -> int:
    """Return the most responses that verl has scored at once."""
    data, trainer = config.data, config.trainer
    prompts = int(data.get("gen_batch_size", None) or data.train_batch_size)
    prompts = max(prompts, int(data.train_batch_size))
    mode, filtered = trainer.v1.trainer_mode, config.algorithm.get("filter_groups", None)
    if filtered is not None and filtered.get("enable", False):
        prompts = math.ceil(prompts * max(1, filtered.get("max_inflight_gen_batches", 1)))
    if mode != "sync":  # batches that are generated ahead, and those of the step that goes on
        own = trainer.v1[mode]
        prompts = math.ceil(prompts * (1 + own.get("num_warmup_batches", 1) + own.get("parameter_sync_step", 1)))
    return prompts * int(config.actor_rollout_ref.rollout.n)


def fewest_workers(samples: int) -> int:
    """Return how many reward workers hold so many responses without filling one up.

    Each response goes to a worker at random, so m of them on average mean m + 5 sqrt(m) on the fullest.
    """
    workers = max(1, math.ceil(samples / HELD))
    while workers > 1 and samples / workers + 5 * math.sqrt(samples / workers) > HELD:
        workers += 1
    return workers


def check_capacity(config: Any) -> None:
    """Refuse a run whose groups would block each other: a worker that is full of incomplete groups takes no sibling in.

    Raises:
        ConfigError: names the number of workers that is enough.
    """
    samples, workers = in_flight(config), int(config.reward.num_workers)
    if (enough := fewest_workers(samples)) > workers:
        raise ConfigError(
            f"reward.num_workers: got {workers}; {samples} responses are scored at once, and a worker holds {HELD}, so"
            f" groups would wait for members that no worker takes in; use reward.num_workers={enough}, or smaller"
            " batches"
        )


def check_manager(config: Any) -> None:
    """Refuse a checkpoint callback without the reward manager it belongs to.

    Raises:
        ConfigError: says what to set.
    """
    found = config.reward.reward_manager
    if found.source != "importlib" or found.name != "RewardManager" or found.module.path != _MANAGER:
        raise ConfigError(
            f"reward.reward_manager: got {found.source} {found.name}; the callback ties its owner's versions, set"
            f" reward.reward_manager.source=importlib reward.reward_manager.name=RewardManager"
            f" reward.reward_manager.module.path={_MANAGER}"
        )
    own = config.trainer.v1
    if own.trainer_mode == "sync" and not own.sampler.get("sync_refill_failed_groups", False):
        _log.warning(
            "trainer.v1.sampler.sync_refill_failed_groups is false: verl leaves a group out of a step whose reward"
            " failed; set it to true to have such groups sampled again"
        )
