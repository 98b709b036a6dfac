"""The actor that owns the reward model: named, detached, started again by Ray whenever its process or node dies."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foresighted.errors import ConfigError, ForesightedError, RunError
from foresighted.integrations.owner import Answer, OwnerConfig, RewardOwner
from foresighted.integrations.owner.config import MAY_CHANGE
from foresighted.integrations.ray.client import NAMESPACE, RayOwner, end, join, ray
from foresighted.integrations.ray.config import Placement
from foresighted.integrations.ray.replicas import spread
from foresighted.settings import from_mapping, names, read_yaml
from foresighted.store.directory import Taken

_log = logging.getLogger(__name__)
MOST_CALLS = 1_000_000
"""Calls that the actor holds at once. Ray's default of 1,000 would keep out a group's last member, and `status`."""

_LINGERS = 60.0
"""Seconds that a process may have the folder after Ray gave its node up."""


@dataclass(frozen=True)
class Plan:
    """What an owner is made of; two plans under one name are refused."""

    folder: str
    """Where it keeps versions and journal: on storage that every node sees, where it is to survive its node."""
    config: OwnerConfig
    placement: Placement = Placement()

    def differences(self, other: Plan) -> str:
        """Return what another plan has in place of this one's, for people."""
        pairs = [("out", self.folder, other.folder)]
        for mine, theirs in ((self.config.resolved(), other.config.resolved()), (self.placement, other.placement)):
            pairs += [
                (name, value, getattr(theirs, name)) for name, value in vars(mine).items() if name not in MAY_CHANGE
            ]
        return ", ".join(f"{name} {mine}, there {theirs}" for name, mine, theirs in pairs if mine != theirs)


def planned(config: str | os.PathLike[str], out: str | os.PathLike[str]) -> Plan:
    """Return the plan of a file of settings: those of `OwnerConfig`, and of `Placement` beside them.

    Args:
        config: YAML, the same that `foresighted serve --config` takes.
        out: the owner's folder, the same on every node.

    Raises:
        ConfigError: a setting that is unknown or out of range.
    """
    held = read_yaml(Path(config))
    own = {name: held.pop(name) for name in names(Placement) if name in held}
    return Plan(os.path.abspath(out), from_mapping(OwnerConfig, held), from_mapping(Placement, own))


class OwnerActor:
    """A `RewardOwner` behind Ray's calls.

    What is wrong with its folder is raised by every call, not by the constructor: an actor that fails while it is made
    has no name any more, and its callers would be told of Ray's trouble in place of the cause.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._owner: RewardOwner | None = None
        self._refused: ForesightedError | None = None
        self._turn = asyncio.Lock()
        context = ray().get_runtime_context()
        with warnings.catch_warnings(action="ignore"):  # Ray calls something of its own that it deprecates
            self._again = bool(context.was_current_actor_reconstructed)
        self._node = context.get_node_id()
        if self._again and not Path(plan.folder).exists():
            self._refused = RunError(
                f"{plan.folder}: not on node {self._node[:8]}, where Ray started the owner again; give it a folder on"
                " storage that all nodes share"
            )

    async def _opened(self) -> RewardOwner:
        """Return the owner, taken up where it lies; one that died with its node may have its folder a little longer."""
        async with self._turn:
            end = time.monotonic() + (_LINGERS if self._again else 0)
            while self._owner is None and self._refused is None:
                try:
                    scorer = spread(self.plan.config, self.plan.placement)
                    self._owner = RewardOwner.open(self.plan.folder, self.plan.config, scorer=scorer)
                    await self._tell()
                except Taken as error:
                    if time.monotonic() > end:
                        raise RunError(str(error)) from None  # the next call tries again
                    await asyncio.sleep(1)
                except ForesightedError as error:
                    self._refused = error
        if self._owner is None:
            raise self._refused or RunError(f"{self.plan.folder}: closed")
        return self._owner

    async def _tell(self) -> None:
        """Say what an owner that died has lost."""
        if self._again and self._owner is not None:
            status = await self._owner.status()
            _log.warning(
                "owner: taken up again at version %d with %d groups answered; groups that were coming together are"
                " asked for again by their callers, nothing acknowledged is lost", status["version"], status["groups"],
            )  # fmt: skip  # one argument a line says no more

    async def score(self, *words: Any, **given: Any) -> Answer:
        """Pay a member of a group."""
        return await (await self._opened()).score(*words, **given)

    async def score_group(self, *words: Any, **given: Any) -> list[Answer]:
        """Pay a group."""
        return await (await self._opened()).score_group(*words, **given)

    async def status(self) -> dict[str, Any]:
        """Return the owner's status, where it runs, and whether it was taken up again there."""
        owner = await self._opened()
        where = {"node": self._node, "pid": os.getpid(), "folder": self.plan.folder, "taken_up_again": self._again}
        return {**await owner.status(), **where}

    async def rollback(self, version: int, reason: str) -> None:
        """Go back to a version."""
        await (await self._opened()).rollback(version, reason)

    async def tie(self, run: str, step: int) -> int:
        """Tie a trainer's checkpoint to the version of now."""
        return await (await self._opened()).tie(run, step)

    async def restore(self, run: str, step: int) -> int:
        """Go back to the version that is tied to a trainer's checkpoint."""
        return await (await self._opened()).restore(run, step)

    async def close(self) -> None:
        """Close the journal; nothing is answered afterwards."""
        async with self._turn:
            owner, self._owner = self._owner, None
            self._refused = self._refused or RunError(f"{self.plan.folder}: its owner was closed")
            if owner is not None:
                await owner.close()

    async def made_of(self) -> Plan:
        """Return what it is made of; raises where it could not be made."""
        await self._opened()
        return self.plan


def start(name: str, plan: Plan) -> RayOwner:
    """Return the owner of a name, made where there is none. Safe to be called by many processes at once.

    Args:
        name: under which every job of the cluster finds it.
        plan: what it is made of.

    Raises:
        ConfigError: there is one of that name, made of something else.
        ForesightedError: what is wrong with its folder, configuration or models.
    """
    module = join()
    options = {
        "name": name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True,
        "num_cpus": plan.placement.cpus, "num_gpus": plan.placement.gpus, "max_restarts": -1, "max_task_retries": -1,
        "max_concurrency": MOST_CALLS,
    }  # fmt: skip  # one table
    module.remote(OwnerActor).options(**options).remote(plan)
    owner = RayOwner(name)
    try:
        there: Plan = owner.wait("made_of")
    except ForesightedError:
        end(name)  # it could not be made, and would keep the name
        raise
    if told := plan.differences(there):
        raise ConfigError(
            f"owner {name!r}: runs already, made of something else ({told}); use it as it is, give another name, or"
            f" stop it (foresighted owner stop ray:{name})"
        )
    return owner
