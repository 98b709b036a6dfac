"""What a rehearsal says, as numbers: how each arm ended, and which one the advice follows from.

An arm is measured by held-out true utility. Where the judge knows none, it is measured by win rates: the share of
held-out prompts on which the judge prefers its answer to the first policy's, and to the baseline's, ties half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foresighted.alignment.compared import Arm, Comparison
from foresighted.settings import RehearseConfig, TrainConfig
from foresighted.settings.rehearse import Role
from foresighted.statistics.collapse import Reason
from foresighted.statistics.intervals import Interval
from foresighted.store.rows import plain

HALF = 0.5


@dataclass(frozen=True)
class Wins:
    """What the judge prefers of an arm's answers after `round` rounds; None where nothing was judged."""

    round: int
    first: Interval | None
    """Win rate against the first policy's answers."""
    baseline: Interval | None
    """Win rate against those of the baseline after the last round; None for the baseline itself."""
    failed: int
    """Pairs on which judging failed: they count as nothing."""

    @property
    def below_first(self) -> bool:
        """Whether the judge clearly prefers the first policy's answers."""
        return self.first is not None and self.first.high < HALF


@dataclass(frozen=True)
class Standing:
    """How an arm ended."""

    arm: Arm
    role: Role
    config: TrainConfig
    """Of the first seed."""
    wins: tuple[Wins, ...]
    """By round, the last one last; none where the judge knows a true utility."""

    @property
    def label(self) -> str:
        """As the arm is written."""
        return self.arm.label

    @property
    def plain(self) -> bool:
        """Whether it is plain RLHF: no penalty, no KL term, no way back, paid the reward as it is."""
        own = self.config
        other = own.policy_update == "dpo" or own.kl_coefficient or own.policy_reset_every or own.rollback_window
        return self.role != "ceiling" and own.steering == "rlhf" and own.pays_reward and not other

    @property
    def labels(self) -> int:
        """Most preferences that one of its seeds read."""
        return max((labels.total for labels in self.arm.labels), default=0)

    @property
    def measure(self) -> Interval | None:
        """What it is measured by at the end: true utility, or the win rate against the first policy."""
        return self.wins[-1].first if self.wins else self.arm.final_utility

    @property
    def over(self) -> Interval | None:
        """What it is better by than the baseline; of win rates, what they exceed one half by."""
        if not self.wins:
            return self.arm.utility_difference
        rate = self.wins[-1].baseline
        return None if rate is None else rate.mapped(lambda value: value - HALF)

    @property
    def over_shown(self) -> Interval | None:
        """The same as it is shown: a difference of utilities, or a win rate."""
        return self.wins[-1].baseline if self.wins else self.arm.utility_difference

    @property
    def fell(self) -> bool:
        """Whether it collapsed, in the mean or in any seed, or got worse in any other way that is clear."""
        if self.wins:
            return self.wins[-1].below_first
        fall, share = self.arm.collapse, self.arm.collapsed_share
        lower = self.arm.utility_change is not None and self.arm.utility_change.high < 0
        worse = fall is not None and (fall.collapsed or fall.reason == Reason.PROXY_FELL)
        return lower or worse or (share is not None and share.successes > 0)


@dataclass(frozen=True)
class Rehearsal:
    """What the records of a rehearsal say. The first standing is the baseline's."""

    config: RehearseConfig
    comparison: Comparison
    standings: tuple[Standing, ...]
    best: str | None
    """The arm that the advice follows from; None where there is nothing to go by."""

    @property
    def by_wins(self) -> bool:
        """Whether arms are measured by win rates, since the judge knows no utility."""
        return any(standing.wins for standing in self.standings)

    def standing(self, arm: str | None) -> Standing | None:
        """Return how an arm ended; None where it has no records."""
        return next((one for one in self.standings if one.label == arm), None)

    def to_mapping(self) -> dict[str, Any]:
        """Return the best arm, roles, win rates and the comparison as plain JSON values."""
        wins = {one.label: plain(one.wins) for one in self.standings if one.wins}
        roles = {one.label: one.role for one in self.standings}
        return {"best": self.best, "roles": roles, "win_rates": wins, "comparison": self.comparison.to_mapping()}


def rehearsed(config: RehearseConfig, comparison: Comparison, wins: Mapping[str, Sequence[Wins]]) -> Rehearsal:
    """Return what a rehearsal says.

    Args:
        config: what was to be played, its arms named.
        comparison: what its records say.
        wins: win rates by arm and round, where the judge knows no utility.
    """
    standings = tuple(
        Standing(
            arm,
            config.role(arm.label),
            config.comparison.arm(arm.label, config.seeds[0]),
            tuple(wins.get(arm.label, ())),
        )
        for arm in comparison.arms
    )
    return Rehearsal(config, comparison, standings, _best(standings))


def at_equal_labels(standings: Sequence[Standing]) -> list[Standing]:
    """Return the arms that could be used in the baseline's place and read no more labels than it did, itself among
    them."""
    candidates = [one for one in standings if one.role in ("baseline", "candidate")]
    return [one for one in candidates if one.labels <= standings[0].labels] if candidates else []


def _best(standings: Sequence[Standing]) -> str | None:
    """Return the arm with the best mean at the end, among those at equal labels that did not fall if there are any."""
    known = [one for one in at_equal_labels(standings) if one.measure is not None and one.arm.finished]
    known = known or [one for one in at_equal_labels(standings) if one.measure is not None]
    held = [one for one in known if not one.fell] or known
    return max(held, key=lambda one: one.measure.mean if one.measure else 0.0).label if held else None


def partner(standing: Standing, others: Sequence[Standing], *, control: str) -> Standing | None:
    """Return the arm that differs from one with a penalty in that alone: it has none, or has it shuffled.

    Args:
        standing: an arm with a penalty.
        others: among which the partner may be.
        control: `none` for the arm without a penalty, `shuffled`.
    """
    steering = "rlhf" if control == "none" else standing.config.steering

    def same(config: TrainConfig) -> TrainConfig:
        bare = {"steering": "rlhf", "gamma": None, "gamma_unit": None, "control": "none"}
        return replace(config, **bare)  # type: ignore[arg-type]

    return next(
        (
            one
            for one in others
            if (one.config.steering, one.config.control) == (steering, control)
            and one.role != "ceiling"
            and same(one.config) == same(standing.config)
        ),
        None,
    )


def difference_of(one: Standing, other: Standing) -> Interval | None:
    """Return the final true utility of an arm less that of another, paired; None where it is not known."""
    if other.label in one.arm.earlier_differences:
        return one.arm.earlier_differences[other.label]
    turned = one.arm.utility_difference if other.role == "baseline" else None
    if turned is not None or (back := other.arm.earlier_differences.get(one.label)) is None:
        return turned
    return replace(back, mean=-back.mean, low=-back.high, high=-back.low)
