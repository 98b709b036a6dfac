"""How a comparison says that a run of its own ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from foresighted.alignment.compare import _failure
from foresighted.alignment.parent import PARENT
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="an orphan has no other parent there")
def test_a_run_ends_with_the_process_that_plays_it():
    child = (
        "from foresighted.alignment.parent import end_with_parent as e; import time; e(); print('x'); time.sleep(99)"
    )
    parent = (
        f"import os, subprocess, sys; os.environ[{PARENT!r}] = str(os.getpid());"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE);"
        "p.stdout.read(1); print(p.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    orphan = int(subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, check=False).stdout)
    for _ in range(100):
        try:
            os.kill(orphan, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(orphan, 9)
    pytest.fail("it goes on")
