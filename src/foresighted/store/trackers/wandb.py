"""Weights & Biases: the file that a run writes as it goes (offline or not), `RUN.wandb` in its directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foresighted.errors import DataError
from foresighted.store.formats import readable
from foresighted.store.trackers.metrics import MetricRun, Metrics, made, of_rows
from foresighted.store.trackers.wire import fields, leveldb_records

PATTERN = "*.wandb"
MAGIC = b":W&B"
_START = 7
_HISTORY, _RUN, _ITEM, _DISPLAY_NAME = 2, 17, 1, 8
_KEY, _NESTED, _JSON = 1, 2, (16, 8)


def read(files: Sequence[Path]) -> Metrics:
    """Read run files, a run each.

    Raises:
        DataError: a file that is none.
    """
    return made("W&B run files", len(files), [_run(file) for file in sorted(files)])


def _run(file: Path) -> MetricRun:
    with readable(file):
        data = file.read_bytes()
    if not data.startswith(MAGIC):
        raise DataError(f"{file}: no run file of Weights & Biases; give the run's directory, or an export as CSV")
    name, rows = file.stem.removeprefix("run-"), []
    try:
        for record in leveldb_records(data, _START):
            for number, value in fields(record):
                if number == _HISTORY and isinstance(value, bytes):
                    rows.append(dict(_items(value)))
                elif number == _RUN and isinstance(value, bytes):
                    said = dict(fields(value)).get(_DISPLAY_NAME)
                    name = said.decode("utf-8", "replace") if isinstance(said, bytes) and said else name
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error}); export the run as CSV, or sync it again") from None
    return of_rows(name, rows)


def _items(history: bytes) -> Iterator[tuple[str, Any]]:
    for number, value in fields(history):
        if number != _ITEM or not isinstance(value, bytes):
            continue
        keys, text = [], None
        for part, inner in fields(value):
            if part in (_KEY, _NESTED) and isinstance(inner, bytes) and inner:
                keys.append(inner.decode("utf-8", "replace"))
            elif part in _JSON and isinstance(inner, bytes):
                text = inner
        if keys and text is not None:
            yield ".".join(keys), json.loads(text)
