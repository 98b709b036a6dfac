"""trackio: its SQLite database, a project a file; and how any tracker's database is told from others."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from foresighted.errors import DataError
from foresighted.store.trackers import mlflow
from foresighted.store.trackers.metrics import MetricRun, Metrics, made

MAGIC = b"SQLite format 3"


def read_database(path: Path) -> Metrics:
    """Read a database of trackio or MLflow, without writing to it.

    Raises:
        DataError: it is damaged, or of something else.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            columns = {row[1] for row in base.execute("PRAGMA table_info(metrics)")}
            if {"run_name", "step", "metrics"} <= columns:
                return _read(path, base)
            if {"run_uuid", "key", "value", "step", "is_nan"} <= columns:
                return mlflow.read_database(path, base)
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise DataError(f"{path}: an SQLite database that cannot be read ({error}); is it whole?") from None
    raise DataError(f"{path}: an SQLite database, but of neither trackio nor MLflow; export the metrics as CSV")


def _read(path: Path, base: sqlite3.Connection) -> Metrics:
    runs: dict[str, MetricRun] = {}
    for name, step, text in base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id"):
        values = json.loads(text)
        if isinstance(values, dict):
            runs.setdefault(str(name), MetricRun(str(name))).add(int(step), values)
    return made("trackio database", 1, runs.values())
