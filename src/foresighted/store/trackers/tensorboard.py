"""TensorBoard event files: a run a directory, of `SummaryWriter` and of everything that writes as it does."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from foresighted.errors import DataError
from foresighted.store.formats import readable
from foresighted.store.trackers.metrics import MetricRun, Metrics, made
from foresighted.store.trackers.wire import fields, signed, tf_records

PATTERN = "*tfevents*"
_EVENT_STEP, _EVENT_SUMMARY, _SUMMARY_VALUE, _TAG, _SIMPLE, _TENSOR = 2, 5, 1, 1, 2, 8
_FLOATS = {4: 5, 8: 6}
"""Bytes of a number -> its field in a tensor: float_val, double_val."""
_CONTENT = 4
"""The same as raw bytes."""


def read(root: Path, files: Sequence[Path]) -> Metrics:
    """Read event files; those of one directory are one run.

    Raises:
        DataError: a file that is none.
    """
    runs: dict[Path, MetricRun] = {}
    for file in sorted(files):
        place = file.parent
        name = str(place.relative_to(root)) if place != root and root in place.parents else place.resolve().name
        run = runs.setdefault(place, MetricRun(name))
        for step, values in _events(file).items():
            run.add(step, values)
    return made("TensorBoard events", len(files), runs.values())


def _events(file: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = defaultdict(dict)
    with readable(file):
        data = file.read_bytes()
    try:
        for record in tf_records(data):
            step, summaries = 0, []
            for number, value in fields(record):
                if number == _EVENT_STEP and isinstance(value, int):
                    step = signed(value)
                elif number == _EVENT_SUMMARY and isinstance(value, bytes):
                    summaries.append(value)
            for summary in summaries:
                found[step] |= dict(_scalars(summary))
    except ValueError as error:
        raise DataError(
            f"{file}: no TensorBoard events, or damaged ({error}); give the directory that holds them"
        ) from None
    return found


def _scalars(summary: bytes) -> Iterator[tuple[str, float]]:
    for number, value in fields(summary):
        if number != _SUMMARY_VALUE or not isinstance(value, bytes):
            continue
        parts = {name: part for name, part in fields(value) if isinstance(part, bytes)}
        tag = parts.get(_TAG, b"").decode("utf-8", "replace")
        number_ = _single(parts.get(_SIMPLE)) if _SIMPLE in parts else _of_tensor(parts.get(_TENSOR, b""))
        if tag and number_ is not None:
            yield tag, number_


def _of_tensor(tensor: bytes) -> float | None:
    """Return the value of a scalar tensor (TensorFlow 2 writes scalars so)."""
    for number, value in fields(tensor):
        if isinstance(value, bytes) and (number == _CONTENT or number in _FLOATS.values()):
            return _single(value)
    return None


def _single(value: bytes | None) -> float | None:
    kind = {4: "<f", 8: "<d"}.get(len(value or b""))
    return None if kind is None or value is None else float(struct.unpack(kind, value)[0])
