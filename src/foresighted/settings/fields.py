"""What a setting is, a dataclass field with a default, a group, a help text and the values it may take; its checks.

A configuration is checked when it is made, and one line names all its faults.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from foresighted.errors import ConfigError, nearest
from foresighted.inputs import shown

GROUPS = ("run", "policy", "sampling", "reward model", "labels", "steering", "held-out")
"""Order of the groups of settings in help, files and docs; groups of other configurations follow as they stand."""
WIDEST = 2**63
"""What whole numbers stay below, in either direction, whatever their setting: libraries hold them in 64 bits."""
OLD_NAMES = {
    "label_seed": "seed",
    "steering_label": "steering_labels",
    "unroll_rate": "unrolled_rate",
    "unroll_steps": "unrolled_steps",
}
"""What settings were called up to 0.2. Files and arms are read by these names; flags and arguments are refused."""


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
    hidden: bool = False,
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
        hidden: no message shows the value, in whose place people give keys.
    """
    given = {"at least": low, "above": above, "at most": high, "below": below}
    bounds = {words: bound for words, bound in given.items() if bound not in (None, math.inf)}
    told = {"group": group, "help": text, "choices": choices, "repeat": repeat, "hidden": hidden}
    return field(default=default, metadata=told | {"bounds": bounds, "finite": high != math.inf})


_hints = lru_cache(maxsize=64)(get_type_hints)


def hints(kind: type) -> Mapping[str, Any]:
    """Return the types of a class's fields by name."""
    return _hints(kind)


def settings(kind: type) -> Mapping[str, Field[Any]]:
    """Return the settings of a configuration class by name, group by group as `GROUPS` orders them; not those of a
    configuration inside it."""
    return _settings(kind)


@lru_cache(maxsize=64)
def _settings(kind: type) -> dict[str, Field[Any]]:
    found = [item for item in fields(kind) if "help" in item.metadata]
    place = {group: index for index, group in enumerate(GROUPS)}
    return {item.name: item for item in sorted(found, key=lambda item: place.get(item.metadata["group"], len(GROUPS)))}


def choices(kind: type, name: str) -> tuple[str, ...]:
    """Return the texts that a setting may be; none where it is no choice."""
    return _literal(kind, name) or tuple(settings(kind)[name].metadata["choices"])


@lru_cache(maxsize=1024)
def _literal(kind: type, name: str) -> tuple[str, ...]:
    hint = hints(kind)[name]
    parts = [part for part in (get_args(hint) or (hint,)) if part is not type(None)]
    if get_origin(hint) is Literal:
        return get_args(hint)
    return get_args(parts[0]) if len(parts) == 1 and get_origin(parts[0]) is Literal else ()


@dataclass(frozen=True)
class Settings:
    """Base of all configuration classes.

    Raises:
        ConfigError: one line that names every setting that is unknown or out of range, what it got and what it may be.
    """

    beside: ClassVar[tuple[str, ...]] = ()
    """What its files may hold besides settings."""
    earlier: ClassVar[Mapping[str, Any]] = {}
    """How runs of 0.2 went in what their files need not name: settings new since, or that got another default."""

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Refuse names that are no fields, before the class's own `__init__` does so less kindly."""
        known = [item.name for item in fields(cls)]
        if wrong := [unknown(name, known) for name in given if name not in known]:
            raise ConfigError("; ".join(wrong))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in settings(type(self))}
        problems = faults(type(self), values)
        if not problems or not any(wrong_type(type(self), name, value) for name, value in values.items()):
            problems += [text for holds, text in self._rules() if not holds]
        if problems:
            raise ConfigError("; ".join(problems))

    def _rules(self) -> Iterable[tuple[bool, str]]:
        """Return what holds between settings, each with what to say if it does not."""
        return ()


def unknown(name: str, known: Collection[str]) -> str:
    """Return what to say of a name that is no setting: its new name, or the nearest known one."""
    now = OLD_NAMES.get(name, "")
    if now in known:
        return f"{name}: is now called {now}"
    told = name if name.isidentifier() and len(name) < 60 else shown(name)
    return f"{told}: unknown setting{nearest(name[:80], known)}"


def wrong_type(kind: type, name: str, value: Any) -> str:
    """Return what is wrong with the type of a setting's value, or nothing."""
    hint, known = hints(kind)[name], choices(kind, name)
    if _fits(value, hint) and (value in known or not known or value is None):
        return ""
    told = "one of " + ", ".join(known) if known else _described(hint)
    got = f"a {type(value).__name__}" if settings(kind)[name].metadata["hidden"] else shown(value)
    return f"{name}: got {got}{nearest(value[:80], known) if isinstance(value, str) else ''}, expected {told}"


def out_of_range(kind: type, name: str, value: Any) -> str:
    """Return what is wrong with a number, or with one of a list of numbers; nothing for any other value."""
    told = settings(kind)[name].metadata
    for x in value if isinstance(value, tuple) else (value,):
        if not _fits(x, float):
            continue
        finite = _finite(x) or (x == math.inf and not told["finite"])
        if not finite or not all(_HOLDS[words](x, bound) for words, bound in told["bounds"].items()):
            expected = [f"{words} {bound}" for words, bound in told["bounds"].items()]
            return f"{name}: got {shown(x)}, must be {' and '.join(expected if finite else ['finite', *expected])}"
        if isinstance(x, int) and abs(x) >= WIDEST:
            return f"{name}: got {shown(x)}, must lie within {WIDEST} of 0"
        if isinstance(x, float) and LARGEST < abs(x) < math.inf:
            return f"{name}: got {x}, must lie within {LARGEST:.2g} of 0"
    return ""


def _finite(x: float) -> bool:
    try:
        return math.isfinite(x)
    except OverflowError:  # a whole number that no float holds
        return False


LARGEST = float(2**127)
"""Beyond it single precision holds no number."""
_HOLDS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


def faults(kind: type, values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with each value by itself: its type, or its range."""
    return [
        text
        for name, value in values.items()
        if (text := wrong_type(kind, name, value) or out_of_range(kind, name, value))
    ]


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(hint, type):
        return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if (origin := get_origin(hint)) is Literal:
        return value in get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    return any(_fits(value, part) for part in get_args(hint))


def _described(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a list of whole numbers such as 0,3,5 or 0:256" if get_args(hint)[0] is int else "a list of names"
    return names.get(hint) or " or ".join(_described(part) for part in get_args(hint))
