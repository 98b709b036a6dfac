"""Progress: told to a function, or drawn as bars on stderr or in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NoReturn

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from foresighted.texts import printable

Told = Callable[[str, int, int], None]
"""Called with a name, how much of it is done, and of how much."""

_PATIENCE = 2.0
"""Seconds before a bar that nobody asked for is drawn."""


class Console(rich.console.Console):
    """A console that shows every text as it stands: what looks like markup or the name of an emoji is neither, and
    nothing steers the terminal. Its broken pipe is an error like any other: rich leaves with 1, which says that a loop
    collapsed."""

    def render_str(self, text: str, **more: Any) -> Text:
        """Return a text as it stands; sentences, titles and cells of tables all come through here."""
        return super().render_str(printable(text), **{**more, "emoji": False, "markup": False})

    def on_broken_pipe(self) -> NoReturn:
        """Let the error through; called while it is handled."""
        raise BrokenPipeError


@contextmanager
def shown(progress: Told | bool | None) -> Iterator[Callable[..., None]]:
    """Give the function that hears of progress for the time of a `with` block.

    Args:
        progress: a function of one's own; True for bars; None for bars on what takes longer than two seconds; False
            for nothing. Bars are drawn in a terminal and in a notebook with ipywidgets only.
    """
    if callable(progress):
        yield lambda name, done, total, note="": progress(name, done, total)
        return
    bars = Bars(quiet=progress is False, patience=0.0 if progress else _PATIENCE)
    try:
        yield bars.update
    finally:
        bars.stop()


class Bars:
    """One bar a name, with rounds done, time taken and time left."""

    def __init__(self, *, quiet: bool, patience: float) -> None:
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        console = Console(stderr=True)
        seen = find_spec("ipywidgets") is not None if console.is_jupyter else bool(sys.stderr and sys.stderr.isatty())
        self._progress = Progress(*columns, console=console, disable=quiet or not seen)
        self._tasks: dict[str, TaskID] = {}
        self._due = time.monotonic() + patience
        self._drawn = False

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        """Set how far a bar is."""
        name, note = printable(name), printable(note)
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        self._progress.update(self._tasks[name], completed=done, note=note)
        if not self._drawn and time.monotonic() >= self._due:
            self._drawn = True
            self._progress.start()

    def stop(self) -> None:
        """Stop drawing, the last state left on the screen."""
        if self._drawn:
            self._progress.stop()
