"""Files and folders that are there whole or not at all, and files that only grow by whole lines.

What appears, appears by one rename, after its content is on the disk: a process that is killed, or a machine that
loses its power, leaves nothing that a later one could mistake for a result.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Have what the operating system refuses in a `with` block say which file it was about, where it does not.

    Libraries written in Rust raise errors of their own that hold `(os error 28)`, Arrow ones that hold `[Errno 28]`.

    Raises:
        OSError: with its number and the name of a file, in place of any of these.
    """
    try:
        yield
    except OSError as error:
        told = re.search(r"\[Errno (\d+)\]", str(error)) if error.errno is None else None
        if told is not None:
            raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from None
        if error.filename in (None, str(temporary_of(path))):
            error.filename = str(path)
        raise
    except Exception as error:
        if (told := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from None


def temporary_of(path: Path) -> Path:
    """Return where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.tmp")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each on the disk before returning."""
    if path.is_dir():
        return
    if path.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync(path.parent)


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
    temporary = temporary_of(path)
    with named(path):
        try:
            yield temporary
            fsync(temporary)
            os.replace(temporary, path)
            fsync(path.parent)
        finally:
            with suppress(OSError):  # not there any more, or on a disk that takes no change
                temporary.unlink()


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
    with named(path):
        make_folder(temporary.parent)
        temporary.mkdir()
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
    """Append whole lines to a file, on the disk before returning; text of no lines leaves it as it is.

    Half of a surrogate pair becomes `?`, as in `write`.
    """
    if not lines:
        return
    new = not path.exists()
    with named(path):
        with path.open("ab") as file:
            file.write(lines.encode("utf-8", "replace"))
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
            cut(path, whole)


def cut(path: Path, size: int) -> None:
    """Cut a file back to its first bytes, on the disk before returning."""
    with named(path):
        os.truncate(path, size)
        fsync(path)


def byte_counts(directory: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the present size in bytes of each file (0 where it does not exist yet)."""
    return {name: (directory / name).stat().st_size if (directory / name).exists() else 0 for name in names}


@dataclass(frozen=True)
class Pins:
    """Files that only grow, as they were at some time: by these they are known later, whatever was appended since."""

    records: Mapping[str, int]
    """Size in bytes of each file."""
    records_sha256: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of as many bytes; empty where an earlier version, which kept none, pinned them."""

    def changed(self, directory: Path) -> str:
        """Return what is wrong with the first file that is shorter or begins with other bytes, or nothing."""
        for name, have in byte_counts(directory, self.records).items():
            if have < (size := self.records[name]):
                return f"{directory / name}: has {have} bytes, and had {size} when it was last pinned"
            known = self.records_sha256.get(name)
            if known is not None and known != _beginning(directory / name, size):
                return f"{directory / name}: its first {size} bytes are not those that were written"
        return ""

    def cut_back(self, directory: Path) -> dict[str, int]:
        """Cut files back to what was pinned; return how many bytes each lost."""
        dropped = {}
        for name, have in byte_counts(directory, self.records).items():
            if have > (want := self.records[name]):
                cut(directory / name, want)
                dropped[name] = have - want
        return dropped


def pinned(directory: Path, names: Iterable[str]) -> Pins:
    """Return files of a directory as they are now."""
    counts = byte_counts(directory, names)
    return Pins(counts, {name: _beginning(directory / name, size) for name, size in counts.items()})


def _beginning(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    if size:
        with path.open("rb") as file:
            while size and (block := file.read(min(size, 2**20))):
                digest.update(block)
                size -= len(block)
    return digest.hexdigest()
