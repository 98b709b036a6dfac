"""Values written as text: of flags, of files, of arms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from foresighted.settings.fields import hints, settings


def from_text(kind: type, name: str, text: str) -> Any:
    """Return the value of setting `name` written as text on a command line; text that does not fit is returned as is,
    for the validation of the configuration class to name."""
    hint = hints(kind)[name]
    if text.lower() in ("none", "null") and type(None) in get_args(hint):
        return None
    if settings(kind)[name].metadata["repeat"]:
        return (text,)
    for part in (hint, *get_args(hint)):
        if part in _PARSERS:
            try:
                return _PARSERS[part](text)
            except (ValueError, KeyError):
                return text
    return text


def _numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers written as a list, `0,3,5`, in which a range `0:256` may stand for a number."""
    found: list[int] = []
    for part in text.split(","):
        start, colon, stop = part.partition(":")
        found += range(int(start), int(stop)) if colon else [int(part)]
    return tuple(found)


_PARSERS: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    tuple[str, ...]: lambda text: tuple(part for part in text.split(",") if part),
    tuple[int, ...]: _numbers,
}
