"""Objects that a caller hands over in place of names. The configuration holds their fingerprints, `object:...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foresighted.errors import RunError
from foresighted.settings import TrainConfig
from foresighted.settings.typed import OBJECT
from foresighted.types import Labeller

PROMPTS = "prompts.jsonl"
"""Where a run keeps prompts that it was given."""


@dataclass(frozen=True)
class Given:
    """What stands in for a name; None where the configuration's name counts. Models are copied, never changed.

    Attributes:
        policy: a causal language model, and its tokenizer or None for the one that belongs to it.
        reward_model: a sequence classifier with one label, and its tokenizer or None.
        labels: who labels.
        prompts: rows with the keys of a prompt file.
    """

    policy: tuple[Any, Any] | None = None
    reward_model: tuple[Any, Any] | None = None
    labels: Labeller | None = None
    prompts: Sequence[Mapping[str, Any]] | None = None

    def check(self, config: TrainConfig) -> None:
        """Raise a `RunError` where an object that a configuration speaks of is not here."""
        for name in ("policy", "reward_model", "labels", "prompts"):
            told = getattr(config, name)
            if told.startswith(OBJECT) and getattr(self, name) is None:
                raise RunError(
                    f"{name}: {told.removeprefix(OBJECT)} is a Python object; give it from Python:"
                    f" foresighted.train({name}=..., out=..., resume=True)"
                )


NAMES_ONLY = Given()
