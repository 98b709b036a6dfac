"""What a comparison of arms says, as numbers and sentences: frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foresighted.statistics.collapse import Fall
from foresighted.statistics.intervals import Interval, Share
from foresighted.store.rows import plain


@dataclass(frozen=True)
class Labels:
    """Preferences that one run read: for the initial pairs, then for selection and training."""

    seed: int
    initial: int
    later: int
    total: int


@dataclass(frozen=True)
class Evaluated:
    """Held-out means after `round` rounds. `gap`: growth of proxy reward minus growth of true utility since the first
    evaluated round, each in prompt-to-prompt standard deviations of that round."""

    round: int
    utility: Interval | None
    reward: Interval
    gap: Interval | None
    kl: Interval | None
    tokens: Interval
    distinct_1: Interval
    distinct_2: Interval


@dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest over seeds."""

    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Trained:
    """One training round: each column of `RoundRow` that is known, over seeds."""

    round: int
    columns: Mapping[str, Spread]


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison. Differences are `this arm - baseline` on the seeds both have; None where unknown."""

    label: str
    finished: bool
    seeds: tuple[int, ...]
    last_round: int
    labels: tuple[Labels, ...]
    evaluated: tuple[Evaluated, ...]
    trained: tuple[Trained, ...]
    final_utility: Interval | None
    best_utility: Interval | None
    final_reward: Interval
    collapse: Fall | None
    """Of the mean over seeds."""
    to_last: Fall | None
    """The fall to the last round, where `collapse` is one to an earlier round; else None."""
    seed_collapses: tuple[Fall, ...]
    collapsed_share: Share | None
    utility_difference: Interval | None
    reward_difference: Interval | None


@dataclass(frozen=True)
class Comparison:
    """What the records of a comparison say. The first planned arm is the baseline."""

    planned_arms: tuple[str, ...]
    planned_seeds: tuple[int, ...]
    planned_rounds: int
    last_round: int
    prompts: int
    level: float
    any_finished: bool
    arms: tuple[Arm, ...]
    missing: tuple[str, ...]
    sentences: tuple[str, ...]
    """What was seen, in plain English, with intervals, label counts and the numbers of seeds and prompts."""

    @property
    def utility_known(self) -> bool:
        """Whether the records hold true utilities of held-out answers."""
        return any(arm.final_utility is not None for arm in self.arms)

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as plain JSON values; a bound that is infinite becomes None."""
        mapping: dict[str, Any] = plain(self)
        return mapping
