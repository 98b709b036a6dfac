"""Files and folders that are there whole or not at all, and files that only grow by whole lines.

What appears, appears by one rename, after its content is on the disk: a process that is killed, or a machine that
loses its power, leaves nothing that a later one could mistake for a result.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from foresighted.errors import RunError


def fsync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write to, which takes the place of a file when the `with` block ends without an error.

    Args:
        path: the file; its folder is there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all. Half of a surrogate pair, which UTF-8 does not have, becomes `?`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes the place of `path` when the `with` block ends without an error.

    Args:
        path: the folder; those above it are made if need be. One writer at a time: what a killed one left is removed.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for inside in temporary.rglob("*"):
            fsync(inside)
        fsync(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
        fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, by its name there."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in found}


def damaged(folder: Path, known: Mapping[str, str]) -> Path | None:
    """Return the first file that is absent or not as its hash says, or None."""
    paths = ((folder / name, value) for name, value in known.items())
    return next((path for path, value in paths if not path.is_file() or sha256(path) != value), None)


def append(path: Path, lines: str) -> None:
    """Append whole lines to a file, on the disk before returning; text of no lines leaves it as it is."""
    if not lines:
        return
    new = not path.exists()
    with path.open("ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())
    if new:
        fsync(path.parent)


def drop_torn_line(path: Path) -> None:
    """Cut a file back to its last whole line, so that what is appended starts a line of its own."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(path, whole)


def byte_counts(directory: Path, names: tuple[str, ...]) -> dict[str, int]:
    """Return the present size in bytes of each file (0 where it does not exist yet)."""
    return {name: (directory / name).stat().st_size if (directory / name).exists() else 0 for name in names}


def cut_back(directory: Path, counts: Mapping[str, int]) -> dict[str, int]:
    """Cut files back to a checkpoint's byte counts; return how many bytes each lost.

    Raises:
        RunError: a file is shorter than the checkpoint says, so records are missing.
    """
    dropped = {}
    for name, have in byte_counts(directory, tuple(counts)).items():
        want = counts[name]
        if have < want:
            raise RunError(
                f"{directory / name}: has {have} bytes, the checkpoint was written at {want}; restore the file,"
                " or remove the newest checkpoint to go on from the one before"
            )
        if have > want:
            os.truncate(directory / name, want)
            dropped[name] = have - want
    return dropped
