"""Run the command line as `python -m foresighted WORDS` does, in a process in which the large libraries are loaded.

What a comparison would start as processes of their own is forked from this one: loading them anew takes ten seconds
each. `tests/cli/test_commands.py` has one that is started for real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

from foresighted.alignment import compare
from foresighted.cli.main import main


class Forked:
    """What a comparison uses of `subprocess.Popen`, of a command that is this program."""

    def __init__(self, command, *, stdin, stdout, stderr, env) -> None:
        assert command[1:3] == ["-m", "foresighted"]
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.environ.update(env)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                code = main(command[3:])
            except SystemExit as leaving:
                code = leaving.code
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self, timeout: float = 1e9) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("train", timeout)
            time.sleep(0.02)
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class _Subprocess:
    """The module `subprocess`, but for that class."""

    Popen = Forked

    def __getattr__(self, name: str):
        return getattr(subprocess, name)


if __name__ == "__main__":
    compare.subprocess = _Subprocess()
    raise SystemExit(main())
