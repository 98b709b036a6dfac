"""The exceptions a user can meet. Each message says what was got, what was expected and what to do.

The command line turns every `ForesightedError` into one line on stderr and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ForesightedError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(ForesightedError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(ForesightedError):
    """A prompt file, a record or a label that cannot be used."""


class ModelError(ForesightedError):
    """A model or tokenizer that is absent, incomplete or of the wrong kind."""


class RunError(ForesightedError):
    """A run directory that is taken, damaged or belongs to another configuration."""


class NumericalError(ForesightedError):
    """A reward, a label or a loss that is not finite. The newest checkpoint is whole."""


class Stopped(Exception):  # noqa: N818  # not an error
    """The user asked to stop; everything up to `round` is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped after round {number}, which is saved; go on with --resume")
        self.round = number


def one_line(error: BaseException) -> str:
    """Return an error in one line, its kind first, without anything that would steer a terminal."""
    plain = "".join(c if c.isprintable() else " " for c in _text(error))
    return ": ".join(filter(None, (type(error).__name__, " ".join(plain.split()))))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of somebody's own
        return ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
