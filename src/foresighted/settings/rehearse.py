"""A rehearsal: which arms are played in somebody's own setting, for how long, and what its settings are by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from foresighted.errors import ConfigError
from foresighted.settings.compare import CompareConfig
from foresighted.settings.fields import Settings, setting, settings
from foresighted.settings.presets import PRESETS
from foresighted.settings.train import TrainConfig

KL_LADDER = (0.1, 0.3, 1.0)
"""KL coefficients that plain RLHF is tried with, as shares of the spread of rewards a nat: a factor of three a step."""
_ANCHOR = TrainConfig.kl_coefficient
_FITTED = {"reward_model_steps": "auto", "reward_model_buffer": -1,
           "reward_model_learning_rate": TrainConfig.reward_model_learning_rate}  # fmt: skip
"""A head that is fitted to all pairs at every update."""
_OF_A_NEW_HEAD = ("reward_model_learning_rate", "reward_model_steps", "initial_pairs", "initial_steps")
_USUAL = {
    **{name: value for name, value in PRESETS["demo"].items() if name in settings(TrainConfig)},
    "rounds": 60, "heldout_every": 5, "heldout_prompts": 16,
}  # fmt: skip

Role = Literal["baseline", "candidate", "control", "ceiling"]


def usual(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a rehearsal that are not given: those of the preset demo, evaluated more often.

    A new head knows nothing, so it is fitted first, as in `train`; a policy of one's own has its own system message.
    """
    found = dict(_USUAL)
    reward_model = str(given.get("reward_model", found["reward_model"]))
    if reward_model == "embedded" or reward_model.startswith("encoder:"):
        found = {name: value for name, value in found.items() if name not in _OF_A_NEW_HEAD}
    if given.get("policy", "embedded") != "embedded":
        del found["system_prompt"]
    return found


@dataclass(frozen=True)
class RehearseConfig(Settings):
    """Loops side by side on a small policy, in one's own setting: would mine collapse, and what would prevent it?"""

    earlier: ClassVar = TrainConfig.earlier

    train: TrainConfig
    minutes: float | None = setting(
        20.0,
        "rehearsal",
        "minutes to play: as many rounds as they allow, --rounds at most; none: --rounds of them",
        above=0,
        high=100_000,
    )
    arms: tuple[str, ...] = setting(
        (),
        "rehearsal",
        "arms in place of the usual ones, as compare takes them, the baseline first (default: plain RLHF, KL .1, .3 and"
        " 1, the default, foresight alone, a shuffled penalty, a fitted reward model, choosing by the true label)",
    )
    seeds: tuple[int, ...] = setting((0, 1), "rehearsal", "seeds of each arm: 0,1,2 or 0:4", low=0)
    side_by_side: int | None = setting(None, "rehearsal", "loops at a time, as in compare", low=1)

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield (
            (self.train.selection, self.train.control) == ("reward", "none"),
            "selection, control: arms of a rehearsal differ in these; name them in --arms (labels, shuffled)",
        )
        arms = self.arms or tuple(_usual_arms(self.train, utility=True))
        try:
            CompareConfig(train=self.train, arms=arms, seeds=self.seeds)
        except ConfigError as error:
            yield False, str(error)

    @property
    def comparison(self) -> CompareConfig:
        """The same as arms and seeds of a comparison."""
        return CompareConfig(train=self.train, arms=self.arms, seeds=self.seeds, side_by_side=self.side_by_side)

    def with_arms(self, *, utility: bool) -> Self:
        """Return the same with its arms named.

        Args:
            utility: whether the judge knows a true utility, by which candidates can be chosen.
        """
        return self if self.arms else replace(self, arms=tuple(_usual_arms(self.train, utility=utility)))

    def role(self, arm: str) -> Role:
        """Return what an arm is for: the first is what the others are measured against."""
        own = self.comparison.arm(arm, self.seeds[0])
        if arm == self.arms[0]:
            return "baseline"
        if own.selection == "labels":
            return "ceiling"
        return "candidate" if own.control == "none" else "control"

    @property
    def labels_a_round(self) -> int:
        """Preferences that all loops together read in a round, equal pairs counted as often as they occur."""
        each = (self.comparison.arm(arm, self.seeds[0]) for arm in self.arms)
        return len(self.seeds) * sum(one.labels_a_round for one in each)

    def announced(self, *, utility: bool) -> str:
        """Return what will be played and read, in words, before anything is."""
        train, loops = self.train, len(self.arms) * len(self.seeds)
        answers = loops * train.prompts_per_round * train.candidates
        rounds = f"{train.rounds} rounds"
        if self.minutes is not None:
            rounds = f"as many rounds as {self.minutes:g} minutes allow, {train.rounds} at most"
        judged = 2 * len(self.seeds) * train.heldout_prompts * (2 * len(self.arms) - 1)
        wins = (
            "" if utility else f", and {judged} or more labels for win rates at the end, since the judge has no utility"
        )
        return (
            f"{loops} loops ({len(self.arms)} arms, seeds {', '.join(map(str, self.seeds))}), {answers} answers of at"
            f" most {train.max_new_tokens} tokens and {self.labels_a_round} labels a round{wins}: {rounds}"
        )


def _usual_arms(train: TrainConfig, *, utility: bool) -> Iterable[str]:
    share = "" if train.kl_unit == "share" else ":kl_unit=share"
    anchor = "" if train.kl_coefficient else f":kl_coefficient={_ANCHOR:g}{share}"
    rungs = {f"{value:g}": f"{value:g}{share}" for value in KL_LADDER}
    if train.kl_coefficient and (share or f"{train.kl_coefficient:g}" not in rungs):
        rungs["own"] = f"{train.kl_coefficient!r}"
    yield "rlhf:kl_coefficient=0"
    yield from (f"rlhf:kl_coefficient={rung}" for rung in rungs.values())
    yield f"practical{anchor}"
    yield "practical:kl_coefficient=0"
    yield f"shuffled{anchor}"
    if train.reward_model_train == "head":
        learning = train.resolved()
        differs = [f"{name}={value}" for name, value in _FITTED.items() if getattr(learning, name) != value]
        if differs:
            yield ":".join([f"practical{anchor}", *differs])
    if utility:
        yield "labels:kl_coefficient=0"
