"""Work that a stranger's file prescribes (a chat template, a pattern), stopped after some seconds."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from foresighted.errors import ModelError

SECONDS = 5.0
"""Far beyond what a template or a pattern needs; short enough that what it piles up meanwhile fits in memory."""


@contextmanager
def bounded(what: str, advice: str) -> Iterator[None]:
    """Raise a `ModelError` where the work of a `with` block takes longer than `SECONDS`.

    A signal interrupts loops of Python and matching alike. It comes to the main thread, where the commands work; in
    another thread nothing is stopped.

    Args:
        what: the work; the error begins with it.
        advice: what to do.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_signal: int, _frame: object) -> None:
        raise ModelError(f"{what} takes more than {SECONDS:g} seconds; {advice}")

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
