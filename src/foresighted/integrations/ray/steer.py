"""An owner in a Ray cluster from the command line: start it, look at it, stop it, have it go back."""

from __future__ import annotations

from typing import Any

from foresighted.errors import RunError
from foresighted.integrations.ray.actor import Plan, start
from foresighted.integrations.ray.client import RayOwner, end, join


def serve(name: str, plan: Plan, address: str | None) -> str:
    """Start an owner in a cluster, where it stays when this process ends; return what to tell.

    Args:
        name: of the owner.
        plan: what it is made of.
        address: of the cluster; None: the one of this machine.

    Raises:
        ConfigError: there is no cluster, or an owner of this name that is made of something else.
        ForesightedError: what is wrong with folder, settings or models.
    """
    join(address)
    said = start(name, plan).wait("status")
    return f"owner {name!r} pays at version {said['version']} on node {said['node'][:8]}, folder {said['folder']}"


def status(name: str, address: str | None, wait: float) -> dict[str, Any]:
    """Return what an owner has done, and where it runs."""
    join(address)
    found: dict[str, Any] = RayOwner(name).wait("status", within=wait)
    return found


def stop(name: str, address: str | None, wait: float) -> str:
    """Close an owner and end its actor, also one that does not answer; return what to tell. Its folder stays."""
    join(address)
    owner = RayOwner(name)
    try:
        owner.wait("close", within=wait)
        told = "has ended"
    except RunError as error:
        told = f"was ended without being closed ({error}); its folder is whole"
    end(name)
    return f"owner {name!r} {told}"


def rollback(name: str, version: int, reason: str, address: str | None, wait: float) -> str:
    """Have an owner go back to a version; return what to tell."""
    join(address)
    RayOwner(name).wait("rollback", version, reason, within=wait)
    return f"owner {name!r}: version {version} scores"
