"""The rounds of an owner as a `MetricsMonitor` reads the logs of any engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from foresighted.integrations.monitoring.monitor import MetricsMonitor
from foresighted.store.records import RoundRow

UTILITY = "fpo/utility"


def watching(folder: Path, rows: Iterable[RoundRow], *, trusted: bool) -> MetricsMonitor:
    """Return a monitor that has seen some rounds, and writes what it sees of the next ones to a folder.

    Args:
        folder: of the owner.
        rows: of the rounds so far.
        trusted: the true utility is known, so that a fall can be called collapse.
    """
    monitor = MetricsMonitor(UTILITY if trusted else None, "fpo/reward_model", out=folder)
    monitor.take_up([logged(row) for row in rows])
    return monitor


def logged(row: RoundRow) -> dict[str, float | None]:
    """Return a round under the names that FPOReward logs it by in a trainer."""
    return {
        "step": row.round, UTILITY: row.utility_chosen, "fpo/reward_model": row.reward,
        "fpo/overconfidence": row.overconfidence, "fpo/reward_model_accuracy": row.reward_model_accuracy,
        "completions/mean_length": row.tokens,
    }  # fmt: skip
