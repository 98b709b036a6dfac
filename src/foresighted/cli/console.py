"""Where tables and sentences are printed."""

from __future__ import annotations

from foresighted.api.progress import Console

_WIDTH = 160


def console() -> Console:
    """Return the console of standard output; a file or a pipe has no width of its own."""
    made = Console(markup=False, emoji=False)
    return made if made.is_terminal else Console(markup=False, emoji=False, width=_WIDTH, soft_wrap=True)
