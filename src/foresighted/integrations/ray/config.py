"""What an owner takes of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

from foresighted.settings import Settings, setting


@dataclass(frozen=True)
class Placement(Settings):
    """Where an owner runs and what of the cluster is kept for it; beside its settings in a file, or as flags."""

    cpus: float = setting(1.0, "ray", "CPUs that Ray keeps for the owner", low=0)
    gpus: float = setting(0.0, "ray", "GPUs that Ray keeps for the owner; it needs one where device is cuda", low=0)
    replicas: int = setting(
        0, "ray", "copies of the reward model that read for the owner, each an actor; it alone writes", low=0
    )
    replica_cpus: float = setting(1.0, "ray", "CPUs that Ray keeps for each of them", low=0)
    replica_gpus: float = setting(0.0, "ray", "GPUs that Ray keeps for each of them", low=0)
