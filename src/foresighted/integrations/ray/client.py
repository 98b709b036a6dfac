"""The owner of a name, asked from any process of the cluster."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from foresighted.errors import ConfigError, ForesightedError, RunError, one_line
from foresighted.integrations.owner import Answer
from foresighted.types import Text

_log = logging.getLogger(__name__)
NAMESPACE = "foresighted"
"""The Ray namespace of every owner: the same for all jobs of a cluster, whatever namespace they run in."""
_PAUSE = 1.0
"""Seconds before an owner that cannot be reached is asked again."""
_PATIENCE = 120.0
"""Seconds between two lines that say so."""


def ray() -> Any:
    """Return the module of Ray.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        told = (
            f"ray: {error.name} is not installed here; use the engine's own environment, or pip install 'ray[default]'"
        )
        raise ConfigError(told) from None


def join(address: str | None = None) -> Any:
    """Return the module of Ray, connected to a cluster: the one this process belongs to, or the one at an address.

    Raises:
        ConfigError: there is none.
    """
    module = ray()
    if not module.is_initialized():
        try:
            module.init(address=address or "auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            where = "on this machine" if address is None else f"at {address}"
            raise ConfigError(
                f"ray: no cluster {where} ({one_line(error)[:160]}); start one with `ray start --head`, or give"
                " --address HOST:PORT"
            ) from None
    return module


def find(name: str) -> Any:
    """Return the handle of an owner's actor.

    Raises:
        RunError: there is no owner of that name in the cluster.
    """
    module = ray()
    try:
        return module.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        there = sorted(
            a["name"] for a in module.util.list_named_actors(all_namespaces=True) if a["namespace"] == NAMESPACE
        )
        known = f"there is {', '.join(there)}" if there else "there is none at all"
        raise RunError(
            f"owner {name!r}: not in this Ray cluster ({known}); start it with `foresighted serve --ray {name}`"
        ) from None


def end(name: str) -> None:
    """End the actor of an owner for good."""
    ray().kill(find(name), no_restart=True)


class RayOwner:
    """A `RewardOwner` that lives in an actor: the same methods, for any process of the cluster.

    A call outlives the owner: it is asked again, with the same key, once Ray has the actor up again, and gets the
    answer that stands in the journal. An error of the owner is raised here as it was raised there.

    Args:
        name: of the owner.

    Raises:
        RunError: there is none of that name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._actor = find(name)

    async def score(
        self, run: str, group: str, member: int, size: int, prompt: Text, response: Text, *, step: int | None = None,
        evaluation: bool = False, references: Sequence[Text] | None = None,
    ) -> Answer:  # fmt: skip  # one argument a line says no more
        """Return what one member of a group is paid, once the group is whole."""
        given = {"step": step, "evaluation": evaluation, "references": references}
        answer: Answer = await self.ask("score", run, group, member, size, prompt, response, **given)
        return answer

    async def score_group(
        self, run: str, group: str, prompt: Text, responses: Sequence[Text], *, step: int | None = None,
        evaluation: bool = False, references: Sequence[Text] | None = None,
    ) -> list[Answer]:  # fmt: skip  # one argument a line says no more
        """Return what every member of a group is paid."""
        given = {"step": step, "evaluation": evaluation, "references": references}
        answers: list[Answer] = await self.ask("score_group", run, group, prompt, responses, **given)
        return answers

    async def ask(self, method: str, *words: Any, **given: Any) -> Any:
        """Await a method of the owner.

        Raises:
            ForesightedError: what the owner raised, or that it has died for good.
        """
        for pause in self._pauses():
            try:
                return await getattr(self._actor, method).remote(*words, **given)
            except Exception as error:
                self._told(error)
            await asyncio.sleep(pause)

    def wait(self, method: str, *words: Any, within: float | None = None, **given: Any) -> Any:
        """Do as `ask` does, where no event loop runs.

        Args:
            method: of the owner.
            *words: its arguments.
            within: seconds after which it is given up; None: never.
            **given: its arguments by name.

        Raises:
            ForesightedError: what the owner raised, or that it has died for good, or does not answer in time.
        """
        for pause in self._pauses():
            try:
                return ray().get(getattr(self._actor, method).remote(*words, **given), timeout=within)
            except ray().exceptions.GetTimeoutError:
                raise RunError(
                    f"owner {self.name!r}: no answer within {within:g} s; Ray may be starting it again, or lack the"
                    " CPUs and GPUs that it needs"
                ) from None
            except Exception as error:
                self._told(error)
            time.sleep(pause)

    def _pauses(self) -> Iterator[float]:
        """Yield as long as the owner is away, and say so now and then."""
        began = said = time.monotonic()
        while True:
            yield _PAUSE
            if (now := time.monotonic()) - said > _PATIENCE:
                said = now
                _log.warning("owner %r: away for %.0f s; waiting for Ray to start it again", self.name, now - began)

    def _told(self, error: Exception) -> None:
        """Raise what an error of Ray means; return where the owner is only away."""
        known = ray().exceptions
        if isinstance(error, known.ActorUnavailableError):
            return
        if isinstance(error, known.RayTaskError):
            cause = error.cause
            if isinstance(cause, ForesightedError):
                raise cause from None
            raise RunError(
                f"owner {self.name!r}: a fault there ({one_line(cause)[:300]}); its own log has more"
            ) from None
        if isinstance(error, known.RayActorError):
            if "creation task" in (text := str(error)):
                last = text.strip().splitlines()[-1]
                raise RunError(f"owner {self.name!r}: Ray cannot start it there ({last[:300]})") from None
            raise RunError(
                f"owner {self.name!r}: it was stopped; nothing acknowledged is lost, `foresighted serve --ray"
                f" {self.name}` with the same folder takes it up"
            ) from None
        raise error
