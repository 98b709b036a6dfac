"""Metrics as rows: a trainer's `log_history`, verl's file logger, exports of W&B and MLflow as CSV, JSON or Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foresighted.store.aliases import CONVERSATIONS, keys_of
from foresighted.store.foreign import first, rows_as
from foresighted.store.formats import Format, format_of
from foresighted.store.trackers.metrics import STEPS, MetricRun, Metrics, made, step_of

TRAINER_STATE = "trainer_state.json"
_PEEKED = 200
_RUN = ("run_name", "Run", "run", "run_id", "Run ID", "run_uuid")
_SEED = "seed"
_LONG = (("key", "value"), ("metric", "value"), ("Metric", "Value"))
_OF_A_RUN = re.compile(r"(.+) - (.+)")
_BOUND = ("__MIN", "__MAX")
_SIDECAR = re.compile(r"(.+?)_(?:system|configs|traces|\w*artifact\w*)\.parquet")
_TEXTS = ("prompt", "response", "prompt_id")


def read(path: Path, format: Format | None = None) -> Metrics | None:
    """Read a file's metrics; None where it does not say that it holds some and no responses.

    A table with a step, a reward and nothing that a tracker would write is left to those who read any table.
    """
    found = format or format_of(path)
    if found.kind == "text":
        return None
    rows = (row.values for row in rows_as(path, found, torn=True))
    if path.name == TRAINER_STATE:
        return made("trainer state", 1, [_state(path, rows)])
    peeked = [row for row in first(rows_as(path, found, torn=True), _PEEKED) if isinstance(row, Mapping)]
    names = list(dict.fromkeys(str(name) for row in peeked for name in row))
    if not peeked or any(keys_of(text, names) for text in _TEXTS) or set(CONVERSATIONS) & set(names):
        return None
    if {"step", "data"} <= set(names) and isinstance(peeked[0].get("data"), Mapping):
        inner = ({"step": row.get("step"), **row["data"]} for row in rows if isinstance(row.get("data"), Mapping))
        return made("verl file log", 1, _wide(path, inner))
    for key, value in _LONG:
        if {key, value} <= set(names) and any(name.lower() in STEPS for name in names):
            return made("MLflow export", 1, _long(path, rows, key, value))
    if "Step" in names and any(_OF_A_RUN.fullmatch(name) for name in names):
        return made("W&B export", 1, _charts(rows))
    told_by = {"_step": "W&B export", "log_id": "trackio export"}
    format_ = next((format_ for name, format_ in told_by.items() if name in names), None)
    if set(STEPS) & set(names) and (format_ or any("/" in name for name in names)):
        return made(format_ or "table of metrics", 1, _wide(path, rows))
    return None


def beside_trackio(path: Path) -> bool:
    """Return whether trackio wrote a file beside a project's metrics: its settings, its machine, its traces."""
    found = _SIDECAR.fullmatch(path.name)
    return found is not None and any((path.parent / f"{found.group(1)}{end}").exists() for end in (".db", ".parquet"))


def _state(path: Path, rows: Iterator[dict[str, Any]]) -> MetricRun:
    folder = path.resolve().parent
    run = MetricRun(folder.parent.name if folder.name.startswith("checkpoint-") else folder.name)
    for row in rows:
        step = step_of(row)
        if step is not None and "log_history" not in row:  # of a run that has logged nothing, the state itself
            run.add(step, row)
    return run


def _wide(path: Path, rows: Iterator[dict[str, Any]]) -> list[MetricRun]:
    runs: dict[str, MetricRun] = {}
    for row in rows:
        step = step_of(row)
        if step is None:
            continue
        name = _name(row, path)
        values = {key: value for key, value in row.items() if key not in (*_RUN, _SEED)}
        runs.setdefault(name, MetricRun(name)).add(step, values)
    return list(runs.values())


def _name(row: Mapping[str, Any], path: Path) -> str:
    """Return what a row's run is called: by its columns, else by its file."""
    told = next((str(row[name]) for name in _RUN if row.get(name) not in (None, "")), path.name.split(".")[0])
    return told if row.get(_SEED) in (None, "") else f"{told}, seed {row[_SEED]}"


def _long(path: Path, rows: Iterator[dict[str, Any]], key: str, value: str) -> list[MetricRun]:
    runs: dict[str, MetricRun] = {}
    for row in rows:
        step = step_of({name.lower(): one for name, one in row.items()})
        if step is None or not isinstance(row.get(key), str):
            continue
        name = _name(row, path)
        runs.setdefault(name, MetricRun(name)).add(step, {row[key]: row.get(value)})
    return list(runs.values())


def _charts(rows: Iterator[dict[str, Any]]) -> list[MetricRun]:
    """Return the runs of a chart that W&B exported: a column `RUN - METRIC` each."""
    runs: dict[str, MetricRun] = {}
    for row in rows:
        step = step_of({"step": row.get("Step")})
        for name, value in row.items():
            found = None if name.endswith(_BOUND) else _OF_A_RUN.fullmatch(name)
            if found and step is not None:
                run = runs.setdefault(found.group(1), MetricRun(found.group(1)))
                run.add(step, {found.group(2): value})
    return list(runs.values())
