"""What a setting is: a dataclass field with a default, a group, a help text and the values it may take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import Field, field, fields
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

GROUPS = ("run", "policy", "sampling", "reward model", "labels", "steering", "held-out")
"""Order of the groups of settings in help, files and docs; groups of other configurations follow as they stand."""


def setting(
    default: Any,
    group: str,
    text: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: Collection[str] = (),
    repeat: bool = False,
) -> Any:
    """Return a dataclass field that is a setting.

    Args:
        default: of the setting.
        group: heading in help and docs.
        text: help.
        low: least value, of a number or of each number of a list.
        above: what the value must exceed.
        high: greatest value. A number must be finite, unless this is infinity.
        below: what the value must stay under.
        choices: texts it may be, where its type does not say.
        repeat: a list whose flag is given once an entry, since entries hold commas themselves.

    Returns:
        A dataclass field.
    """
    given = {"at least": low, "above": above, "at most": high, "below": below}
    bounds = {words: bound for words, bound in given.items() if bound not in (None, math.inf)}
    told = {"group": group, "help": text, "choices": choices, "repeat": repeat}
    return field(default=default, metadata=told | {"bounds": bounds, "finite": high != math.inf})


def settings(kind: type) -> Mapping[str, Field[Any]]:
    """Return the settings of a configuration class by name, group by group as `GROUPS` orders them; not those of a
    configuration inside it."""
    return _settings(kind)


def hints(kind: type) -> Mapping[str, Any]:
    """Return the types of a class's fields by name."""
    return _hints(kind)


@lru_cache(maxsize=64)
def _settings(kind: type) -> dict[str, Field[Any]]:
    found = [item for item in fields(kind) if "help" in item.metadata]
    place = {group: index for index, group in enumerate(GROUPS)}
    return {item.name: item for item in sorted(found, key=lambda item: place.get(item.metadata["group"], len(GROUPS)))}


_hints = lru_cache(maxsize=64)(get_type_hints)


def choices(kind: type, name: str) -> tuple[str, ...]:
    """Return the texts that a setting may be; none where it is no choice."""
    return _literal(kind, name) or tuple(settings(kind)[name].metadata["choices"])


@lru_cache(maxsize=1024)
def _literal(kind: type, name: str) -> tuple[str, ...]:
    hint = hints(kind)[name]
    return next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())
