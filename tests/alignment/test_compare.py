"""How a comparison says that a run of its own ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from foresighted.alignment.compare import _failure
from foresighted.alignment.side_by_side import Run


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9 (SIGKILL), see "),
        ("import sys; sys.exit(143)", "was killed by signal 15 (SIGTERM), see "),
        ("import sys; sys.exit(70)", "ended with code 70, see "),
    ],
)
def test_a_killed_run_is_said_by_its_signal(tmp_path, script, said):
    process = subprocess.Popen([sys.executable, "-S", "-c", script])
    process.wait()
    (tmp_path / "log.txt").touch()
    (told,) = _failure(Run("rlhf", 3, tmp_path), process)
    assert told.startswith(f"arm rlhf, seed 3: {said}")
