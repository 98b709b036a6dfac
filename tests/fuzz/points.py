"""Run a command again and again, each time in a process of its own that meets one accident, then once more without.

Needs the names COMMAND (words; `OUT` stands for the directory), PLACE (where directories are made), POINTS (of
accidents, None: all), MOST (of these, evenly), ACCIDENT and SAME (patterns of what must be equal afterwards); prints a
JSON object.

    kill    the process ends at its n-th change of the directory, without any cleaning up
    full    that change is refused as on a full disk, and so is every later one
    short   no file grows beyond n bytes
"""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from foresighted.cli.main import main

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
KILLED = 77


class Changes:
    """Counts what a process changes below a directory, and has an accident at one of them."""

    def __init__(self, out: Path, accident: str, point: int | None) -> None:
        self.out, self.accident, self.point, self.count = str(out), accident, point, 0
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        path = os.path.abspath(os.fsdecode(arguments[0])) if not isinstance(arguments[0], int) else ""
        if not path.startswith(self.out) or path.endswith(".lock"):
            return
        self.count += 1
        if self.point is None or self.count < self.point:
            return
        if self.accident == "kill":
            os._exit(KILLED)
        if event not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def run(command: list[str], out: Path, accident: str = "", point: int | None = None) -> tuple[int, str, int]:
    """Return exit code, standard error, and how many changes a process made."""
    said = out.with_name("said.json")
    said.write_text('["", 0]')
    process = os.fork()
    if process == 0:
        code = 1
        try:
            changes = Changes(out.parent, accident, point if accident != "short" else None)
            if accident == "short":
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (point, resource.RLIM_INFINITY))
            with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
                try:
                    code = main([word.replace("OUT", str(out)) for word in command])
                except SystemExit as leaving:
                    code = leaving.code
            if accident == "short":
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            changes.out = "/no/more"
            said.write_text(json.dumps([err.getvalue(), changes.count]))
        finally:
            os._exit(code or 0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    err, count = json.loads(said.read_text())
    return code, err, count


def kept(out: Path, patterns: list[str]) -> dict[str, bytes]:
    """Return the files that must be equal."""
    found = [path for pattern in patterns for path in out.glob(pattern) if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def campaign(
    command: list[str], place: Path, points: list[int] | None, most: int | None, accident: str, same: list[str]
) -> dict:
    """Return how many accidents there were, and what was wrong after any of them."""
    place.mkdir(parents=True, exist_ok=True)
    code, err, changes = run(command, place / "whole")
    assert code == 0, err
    want, wrong, met = kept(place / "whole", same), [], 0
    every = points or list(range(1, changes + 1))
    for point in every[:: max(1, len(every) // (most or len(every)))]:
        out = place / "run"
        for path in place.glob("run*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        code, err, _ = run(command, out, accident, point)
        if code == 0:
            continue
        met += 1
        lines = err.strip().split("\n")
        if accident != "kill" and (code != 2 or "Traceback" in err or str(place) not in lines[-1]):
            wrong.append([point, "refused", code, err[-300:]])
        code, err, _ = run(command, out)
        got = kept(out, same)
        differ = [name for name in want.keys() | got.keys() if want.get(name) != got.get(name)]
        left = [str(path) for path in out.rglob("*.tmp")]
        if code or differ or left:
            wrong.append([point, "resumed", code, err[-300:], sorted(differ)[:3], left[:3]])
    return {"changes": changes, "met": met, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(campaign(COMMAND, Path(PLACE), POINTS, MOST, ACCIDENT, SAME)))  # noqa: F821 (of runpy)
