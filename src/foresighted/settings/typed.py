"""A configuration as somebody types it: a command, or lines of Python, with what differs from the defaults alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from foresighted.errors import ConfigError
from foresighted.settings.fields import settings
from foresighted.settings.steering import SteeringConfig
from foresighted.settings.train import TrainConfig

OBJECT = "object:"
"""How the name of a Python object begins in a configuration; nobody can type it."""
_OF_A_LOOP = ("kl_coefficient", "kl_unit", "references", "reward_model_learning_rate")
"""Settings of `FPOConfig` beside those that every loop shares, always written: it has other defaults than `train`."""
_OF_TRAIN = ("policy_update", "policy_reset_every", "rollback_window", "ensemble", "confidence", "shaping",
             "correction")  # fmt: skip  # one table
"""What moves the policy in `train`, what pays it there, and no setting of a trainer of TRL."""


def command(config: TrainConfig, out: str) -> str:
    """Return the `foresighted train` that runs a configuration with the first seed, a setting a line.

    Settings that are Python objects are left out.

    Args:
        config: what is to be run.
        out: its directory.
    """
    whole = replace(config, seed=0, threads=None)
    words = ["foresighted train", f"--out {shlex.quote(out)}"]
    for name, value in needed(whole).items():
        flag, text = "--" + name.replace("_", "-"), as_text(value)
        if not text.startswith(OBJECT):
            words.append(f"{flag}={shlex.quote(text)}" if text.startswith("-") else f"{flag} {shlex.quote(text)}")
    return " \\\n    ".join(words)


def lines(config: TrainConfig) -> str:
    """Return the `FPOConfig` that steers a trainer of TRL as a configuration steers `train`.

    Which candidates are labelled carries over where TRL's groups know it: winner or all. What does not is named.
    """
    own = {name: getattr(config, name) for name in _OF_TRAIN if getattr(config, name) != getattr(TrainConfig, name)}
    own |= {"steering_labels": "group"} if config.steering_labels == "group" else {}
    shared = SteeringConfig(**{name: getattr(config, name) for name in settings(SteeringConfig) if name not in own})
    values = needed(shared) | {name: getattr(config, name) for name in _OF_A_LOOP}
    values |= {"sampled_labels": True} if config.sampled_labels else {}
    values |= {"reward_model_pairs": "all"} if config.reward_model_pairs == "all" else {}
    values |= {"reward_model_input": "response"} if config.reward_model_input == "response" else {}
    inside = "".join(f"    {name}={value!r},\n" for name, value in values.items())
    left = "".join(f"# without {name} {value}, which foresighted train alone has\n" for name, value in own.items())
    return f"import foresighted as fpo\n\n{left}config = fpo.FPOConfig(\n{inside})"


def needed(config: SteeringConfig) -> dict[str, Any]:
    """Return the settings without which a configuration would be another one once what it leaves open is settled."""
    kind, goal = type(config), config.resolved()
    found = {name: getattr(goal, name) for name in settings(kind)}
    for name in tuple(found):
        others = {other: value for other, value in found.items() if other != name}
        if _made(kind, others) == goal:
            found = others
    return found


def _made(kind: type[SteeringConfig], values: Mapping[str, Any]) -> SteeringConfig | None:
    try:
        return kind(**values).resolved()
    except ConfigError:
        return None


def as_text(value: Any) -> str:
    """Return the value of a setting as a flag has it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
