"""Foresight inside verl: a reward manager and a checkpoint callback, which its configuration names."""

from foresighted.integrations.verl.checkpoint import CheckpointCallback
from foresighted.integrations.verl.manager import RewardManager

__all__ = ["CheckpointCallback", "RewardManager"]
