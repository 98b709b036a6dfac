"""Arms in text (a form of steering, with settings of its own), and the settings of a comparison of arms and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from foresighted.errors import ConfigError, nearest
from foresighted.inputs import shown
from foresighted.settings.fields import Settings, setting
from foresighted.settings.files import from_text, renamed
from foresighted.settings.train import TrainConfig
from foresighted.steering.table import FORMS

OF_AN_ARM = (
    "gamma", "gamma_unit", "scope", "influence", "paid", "steering_labels", "curvature", "damping", "unrolled_steps",
    "kl_coefficient", "kl_unit", "selection", "control", "reward_model_pairs", "reward_model_pairs_random",
    "policy_update", "policy_learning_rate", "policy_steps", "clip_range", "dpo_beta", "max_grad_norm",
    "policy_reset_every", "rollback_window", "reward_model_learning_rate", "reward_model_steps", "reward_model_buffer",
    "ensemble", "confidence", "shaping", "shaping_scale", "correction",
)  # fmt: skip
"""What an arm of a comparison may set: nothing that would change the references or the first reward model."""


CONTROLS: dict[str, tuple[str, dict[str, Any]]] = {
    "shuffled": ("practical", {"control": "shuffled"}),
    "penalty-alone": ("practical", {"control": "penalty-alone"}),
    "labels": ("rlhf", {"selection": "labels"}),
}
"""Arms that are no form of their own, but what a form is compared with: each a form with settings."""


def arm_from_text(arm: str, kind: type, known: tuple[str, ...], told: str) -> tuple[str, dict[str, Any]]:
    """Return form and own settings of an arm: `rlhf`, `practical:gamma=0.3`, or one of `CONTROLS`: `shuffled`.

    Args:
        arm: as it is written.
        kind: configuration class of its settings.
        known: settings that an arm may have.
        told: what these are, for the message.

    Raises:
        ConfigError: an unknown form, a setting that an arm cannot have, or one that makes another arm of it.
    """
    name, *texts = arm.split(":")
    controls = {control: it for control, it in CONTROLS.items() if set(it[1]) <= set(known)}
    if name not in (every := {**FORMS, **controls}):
        raise ConfigError(f"arms: unknown arm {name!r}{nearest(name, every)}; known are {', '.join(every)}")
    form, settled = controls.get(name, (name, {}))
    own: dict[str, Any] = dict(settled)
    for text in texts:
        name, equals, value = text.partition("=")
        (name,) = renamed({name: value}, known)
        if not equals or name not in known:
            raise ConfigError(
                f"arms: {arm!r} sets {text!r}; after a colon comes NAME=VALUE with NAME {told}{nearest(name, known)}"
            )
        own[name] = from_text(kind, name, value)
    for name, value in own.items():
        if settled.get(name, value) != value:
            raise ConfigError(f"arms: {arm!r} sets {name}, which is {settled[name]} there; name another arm")
        if name == "gamma" and isinstance(value, int | float):  # what is no number is refused with the others
            told = "which has no penalty" if value and not FORMS[form].gamma else ""
            told = told or ("where nothing is left without a penalty" if not value and "control" in settled else "")
            if told:
                raise ConfigError(f"arms: {arm!r} sets gamma to {value:g}, {told}; leave it out, or name another arm")
    return form, own


def each_once(config: Settings, **examples: str) -> Iterable[tuple[bool, str]]:
    """Return rules: lists of a configuration, each given with what one may write, hold something, each entry once."""
    for name, example in examples.items():
        values = getattr(config, name)
        yield bool(values), f"{name}: got none, name at least one, for example {example}"
        twice = next((value for value, count in Counter(values).items() if count > 1), None)
        yield twice is None, f"{name}: {shown(values)} names one twice, {twice}; name each once"


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Several arms and seeds of one `TrainConfig`, everything else held fixed.

    An arm is a form of steering, with settings of its own after colons: `rlhf`, `practical:gamma=0.3`,
    `rlhf:reward_model_pairs=all`, `rlhf:selection=labels`. The first arm is the baseline.
    """

    earlier: ClassVar = TrainConfig.earlier

    train: TrainConfig
    arms: tuple[str, ...] = setting(
        ("rlhf", "practical"), "comparison", "forms of steering, each with settings of its own: rlhf,relaxed:gamma=1"
    )
    seeds: tuple[int, ...] = setting((0,), "comparison", "seeds of each arm: 0,1,2 or 0:3", low=0)
    side_by_side: int | None = setting(
        None,
        "comparison",
        "runs played at a time in one process and one batch (default: as many as memory holds; 1: each in a process of"
        " its own)",
        low=1,
    )
    jobs: int | None = setting(
        None,
        "comparison",
        "processes at a time, of runs that are played apart (default: one a CPU core; one on an accelerator)",
        low=1,
    )

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield from each_once(self, arms="rlhf,practical", seeds="0,1 or 0:3")
        for arm in self.arms:
            try:
                self.arm(arm, self.train.seed)
            except ConfigError as error:
                told = str(error)
                yield False, told if told.startswith("arms: ") else f"arms: {arm!r}: {told}"

    def arm(self, arm: str, seed: int) -> TrainConfig:
        """Return the settings of one run.

        Raises:
            ConfigError: the arm's form or one of its settings is unknown, or would change what arms share.
        """
        form, own = arm_from_text(arm, TrainConfig, OF_AN_ARM, f"one of {', '.join(OF_AN_ARM)}")
        if own.get("policy_update", self.train.policy_update) == "dpo":
            own.setdefault("kl_coefficient", 0.0)  # dpo_beta is in its place; an arm that sets both is refused
        own |= {"steering": form, "seed": seed, "threads": self.train.threads or 1}
        return replace(self.train, **own).resolved()
