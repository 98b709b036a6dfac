"""`foresighted.audit`: whether, when and how a loop collapsed, from records, logs or a frame."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from foresighted.api.arguments import Place, path_of
from foresighted.api.progress import Told, shown
from foresighted.api.result import FromFile, Plot, frame, joined, plot_of
from foresighted.auditing.result import Audit as Data
from foresighted.auditing.result import read_audit, write_audit
from foresighted.errors import DataError


class Audit(FromFile):
    """What an audit says: `verdict`, `collapsed`, and every number in `data`."""

    main: ClassVar[str] = "rounds"
    reader = staticmethod(read_audit)
    data: Data

    @property
    def verdict(self) -> str:
        """`collapsed`, `suspicious`, `cannot tell` or `no collapse seen`."""
        return self.data.verdict

    @property
    def collapsed(self) -> bool:
        """Whether the verdict is `collapsed`."""
        return self.data.collapsed

    @property
    def sentences(self) -> tuple[str, ...]:
        """The headline, then what was seen."""
        return (self.data.headline, *self.data.sentences)

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Rounds, calibration, kinds, symptoms and parts of the reward by arm, and the responses to look at first."""
        arms = self.data.arms
        parts = ("rounds", "calibration", "kinds", "symptoms", "components")
        found = {part: joined([frame(getattr(arm, part), arm=arm.label) for arm in arms]) for part in parts}
        return {"arms": frame(arms), **found, "look_at": frame(self.data.look_at)}

    def write(self, directory: str | Path) -> Path:
        """Write `audit.json` in a directory; return the file."""
        return write_audit(self.data, Path(directory))

    def plot(self, name: str | None = None) -> Plot:
        """Return utility and reward by round, or another chart of the report by its name."""
        from foresighted.reporting.audit import audit_page

        return plot_of(audit_page(self.data), name)


def audit(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    power: float = 0.8,
    out: Place | None = None,
    progress: Told | bool | None = None,
) -> Audit:
    """Say whether, when and how a loop collapsed; what `foresighted audit` runs.

    Args:
        source: a path (a run or a comparison, the output directory of a TRL trainer, rollout dumps, or a JSONL, CSV
            or Parquet file, or a tracker's metrics), or a pandas or polars frame or a `datasets.Dataset` with a row a
            response.
        columns: our name of a column -> what it is called there; those not named are guessed.
        power: chance with which the labels asked for should settle the question, in (0, 1).
        out: a directory for `audit.json`; None writes nothing.
        progress: told (name, files read, files); True, False or None as in `train`.

    Returns:
        The audit; `collapsed` says what the exit code of the command says.

    Raises:
        DataError: nothing to read, a bad line, a column that is missing.
        ConfigError: an unknown column name, or `power` out of range.

    Example:
        >>> audit("logs/", columns={"reward": "scores.rm"}).verdict  # doctest: +SKIP
        'collapsed'
    """
    place = None if out is None else path_of("out", out)
    if not isinstance(source, str | PathLike):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frame.parquet"
            _write_frame(source, path)
            data = _audited(path, columns, power, progress)
        data = replace(data, source=replace(data.source, path="frame", format=f"{type(source).__name__} in memory"))
    else:
        data = _audited(path_of("source", source), columns, power, progress)
    if place is not None:
        write_audit(data, place)
    return Audit(data, place)


def _audited(path: Path, columns: Mapping[str, str] | None, power: float, progress: Told | bool | None) -> Data:
    from foresighted.auditing.audit import audit as judge

    with shown(progress) as tell:
        return judge(path, columns=columns, power=power, progress=lambda done, total: tell("files", done, total))


def _write_frame(source: Any, path: Path) -> None:
    write = getattr(source, "to_parquet", None) or getattr(source, "write_parquet", None)  # pandas, datasets; polars
    if not callable(write):
        raise DataError(f"audit: got {type(source).__name__}, expected a path, a frame or a datasets.Dataset")
    try:
        write(path)
    except Exception as error:  # each library has its own for columns that a table cannot hold
        raise DataError(f"audit: the frame cannot be kept as a table ({' '.join(str(error).split())})") from None
