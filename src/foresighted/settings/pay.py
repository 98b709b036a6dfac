"""Rules of what a policy is paid: settings that exclude each other, or would do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foresighted.settings.train import TrainConfig


def without_effect(config: TrainConfig) -> Iterable[str]:
    """Say what has no part in DPO, which no reward pays and no penalty steers."""
    why = "but policy_update dpo learns from labels alone"
    if config.form.gamma and config.weight:
        yield f"steering: got {config.steering}, {why}, without a penalty; use rlhf"
    if config.kl_coefficient:
        yield f"kl_coefficient: got {config.kl_coefficient:g}, {why} and has dpo_beta in its place; use 0"
    if config.selection != "reward":
        yield f"selection: got {config.selection}, {why} and pays by no score; use reward"
    if config.control != "none":
        yield f"control: got {config.control}, {why}, without a penalty; use none"
    for name, usual in (("confidence", 0), ("shaping", "none"), ("correction", 0)):
        if (got := getattr(config, name)) != usual:
            yield f"{name}: got {got}, {why} and is paid by no score; use {usual}"


def rules_of_pay(config: TrainConfig) -> Iterable[tuple[bool, str]]:
    """Yield what must be true of an ensemble, of labels that are read before the choice, and what is wrong where it is
    not."""
    pairs = config.reward_model_pairs
    trained, one = (config.reward_model_train, config.scope), config.ensemble == 1
    yield (
        one or trained == ("head", "head"),
        f"ensemble: got {config.ensemble}, and its heads share a body that is not trained; use reward_model_train and"
        f" scope head, not {' and '.join(trained)}",
    )
    follows = config.steering == "unrolled" or (config.steering == "exact" and config.curvature == "adamw")
    yield (
        one or not follows or not config.weight,
        f"ensemble: got {config.ensemble}, and {config.steering} follows the optimiser of one head; use ensemble 1, or"
        " another form or curvature",
    )
    yield not config.confidence or not one, "confidence: needs an ensemble of at least 2"
    yield (
        pairs != "disagreement" or not one,
        "reward_model_pairs: disagreement is that of an ensemble; give an ensemble of at least 2",
    )
    share = config.reward_model_pairs_random
    yield (
        not share or pairs not in ("random", "all"),
        f"reward_model_pairs_random: got {share:g}, without effect with reward_model_pairs {pairs}; use 0",
    )
    yield (
        not config.corrects or config.shaping == "none",
        f"correction: pays sigmoid(r - r_ref) already; use shaping none, not {config.shaping}",
    )
    yield (
        not config.corrects or pairs == "random",
        "correction: is without bias for a candidate that is drawn at random; use reward_model_pairs random, not"
        f" {pairs}",
    )
    yield (
        not config.corrects or not config.reads_labels,
        f"correction: reads one label a prompt, and {config.steering} that of every candidate; use steering_labels"
        " group or baseline",
    )
    yield (
        not config.carries_label or pairs in ("random", "uncertain"),
        "steering_labels: group reads its label before the choice; use reward_model_pairs random or uncertain, not"
        f" {pairs}",
    )
    yield (
        not config.carries_label or config.selection == "reward",
        "steering_labels: group spares labels, and selection labels reads them all; use candidate",
    )
