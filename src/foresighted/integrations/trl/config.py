"""Settings of foresight inside a TRL trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from foresighted.errors import ConfigError
from foresighted.settings import LearningConfig, setting


@dataclass(frozen=True)
class FPOConfig(LearningConfig):
    """What `FPOReward` does in a trainer: how it steers, and how its reward model is read, labelled and retrained.

    Example:
        >>> FPOConfig(steering="proximal", gamma=1.0, gamma_unit="share", update_every=4).scope
        'head'
    """

    earlier: ClassVar[Mapping[str, Any]] = {
        "references": 1, "kl_coefficient": 0.0, "kl_unit": "raw", "reward_model_buffer": 0, "reward_model_l2": 0.0,
    }  # fmt: skip  # one table
    """How runs of 0.2 went in what their files do not name."""

    records: str | None = setting(
        "foresighted", "run", "folder of the records inside the trainer's output_dir, or none"
    )
    reference: Literal["auto", "leave-one-out", "column", "policy"] = setting(
        "auto",
        "run",
        "what a response is compared with: the mean of its group's other responses, a response in a column of the"
        " dataset, or responses of the frozen policy; auto: the last where the trained one has an adapter to switch off"
        " or reference_policy is given, else the first",
    )
    references: int = setting(
        4,
        "run",
        "M, responses of the frozen policy a prompt: the penalty compares with their mean, labels with the first",
        low=1,
    )
    reference_column: str = setting("reference", "run", "that column")
    reference_max_new_tokens: int = setting(
        64, "run", "longest response that the frozen policy writes, in tokens", low=1
    )

    placement: Literal["every-rank", "first-rank"] = setting(
        "every-rank",
        "reward model",
        "a replica on every process, or one model on the first process (which may spread it over devices)",
    )

    kl_coefficient: float = setting(
        0.3,
        "steering",
        "beta: also take beta * log(pi / pi_ref) of the response, in nats, off its reward, in kl_unit a nat; a beta of"
        " the trainer's own counts in its place",
        low=0,
    )
    kl_unit: Literal["raw", "share"] = setting(
        "share", "steering", "unit of beta: raw, in reward, or a share of the spread of rewards within a prompt"
    )


def settled(
    asked: FPOConfig,
    saved: Mapping[str, Any] | None = None,
    *,
    beta: float = 0.0,
    elsewhere: str = "",
    no_policy: str = "",
    no_ratio: str = "",
) -> tuple[FPOConfig, list[str]]:
    """Return the settings that a training goes by, none of them open, and what is to be said of them.

    Args:
        asked: as given.
        saved: those of the checkpoint that it goes on from; None where it begins. What `asked` leaves open and what
            the checkpoint does not know yet is as it was there.
        beta: the trainer's own KL coefficient, 0 where it has none.
        elsewhere: the other FPOReward of the trainer that takes the distance off, if one does.
        no_policy: why the frozen initial policy cannot be asked, if so.
        no_ratio: why its log-likelihoods cannot be compared with those of the trained one, if so.

    Raises:
        ConfigError: references of a frozen policy that cannot be asked.
    """
    said, whole = [], asked.resolved()
    if saved is not None:
        left = [name for name in vars(asked) if getattr(asked, name) is None and name != "records"]
        left += ["reference"] if asked.reference == "auto" else []
        old = {name: value for name, value in asked.earlier.items() if name not in saved}
        new = {name: value for name, value in old.items() if getattr(whole, name) != value}
        if new:
            told = ", ".join(f"{name} {value}" for name, value in new.items())
            said.append(f"the checkpoint is of an earlier version: the run goes on as it was, with {told}")
        whole = replace(whole, **{name: saved[name] for name in left if name in saved}, **old)
    if whole.reference == "policy" and no_policy:
        raise ConfigError(
            f"reference: 'policy' needs the frozen initial policy: {no_policy}; give reference_policy=MODEL, or"
            " reference='leave-one-out'"
        )
    lost = []
    if whole.reference == "auto":
        whole = replace(whole, reference="leave-one-out" if no_policy else "policy")
        lost += ["reference is leave-one-out"] if no_policy else []
    if kl := whole.kl_coefficient:
        reasons = (
            (beta > 0, f"the trainer's own beta {beta:g} holds, the distance from the reference counts once"),
            (elsewhere, f"FPOReward {elsewhere!r} of the same trainer takes the distance off already"),
            (saved is not None and not saved.get("kl_coefficient"), "the run was begun without it"),
        )
        why = next((text for holds, text in reasons if holds), "")
        said += [f"kl_coefficient {kl:g} is not applied: {why}"] if why else []
        lost += ["kl_coefficient is 0"] if no_ratio and not why else []
        whole = replace(whole, kl_coefficient=0.0 if why or no_ratio else kl)
    if lost:
        advice = "" if beta > 0 else (
            ", so nothing of FPOReward holds the policy near where it began; give the trainer a beta, or train an"
            " adapter, or give FPOReward(reference_policy=MODEL)"
        )  # fmt: skip
        said.append(f"{no_policy or no_ratio}: {' and '.join(lost)}{advice}")
    return whole, said
