"""Parts of the study: what is played, as settings of `foresighted.compare`. The protocol says why.

A part is a comparison of its own. Arms and seeds may be added to one that has begun; what is finished stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foresighted.models.embedded import policy_source

MAIN: dict[str, Any] = {"rounds": 100, "heldout_every": 20, "heldout_prompts": 48}
"""What every part sets beside the preset `demo`."""
FINAL = tuple(range(2001, 2009))
TUNING = tuple(range(1001, 1005))
FRESH = tuple(range(5001, 5033))
"""Of the replication on an accelerator."""
PLAIN, KL, DEFAULT = "rlhf:kl_coefficient=0", "rlhf", "practical"
CEILING = "labels"
CELL = (PLAIN, KL, DEFAULT, CEILING)


def _placed(text: str) -> str:
    """Return a setting with its places filled in; the policy is looked for, and verified, only where it is named."""
    policy = policy_source() if "{policy}" in text else ""
    return text.format(here=Path(__file__).parent, policy=policy)


@dataclass(frozen=True)
class Part:
    """One comparison of the study."""

    told: str
    """What it is, in words."""
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    """Beside those of the preset and of `MAIN`."""

    def arguments(self) -> dict[str, Any]:
        """Return what `foresighted.compare` is called with, but for the directory.

        In a setting, `{here}` is the folder of the study and `{policy}` that of the embedded policy.
        """
        own = {name: _placed(it) if isinstance(it, str) else it for name, it in self.settings.items()}
        return {"preset": "demo", **MAIN, **own, "arms": list(self.arms), "seeds": list(self.seeds)}


FITTED = {"reward_model_steps": 10, "reward_model_learning_rate": 5e-3}
TAUGHT = {
    "reward_model": "embedded", "initial_pairs": 1500, "initial_steps": 200, "reward_model_steps": "auto",
    "reward_model_learning_rate": 5e-3,
}  # fmt: skip  # one table
EARNING = (
    "rlhf", DEFAULT, CEILING, "practical:correction=1", "rlhf:correction=1", "practical:reward_model_pairs=influence",
    "practical:reward_model_pairs=winner", "proximal:steering_labels=group", "rlhf:policy_update=dpo:dpo_beta=0.1",
    "rlhf:policy_update=dpo:dpo_beta=0.3",
)  # fmt: skip
"""Ways to spend the same labels."""

ASKING = (
    DEFAULT, *(f"practical:reward_model_pairs={ask}" for ask in ("uncertain", "influence", "disagreement")),
    *(f"practical:reward_model_pairs={ask}:reward_model_pairs_random=0.5" for ask in ("influence", "disagreement")),
)  # fmt: skip
"""Ways to choose the pair of a prompt that people are asked about."""
ASKED: dict[str, Any] = FITTED | {
    "reward_model": "embedded", "initial_pairs": 32, "initial_steps": 100, "ensemble": 5, "sampled_labels": True,
}  # fmt: skip  # one table
"""All of them have the ensemble that `disagreement` needs, and labels of one bit."""

MAIN_ARMS = (
    PLAIN, KL, DEFAULT, "rlhf:kl_coefficient=0.1", "rlhf:kl_coefficient=1", "shuffled",
    CEILING, "practical:kl_coefficient=0", "practical:kl_coefficient=0.1",
)  # fmt: skip
REMEDIES: dict[str, tuple[str, ...]] = {
    "direct": tuple(f"rlhf:policy_update=dpo:dpo_beta={beta}" for beta in (0.1, 0.3, 1)),
    "PAR": tuple(f"rlhf:shaping=par:kl_coefficient={beta}" for beta in (0.1, 0.3, 1)),
    "ensemble": tuple(f"rlhf:ensemble=5:confidence={width}" for width in (3, 30)),
    "slower leader": tuple(f"rlhf:kl_coefficient=0:policy_learning_rate={rate}" for rate in ("5e-4", "2e-4")),
    "re-initialised": tuple(f"rlhf:kl_coefficient=0:policy_reset_every={rounds}" for rounds in (10, 20)),
    "rollback": ("rlhf:kl_coefficient=0:rollback_window=5",),
}
"""Other remedies, by family, and the settings that are tried of each: one a family goes on to the final seeds."""
UNTUNED = (
    "relaxed", "proximal", "proximal:steering_labels=baseline", "penalty-alone",
    "rlhf:kl_coefficient=0:reward_model_steps=10:reward_model_learning_rate=5e-3",
)  # fmt: skip
"""Other remedies that have nothing to tune."""
OF_FAMILIES = tuple(arm for family in REMEDIES.values() for arm in family)

PARTS: dict[str, Part] = {
    "reduced": Part(
        "three arms, three seeds, 60 rounds: half an hour on two cores",
        (PLAIN, KL, DEFAULT), (3001, 3002, 3003), {"rounds": 60, "heldout_prompts": 24},
    ),
    "tuning": Part(
        "KL coefficients of the main cell, on seeds of their own",
        ("rlhf:kl_coefficient=0.1", "rlhf", "rlhf:kl_coefficient=1"), TUNING,
    ),
    "main": Part(
        "the main cell: claims A, B, C and E", MAIN_ARMS, FINAL,
    ),
    "replication": Part(
        "the main cell again, on 32 fresh seeds and on an accelerator", MAIN_ARMS, FRESH,
    ),
    "fitted": Part(
        "the reward model is fitted: ten steps of 5e-3 a round (claims A, D)",
        CELL, FINAL[:4], FITTED,
    ),
    "all-labelled": Part(
        "all candidates are labelled, 16 labels a round (claim A)",
        CELL, FINAL[:4], {"reward_model_pairs": "all"},
    ),
    "bits": Part(
        "a label is one bit", CELL, FINAL[:4], {"sampled_labels": True},
    ),
    "blind": Part(
        "the reward model begins with 32 pairs and reads the response alone",
        CELL, FINAL[:4],
        {"reward_model": "embedded", "reward_model_input": "response", "initial_pairs": 32, "initial_steps": 100},
    ),
    "taught": Part(
        "the reward model begins with 1,500 pairs, and `auto` fits it to all of them each round",
        CELL, FINAL[:4], TAUGHT,
    ),
    "likelihood": Part(
        "the paper's oracle: the frozen policy's mean log-likelihood", CELL, FINAL[:4], {"labels": "likelihood"},
    ),
    "checklist": Part(
        "an oracle of words alone, neither the reward model's encoder nor the policy's likelihood",
        CELL, FINAL[:4], {"labels": "{here}/oracle.py:checklist"},
    ),
    "hidden": Part(
        "as `taught`, but the reward model reads the policy's own hidden states (the mean of its last ones)",
        CELL, FINAL[:4], TAUGHT | {"reward_model": "encoder:{policy}"},
    ),
    "long": Part(
        "responses of 32 tokens", CELL, FINAL[:4], {"max_new_tokens": 32},
    ),
    "all-layers": Part(
        "all layers of the policy learn", CELL, FINAL[:4], {"lora_layers": "all"},
    ),
    "remedies-tuning": Part(
        "other remedies in the main cell, each with a few settings, on the tuning seeds", OF_FAMILIES, TUNING,
    ),
    "remedies": Part(
        "other remedies in the main cell: those with nothing to tune, and the best setting of each of the others",
        (*UNTUNED, *OF_FAMILIES), FINAL,
    ),
    "earn-4": Part("what earns: 4 labels a round, the reward model fitted", EARNING, FINAL[:4], FITTED),
    "earn-16": Part(
        "what earns: 16 prompts and 16 labels a round, the reward model fitted", EARNING, FINAL[:4],
        FITTED | {"prompts_per_round": 16},
    ),
    "earn-64": Part(
        "what earns: 64 prompts and 64 labels a round, the reward model fitted", EARNING, FINAL[:4],
        FITTED | {"prompts_per_round": 64},
    ),
    "questions-blind": Part(
        "which pairs to ask: the reward model reads the response alone", ASKING, tuple(range(4001, 4009)),
        ASKED | {"reward_model_input": "response"},
    ),
    "questions-pair": Part(
        "which pairs to ask: the reward model reads prompt and response", ASKING, tuple(range(4001, 4009)), ASKED,
    ),
}  # fmt: skip  # one table
"""By name, in the order in which they are played."""
