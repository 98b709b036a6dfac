"""What an evaluation keeps on disk, by length and hash, so that it is known again when the evaluation goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foresighted.errors import DataError, RunError
from foresighted.judging.rows import CAPABILITIES, AnswerRow, JudgementRow, read_rows
from foresighted.judging.settings import MAY_CHANGE_ON_RESUME, EvaluateConfig
from foresighted.settings import to_mapping
from foresighted.store.directory import ANSWERS, JUDGEMENTS, differences
from foresighted.store.files import Pins, drop_torn_line, pinned
from foresighted.store.rows import plain, read_sealed, write_sealed

HASHES = "hashes.json"
FILES = (ANSWERS, JUDGEMENTS, CAPABILITIES)


@dataclass(frozen=True)
class Kept:
    """The files when they were last pinned, and the settings by which they were written."""

    records: Mapping[str, int]
    records_sha256: Mapping[str, str]
    config: Mapping[str, Any]


def check(out: Path, config: EvaluateConfig) -> None:
    """Check what is kept in a directory; nothing is written. A file that was removed is made again.

    Raises:
        RunError: a file is not as it was written, or was written by other settings.
        DataError: a line that is none.
    """
    path = out / HASHES
    if path.exists():
        again = "restore it, or choose another --out"
        try:
            kept, _ = read_sealed(path, Kept, what="hashes", again=again, since="records_sha256")
        except DataError as error:
            raise RunError(str(error)) from None
        present = {name: size for name, size in kept.records.items() if (out / name).exists()}
        if wrong := Pins(present, kept.records_sha256).changed(out):
            raise RunError(f"{wrong}; restore the file, or remove it to have it made again")
        if changes := differences(kept.config, plain(to_mapping(config)), MAY_CHANGE_ON_RESUME):
            raise RunError(f"out: {out} belongs to another configuration ({changes}); give the same, or another --out")
    read_rows(out / ANSWERS, AnswerRow)
    read_rows(out / JUDGEMENTS, JudgementRow)


def pin(out: Path, config: EvaluateConfig) -> None:
    """Write down what the files are now, once torn last lines were dropped."""
    for name in FILES:
        drop_torn_line(out / name)
    pins = pinned(out, FILES)
    write_sealed(out / HASHES, Kept(pins.records, pins.records_sha256, to_mapping(config)))


def pin_at_last(out: Path, config: EvaluateConfig) -> None:
    """Pin what there is of an evaluation that ends, whatever ends it: a full disk has a message of its own."""
    with suppress(OSError):
        pin(out, config)
