"""Console logs that are structured: verl's `step:N - name:value - ...`, OpenRLHF's `Global step N: {...}`."""

from __future__ import annotations

import re
from pathlib import Path

from foresighted.store.formats import HEAD, readable
from foresighted.store.trackers.metrics import MetricRun, Metrics, made

_VERL = re.compile(r"\bstep:(\d+) - (.*)")
_OPENRLHF = re.compile(r"\bGlobal step (\d+)(?: \[[^]]*\])?: \{(.*)\}")
_NUMBER = r"(?:np\.float\d+\()?(-?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf))\)?"
_PAIR = re.compile(rf"([^\s:]+):{_NUMBER}")
_ITEM = re.compile(rf"['\"]([^'\"]+)['\"]: {_NUMBER}")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def begins(path: Path) -> bool:
    """Return whether the first 64 KiB of a text, or its last, hold a line of metrics."""
    with readable(path), path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(path.stat().st_size - HEAD, 0))
        text = (head + b"\n" + file.read()).decode("utf-8", "replace")
    return any(_VERL.search(line) or _OPENRLHF.search(line) for line in text.splitlines())


def read(path: Path) -> Metrics:
    """Read the lines that hold metrics; all others are passed over."""
    run, names = MetricRun(path.name.split(".")[0]), set()
    with readable(path), path.open(encoding="utf-8", errors="replace") as file:
        for raw in file:
            line = _COLOURS.sub("", raw)
            for name, begin, pair in (("verl", _VERL, _PAIR), ("OpenRLHF", _OPENRLHF, _ITEM)):
                if (found := begin.search(line)) and raw.endswith("\n"):
                    names.add(name)
                    run.add(int(found.group(1)), dict(pair.findall(found.group(2))))
    return made(f"{' and '.join(sorted(names))} console log", 1, [run])
