"""Work that a stranger's file prescribes (a chat template, a pattern), stopped after some seconds of a processor."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from foresighted.errors import ModelError

SECONDS = 5.0
"""Far beyond what a template or a pattern needs; short enough that what it piles up meanwhile fits in memory."""

_AGAIN = 0.01  # a timer set to nothing never rings


@contextmanager
def bounded(what: str, advice: str) -> Iterator[None]:
    """Raise a `ModelError` where the work of a `with` block takes longer than `SECONDS` of its thread.

    Time in which the process is stopped, or waits for a busy machine, is not the file's fault and does not count. A
    signal interrupts loops of Python and matching alike. It comes to the main thread, where the commands work; in
    another thread nothing is stopped.

    Args:
        what: the work; the error begins with it.
        advice: what to do.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    began = time.thread_time()

    def stop(_signal: int, _frame: object) -> None:
        if (left := SECONDS - (time.thread_time() - began)) > 0:
            signal.setitimer(signal.ITIMER_REAL, max(left, _AGAIN))
            return
        raise ModelError(f"{what} takes more than {SECONDS:g} seconds; {advice}")

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
