"""A run of a comparison in a process of its own ends with the process that plays it, however that one ended."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "FORESIGHTED_PARENT"
"""Tells such a run which process plays it."""
_POLL_SECONDS = 0.5


def end_with_parent() -> None:
    """Let this process be told to end soon after that one has; nothing where nobody plays it."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="foresighted-parent").start()
