"""Resume a run, or a comparison, and die by SIGKILL in the middle of a write: run with CONFIG, OUT, KILL_AT."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from foresighted.alignment.compare import compare
from foresighted.alignment.run import train
from foresighted.settings import CompareConfig
from foresighted.store import files, tensors


def run_and_die(config, out: Path, kill_at: int | None) -> None:
    """Resume a run, or runs side by side; kill this process halfway through its write number `kill_at`, if any."""
    count = 0

    def dying(original, halfway=None):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == kill_at:
                if halfway:
                    halfway(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    def half_the_lines(path, lines):
        data = lines.encode()
        with path.open("ab") as file:
            file.write(data[: len(data) // 2 + 7])

    def half_a_file(_tensors, path):
        Path(path).write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00torn")

    if kill_at is not None:
        files.append = dying(files.append, half_the_lines)
        tensors.save_file = dying(tensors.save_file, half_a_file)
        os.replace = dying(os.replace)
        Path.rename = dying(Path.rename)
    (compare if isinstance(config, CompareConfig) else train)(config, out, resume=True)


if __name__ == "__main__":
    run_and_die(CONFIG, OUT, KILL_AT)  # noqa: F821 (of runpy)
