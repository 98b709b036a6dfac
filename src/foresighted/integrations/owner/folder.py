"""An owner by its folder alone, without its reward model: what it has done, and how to have it stop or go back."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.integrations.owner.config import OwnerConfig
from foresighted.integrations.owner.events import Rollback
from foresighted.integrations.owner.journal import JOURNAL, Journal
from foresighted.integrations.owner.state import State, replayed
from foresighted.integrations.owner.status import of_state
from foresighted.integrations.owner.versions import present
from foresighted.settings import from_mapping, read_yaml
from foresighted.store import files
from foresighted.store.directory import CONFIG, LOCK, NOUNS, alone, kind_of
from foresighted.store.rows import read_json, write_json

PROCESS, WISH = "process.json", "wish.json"
"""Who has the folder; what somebody asks of them."""


@dataclass(frozen=True)
class Process:
    """Who has a folder."""

    host: str
    pid: int
    address: str = ""
    """Where it is asked, if anywhere."""


@dataclass(frozen=True)
class Wish:
    """What somebody asks of a running owner: to go back to a version."""

    version: int
    reason: str


def sign(folder: Path, address: str = "") -> None:
    """Write down that this process has a folder."""
    write_json(folder / PROCESS, Process(socket.gethostname(), os.getpid(), address))


def wish_of(folder: Path) -> Wish | None:
    """Return what is asked of the owner, once: it is taken away."""
    path = folder / WISH
    if not path.exists():
        return None
    try:
        return read_json(path, Wish, what="wish", again="ask again")
    except DataError:
        return None
    finally:
        path.unlink(missing_ok=True)


def status(folder: Path) -> dict[str, Any]:
    """Return what an owner has done, from its folder, and who has it.

    Raises:
        RunError: it holds no owner.
    """
    state = _state(folder)
    process = _process(folder)
    here: dict[str, Any] = {"running": _held(folder), "process": process and process.pid}
    here |= {"host": process.host if process else ""}
    return here | {"address": process.address if process else ""} | of_state(state, present(folder))


def stop(folder: Path, wait: float) -> str:
    """End the owner of a folder and wait until the folder is free; return what to tell.

    Raises:
        RunError: it runs on another machine, or does not end in time.
    """
    _state(folder)
    if not _held(folder):
        return f"{folder}: nobody has it"
    process = _process(folder)
    if process is None or process.host != socket.gethostname():
        where = "of which nothing is known" if process is None else f"on {process.host}"
        raise RunError(f"{folder}: its owner is a process {where}; stop it there")
    os.kill(process.pid, signal.SIGTERM)
    if not _until(lambda: not _held(folder), wait):
        raise RunError(f"{folder}: process {process.pid} still has it after {wait:g} s; wait longer with --wait")
    return f"{folder}: process {process.pid} has ended"


def rollback(folder: Path, version: int | None, reason: str, wait: float) -> str:
    """Have an owner go back to a version, running or not; return what to tell.

    Raises:
        RunError: there is no such version, or a running owner does not answer in time.
    """
    state = _state(folder)
    version = check_version(version, present(folder), state.newest)
    if not _held(folder):
        with alone(folder):
            Journal(folder).append([Rollback(version, reason)])
        return f"{folder}: version {version} scores when the owner is opened"
    before = state.rollbacks
    write_json(folder / WISH, Wish(version, reason))
    if not _until(lambda: _state(folder).rollbacks > before, wait):
        (folder / WISH).unlink(missing_ok=True)
        raise RunError(f"{folder}: its owner did not go back within {wait:g} s; wait longer with --wait")
    return f"{folder}: version {version} scores"


def check_version(version: int | None, there: Sequence[int], newest: int) -> int:
    """Return a version that is on disk and that a closed round made.

    Raises:
        RunError: it is not; names those that are.
    """
    known = [one for one in there if one <= newest]
    if version is None or version not in known:
        told = ", ".join(map(str, known[-8:])) or "none"
        got = "none" if version is None else version
        raise RunError(f"version: got {got}; on disk are {'..., ' if len(known) > 8 else ''}{told}")
    return version


def _state(folder: Path) -> State:
    kind = kind_of(folder)
    if kind != "owner":
        raise RunError(f"{folder}: holds {NOUNS[kind]}, no reward owner; give the --out of foresighted serve")
    saved = read_yaml(folder / CONFIG)
    try:
        config = from_mapping(OwnerConfig, saved)
    except ConfigError as error:
        raise RunError(f"{folder / CONFIG}: {error}") from None
    labels = bool(config.labels)
    return replayed(folder / JOURNAL, State(config.update_every, config.pending_pairs, False, labels, 0))


def _process(folder: Path) -> Process | None:
    try:
        return read_json(folder / PROCESS, Process, what="process", again="")
    except DataError:
        return None


def _held(folder: Path) -> bool:
    """Return whether a process has a folder."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError as error:
        raise RunError(f"{folder}: its lock cannot be read ({error.strerror})") from None


def _until(done: Callable[[], bool], wait: float) -> bool:
    end = time.monotonic() + wait
    while not (found := done()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@contextmanager
def signed(folder: Path) -> Iterator[None]:
    """Say for a `with` block who has a folder."""
    sign(folder)
    try:
        yield
    finally:
        (folder / PROCESS).unlink(missing_ok=True)
        files.fsync(folder)
