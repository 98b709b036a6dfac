"""MLflow: metric files of `mlruns`, or the database that took their place."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from foresighted.errors import DataError
from foresighted.settings import read_yaml
from foresighted.store.formats import readable
from foresighted.store.trackers.metrics import MetricRun, Metrics, made

_META, _METRICS = "meta.yaml", "metrics"


def runs_below(path: Path) -> list[Path]:
    """Return the run directories in `mlruns`, in an experiment, or the one at the path itself."""
    found = [path, *path.glob("*"), *path.glob("*/*")]
    return sorted(place for place in found if (place / _META).is_file() and (place / _METRICS).is_dir())


def read(runs: list[Path]) -> Metrics:
    """Read metric files: a line `timestamp value step` a log.

    Raises:
        DataError: a line that is none.
    """
    found, files = [], 0
    for place in runs:
        name = str(read_yaml(place / _META).get("run_name") or place.name)
        run = MetricRun(name)
        for file in sorted((place / _METRICS).rglob("*")):
            if file.is_file():
                files += 1
                _add(run, file, file.relative_to(place / _METRICS).as_posix())
        found.append(run)
    return made("MLflow metric files", files, found)


def _add(run: MetricRun, file: Path, name: str) -> None:
    with readable(file):
        lines = file.read_text("utf-8", "replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # a last line without its end is being written
        try:
            _, value, step = line.split()
            run.add(int(step), {name: float(value)})
        except ValueError:
            raise DataError(f"{file}, line {number}: {line[:40]!r}, expected `timestamp value step`") from None


def read_database(path: Path, open_: sqlite3.Connection) -> Metrics:
    """Read the metrics of a database of MLflow."""
    runs: dict[str, MetricRun] = {}
    names = dict(open_.execute("SELECT run_uuid, name FROM runs"))
    query = "SELECT run_uuid, key, value, step FROM metrics WHERE NOT is_nan ORDER BY timestamp"
    for run, key, value, step in open_.execute(query):
        runs.setdefault(run, MetricRun(str(names.get(run) or run))).add(int(step), {str(key): value})
    return made("MLflow database", 1, runs.values())
