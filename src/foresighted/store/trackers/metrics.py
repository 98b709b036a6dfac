"""Metrics of a run: what a tracker kept, a number a name and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foresighted.store.exchanges import missing, number_of

STEPS = ("train/global_step", "global_step", "_step", "step", "training_step", "training/global_step", "iteration")
"""Names of the step, best first: what the trainer counts before what the tracker does."""
LARGEST = 1e100
"""Beyond it a value counts as unknown: squares of it would overflow."""
_BESIDE = {"id", "_runtime", "_timestamp", "timestamp", "epoch", "train/epoch", "episode"} | set(STEPS)
"""Names that are no metric."""


@dataclass
class MetricRun:
    """One run's metrics."""

    name: str
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    """Name -> step -> value; a step that was logged twice (a run that was resumed) has the later value."""
    odd: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Name -> first step and value that is neither a number nor absent: text, a table, a picture."""
    replaced: int = 0
    """Values that a later one of the same step took the place of."""

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Take in the finite numbers of one log."""
        for name, value in values.items():
            if name in _BESIDE:
                continue
            known = _number(value)
            if known is not None:
                own = self.metrics.setdefault(name, {})
                self.replaced += own.get(step, known) != known
                own[step] = known
            elif not isinstance(value, float) and not missing(value):
                self.odd.setdefault(name, (step, value))

    @property
    def steps(self) -> list[int]:
        """Every step, in order."""
        return sorted({step for values in self.metrics.values() for step in values})


@dataclass(frozen=True)
class Metrics:
    """What was read."""

    format: str
    """In words: `TensorBoard events`, `W&B offline run`, ..."""
    files: int
    runs: tuple[MetricRun, ...]
    """Those that hold a number."""
    remarks: tuple[str, ...] = ()


def step_of(row: Mapping[str, Any]) -> int | None:
    """Return the step of a log, None where it tells none."""
    found = next((_number(row[name]) for name in STEPS if row.get(name) is not None), None)
    return int(found) if found is not None and found == int(found) and found >= 0 else None


def of_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> MetricRun:
    """Return a run of rows, each with its step."""
    run = MetricRun(name)
    for row in rows:
        step = step_of(row)
        if step is not None:
            run.add(step, row)
    return run


def made(format: str, files: int, runs: Iterable[MetricRun], remarks: tuple[str, ...] = ()) -> Metrics:
    """Return what was read, without runs that hold no number."""
    known = tuple(run for run in runs if run.metrics)
    if replaced := sum(run.replaced for run in known):
        again = f"{replaced} values were logged again at a step that had one, and the later ones count: a run that was"
        remarks = (*remarks, f"{again} resumed, or several runs in one log.")
    return Metrics(format, files, known, remarks)


def named_by(path: Path) -> str:
    """Return what a file's run is called, by where it lies."""
    return path.resolve().parent.name or path.name


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float | str):
        return None
    try:
        known = number_of(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return known if known is not None and abs(known) <= LARGEST else None
