"""The owner of the reward model inside Ray: one named actor that outlives jobs and is taken up again when it dies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foresighted.integrations.ray.config import Placement

if TYPE_CHECKING:
    from foresighted.integrations.ray.actor import Plan, planned, start
    from foresighted.integrations.ray.client import NAMESPACE, RayOwner

__all__ = ["NAMESPACE", "Placement", "Plan", "RayOwner", "planned", "start"]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first used: the command line reads settings alone."""
    if name in ("Plan", "planned", "start"):
        from foresighted.integrations.ray import actor

        return getattr(actor, name)
    if name in ("NAMESPACE", "RayOwner"):
        from foresighted.integrations.ray import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
