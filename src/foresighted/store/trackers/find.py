"""Which tracker's metrics lie at a path, by content and by the names that a tracker gives its files."""

from __future__ import annotations

import re
from pathlib import Path

from foresighted.store.formats import format_of, readable
from foresighted.store.trackers import console, mlflow, tables, tensorboard, trackio, wandb
from foresighted.store.trackers.metrics import Metrics

_DEPTH = ("*", "*/*", "*/*/*")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_LOGS = (".log", ".txt", ".out")


def find_metrics(path: Path) -> Metrics | None:
    """Read the metrics at a path; None where there are none, or where they are a plain table.

    Raises:
        DataError: a tracker's file that is damaged.
    """
    return _directory(path) if path.is_dir() else _file(path)


def _file(path: Path) -> Metrics | None:
    if not path.is_file():  # whoever reads it says of a FIFO what it is
        return None
    with readable(path), path.open("rb") as file:
        head = file.read(len(trackio.MAGIC))
    if "tfevents" in path.name:
        return tensorboard.read(path.parent, [path])
    if head.startswith(wandb.MAGIC):
        return wandb.read([path])
    if head.startswith(trackio.MAGIC):
        return trackio.read_database(path)
    found = format_of(path)
    if found.kind == "text":
        return console.read(path) if not found.packed and console.begins(path) else None
    return tables.read(path, found)


def _directory(path: Path) -> Metrics | None:
    if state := _newest_state(path):
        return tables.read(state)
    if files := _below(path, wandb.PATTERN):
        return wandb.read(files)
    if runs := mlflow.runs_below(path):
        return mlflow.read(runs)
    if files := _below(path, tensorboard.PATTERN):
        return tensorboard.read(path, files)
    own = sorted(file for file in path.iterdir() if file.is_file() and file.name[:1] != ".")
    bases = [file for file in own if file.suffix in (".db", ".sqlite", ".sqlite3")]
    if len(bases) == 1:
        return trackio.read_database(bases[0])
    logs = [file for file in own if file.suffix in (*_LOGS, ".jsonl", ".csv", ".parquet", ".json")]
    return _file(logs[0]) if len(logs) == 1 else None


def _below(path: Path, pattern: str) -> list[Path]:
    places = (pattern, *(f"{depth}/{pattern}" for depth in _DEPTH))
    found = [file for place in places for file in path.glob(place) if file.is_file()]
    return list({file.resolve(): file for file in found}.values())  # W&B links to its latest run


def _newest_state(path: Path) -> Path | None:
    """Return the trainer's state at a path, or of its latest checkpoint."""
    if (own := path / tables.TRAINER_STATE).is_file():
        return own
    steps = {
        int(found.group(1)): place
        for place in path.glob(f"checkpoint-*/{tables.TRAINER_STATE}")
        if (found := _CHECKPOINT.fullmatch(place.parent.name))
    }
    return steps[max(steps)] if steps else None
