"""An exit code means one thing: 0; 1 for a collapse; 2 for input and disks; 70 for our fault; and the shell's own."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from foresighted.cli import main as cli
from foresighted.errors import ConfigError, Stopped


@pytest.fixture
def steady(tmp_path):
    """A log of a loop that did not collapse."""
    rows = [
        {"round": r, "prompt": f"p{p}", "response": f"answer {p} of {r}", "reward": r + p % 3, "utility": r + p % 5}
        for r in range(6)
        for p in range(20)
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Refusing(io.TextIOWrapper):
    """Standard output that takes some characters and then refuses."""

    def __init__(self, error, after):
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.error, self.left = error, after

    def write(self, text):
        self.left -= len(text)
        return super().write(text)

    def flush(self):
        if self.left < 0 and not self.closed:
            raise self.error


@pytest.mark.parametrize("after", [0, 100, 2000])
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "standard output: No space left on device"),
    ],
)
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_an_output_that_cannot_be_written_is_no_verdict(steady, monkeypatch, capsys, after, error, code, words, how):
    monkeypatch.setattr(sys, "stdout", Refusing(error, after))
    assert cli.main(["audit", str(steady), "--quiet", *how]) == code
    monkeypatch.undo()
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ConfigError("gamma: got -1"), 2),
        (Stopped(3), 130),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (OSError(errno.EROFS, "Read-only file system", "/x/config.yaml"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/x/config.yaml"), 2),
        (MemoryError(), 2),
        (ModuleNotFoundError("no jax", name="jax"), 2),
        (ImportError("cannot import name 'x' from 'foresighted.api'", name="foresighted.api"), 70),
        (OSError(), 70),
        (ZeroDivisionError(), 70),
        (SystemExit(1), 70),
        (SystemExit(143), 143),
        (type("Panic", (BaseException,), {})("rust"), 70),
    ],
)
@pytest.mark.parametrize("shown", [False, True])
def test_no_exception_leaves_as_a_verdict(raised, code, shown, steady, monkeypatch, capsys):
    def fail(*_, **__):
        raise raised

    if shown:
        monkeypatch.setenv(cli.TRACEBACK, "1")
    monkeypatch.setattr("foresighted.cli.audit.audit", fail)
    assert cli.main(["audit", str(steady)]) == code
    said = capsys.readouterr().err
    assert ("Traceback" in said) == (shown and code == 70)
    assert said.strip().split("\n")[-1].startswith("foresighted: ") or code in (141, 143)
    if isinstance(raised, OSError) and raised.filename:
        assert "/x/config.yaml" in said


@pytest.mark.processes
def test_a_reader_that_goes_early_is_no_collapse(steady):
    """`| head -1`, an output that is closed, a full one: whatever Python itself does at its end included."""
    run = f"{sys.executable} -m foresighted"
    for command, codes in (
        (f"set -o pipefail; {run} audit {steady} --quiet | head -1", (0, 141)),
        (f"set -o pipefail; {run} train --help | true", (0, 141)),
        (f"{run} audit {steady} --quiet > /dev/full", (2,)),
        (f"{run} --version > /dev/full", (2,)),
        (f"PYTHONUNBUFFERED=1 {run} train --help > /dev/full", (2,)),
        (f"{run} audit {steady} <&- >&- 2>&-", (0,)),
    ):
        if "/dev/full" in command and not os.path.exists("/dev/full"):
            continue
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode in codes, (command, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
