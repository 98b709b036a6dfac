"""Settings of a comparison: the arms and seeds of one run's settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from foresighted.errors import ConfigError
from foresighted.settings.arms import arm_from_text, each_once
from foresighted.settings.checks import Settings
from foresighted.settings.fields import setting
from foresighted.settings.train import TrainConfig

OF_AN_ARM = (
    "gamma", "gamma_unit", "scope", "influence", "paid", "steering_labels", "curvature", "damping", "unrolled_steps",
    "kl_coefficient", "selection", "reward_model_pairs", "policy_learning_rate", "policy_steps",
    "reward_model_learning_rate", "reward_model_steps", "max_grad_norm",
)  # fmt: skip
"""What an arm of a comparison may set: nothing that would change the references or the first reward model."""


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Several arms and seeds of one `TrainConfig`, everything else held fixed.

    An arm is a form of steering, with settings of its own after colons: `rlhf`, `practical:gamma=0.3`,
    `rlhf:reward_model_pairs=all`, `rlhf:selection=labels`. The first arm is the baseline.
    """

    train: TrainConfig
    arms: tuple[str, ...] = setting(
        ("rlhf", "practical"), "comparison", "forms of steering, each with settings of its own: rlhf,relaxed:gamma=1"
    )
    seeds: tuple[int, ...] = setting((0,), "comparison", "seeds of each arm: 0,1,2 or 0:3", low=0)
    jobs: int | None = setting(
        None, "comparison", "runs at a time (default: one a CPU core; one on an accelerator)", low=1
    )

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield from each_once(self, arms="rlhf,practical", seeds="0,1 or 0:3")
        for arm in self.arms:
            try:
                self.arm(arm, self.train.seed)
            except ConfigError as error:
                yield False, str(error)

    def arm(self, arm: str, seed: int) -> TrainConfig:
        """Return the settings of one run.

        Raises:
            ConfigError: the arm's form or one of its settings is unknown, or would change what arms share.
        """
        form, overrides = arm_from_text(arm, TrainConfig, OF_AN_ARM, f"one of {', '.join(OF_AN_ARM)}")
        threads = 1 if self.train.threads is None else self.train.threads
        own = replace(self.train, **{**overrides, "steering": form, "seed": seed, "threads": threads})
        return own.resolved()
