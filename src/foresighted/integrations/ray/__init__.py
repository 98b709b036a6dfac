"""The owner of the reward model inside Ray: one named actor that outlives jobs and is taken up again when it dies."""

from foresighted.integrations.ray.actor import Placement, Plan, planned, start, stop
from foresighted.integrations.ray.client import NAMESPACE, RayOwner

__all__ = ["NAMESPACE", "Placement", "Plan", "RayOwner", "planned", "start", "stop"]
