"""Foresighted Policy Optimization for iterative RLHF (arXiv 2605.04266).

    import foresighted as fpo

    run = fpo.train(rounds=10)
    run.plot()

A name is loaded when it is first used: importing this package loads neither NumPy, torch, JAX, pandas nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foresighted import steering
    from foresighted.api.audit import Audit, audit
    from foresighted.api.compare import Comparison, compare
    from foresighted.api.evaluate import Evaluation, evaluate
    from foresighted.api.label import label
    from foresighted.api.rehearse import Rehearsal, rehearse
    from foresighted.api.report import report
    from foresighted.api.simulate import Simulation, simulate
    from foresighted.api.train import Run, train
    from foresighted.errors import ForesightedError
    from foresighted.influence import GradientProducts
    from foresighted.integrations.monitoring.hooks import watch
    from foresighted.integrations.monitoring.monitor import MetricsMonitor
    from foresighted.integrations.trl import CollapseMonitor, FPOConfig, FPOReward
    from foresighted.labels.labellers import RelevanceLabels
    from foresighted.models.embedded import encoder_source, policy_source
    from foresighted.models.loading import load_policy
    from foresighted.prompts import load_prompts
    from foresighted.settings import CompareConfig, RehearseConfig, TrainConfig

__version__ = "0.3.0"
__all__ = [
    "Audit",
    "CollapseMonitor",
    "CompareConfig",
    "Comparison",
    "Evaluation",
    "FPOConfig",
    "FPOReward",
    "ForesightedError",
    "GradientProducts",
    "MetricsMonitor",
    "Rehearsal",
    "RehearseConfig",
    "RelevanceLabels",
    "Run",
    "Simulation",
    "TrainConfig",
    "__version__",
    "audit",
    "compare",
    "encoder_source",
    "evaluate",
    "label",
    "load_policy",
    "load_prompts",
    "policy_source",
    "rehearse",
    "report",
    "simulate",
    "steering",
    "train",
    "watch",
]

_HOMES = {
    "api.audit": ("Audit", "audit"),
    "api.compare": ("Comparison", "compare"),
    "api.evaluate": ("Evaluation", "evaluate"),
    "api.label": ("label",),
    "api.rehearse": ("Rehearsal", "rehearse"),
    "api.report": ("report",),
    "api.simulate": ("Simulation", "simulate"),
    "api.train": ("Run", "train"),
    "errors": ("ForesightedError",),
    "influence": ("GradientProducts",),
    "integrations.monitoring.hooks": ("watch",),
    "integrations.monitoring.monitor": ("MetricsMonitor",),
    "integrations.trl": ("CollapseMonitor", "FPOConfig", "FPOReward"),
    "labels.labellers": ("RelevanceLabels",),
    "models.embedded": ("encoder_source", "policy_source"),
    "models.loading": ("load_policy",),
    "prompts": ("load_prompts",),
    "settings": ("CompareConfig", "RehearseConfig", "TrainConfig"),
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for. No module in this package is called as a function of it is."""
    if name == "steering":
        return import_module("foresighted.steering")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"foresighted.{home}"), name)
    raise AttributeError(f"module 'foresighted' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return list(__all__)
