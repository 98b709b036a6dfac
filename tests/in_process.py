"""Run a script as `python PATH WORDS` does, in a process that was forked for it.

Needs the names PATH, WORDS, NAMES, ENV and SAID.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback


def main(path: str, words: list[str], names: dict[str, object], env: dict[str, str], said: str) -> None:
    """Run it in a group of its own, with signals as a shell sets them; what it says goes to `said`.1 and `said`.2."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(env)
    for stream in (1, 2):
        os.dup2(os.open(f"{said}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = [path, *words]
    try:
        runpy.run_path(path, names, "__main__")
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(PATH, WORDS, NAMES, ENV, SAID)  # noqa: F821 (of runpy)
