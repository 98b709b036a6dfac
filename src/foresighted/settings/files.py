"""Configurations as flat mappings: the YAML of files, merged with presets, and the text of flags and arms."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml

from foresighted.errors import ConfigError
from foresighted.inputs import regular, shown
from foresighted.settings.fields import OLD_NAMES, Settings, faults, hints, settings, unknown

_log = logging.getLogger(__name__)
_Kind = TypeVar("_Kind", bound=Settings)
MOST_BYTES = 1 << 20
"""Of a YAML file."""
MOST_VALUES = 1_000_000
"""Of a YAML file, aliases written out, and of a list of numbers."""
_DIGITS = 400
_DEEPER = {"[": 1, "{": 1, "]": -1, "}": -1}
_DEEPEST = 100
_told: set[str] = set()  # old names of which this process has said what they are now


def inner(kind: type) -> dict[str, type[Settings]]:
    """Return the configuration classes of fields that are themselves configurations, by field."""
    found = {item.name: hints(kind)[item.name] for item in fields(kind)}
    return {name: hint for name, hint in found.items() if isinstance(hint, type) and issubclass(hint, Settings)}


def names(kind: type, inside: Mapping[str, type[Settings]] | None = None) -> list[str]:
    """Return the names that a mapping of this class may hold, those of configurations inside it last."""
    return [name for one in (kind, *{**inner(kind), **(inside or {})}.values()) for name in settings(one)]


def from_mapping(
    kind: type[_Kind], mapping: Mapping[str, Any], inside: Mapping[str, type[Settings]] | None = None, **given: Any
) -> _Kind:
    """Make a configuration from a flat mapping (YAML file, preset and flags already merged).

    Args:
        kind: class of the configuration; one inside it has its names in the same mapping.
        mapping: names to values. Lists become tuples, text becomes what the setting is (YAML 1.1 reads 5e-4 as text),
            and what a setting was called up to 0.2 is read with a warning.
        inside: classes of configurations inside it, by field, where its types leave that open.
        **given: values of its fields that are no settings.

    Returns:
        The configuration.

    Raises:
        ConfigError: an unknown name, with the nearest known one; or what the class itself refuses.
    """
    kinds = {**inner(kind), **(inside or {})}
    known = names(kind, inside)
    values = renamed({name: value for name, value in mapping.items() if name not in kind.beside}, known)
    wrong = [unknown(str(name), known) for name in values if name not in known]

    def part(one: type) -> dict[str, Any]:
        return {name: _plain(one, name, values[name]) for name in settings(one) if name in values}

    for one in (kind, *kinds.values()):
        wrong += faults(one, part(one))
    if wrong:
        raise ConfigError("; ".join(wrong))
    return kind(**given, **{name: one(**part(one)) for name, one in kinds.items()}, **part(kind))


def renamed(mapping: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return a mapping of settings under today's names; those of 0.2, in arms and sweeps too, are told in one warning.

    Raises:
        ConfigError: a setting is given by both names.
    """
    old = {name: OLD_NAMES[name] for name in mapping if OLD_NAMES.get(name) in known and name not in known}
    if twice := [f"{name}: is now called {now}, which is given too" for name, now in old.items() if now in mapping]:
        raise ConfigError("; ".join(twice))
    inside = re.findall(r"(\w+)=", f"{mapping.get('arms')} {mapping.get('sweep')}")
    every = dict.fromkeys([*old, *(name for name in inside if OLD_NAMES.get(name) in known and name not in known)])
    if new := [name for name in every if name not in _told]:
        _told.update(new)
        _log.warning("%s", "; ".join(f"{name} is now called {OLD_NAMES[name]}" for name in new))
    return {old.get(name, name): value for name, value in mapping.items()}


def as_it_was(
    mapping: Mapping[str, Any], known: Collection[str], earlier: Mapping[str, Any], *, own: bool
) -> dict[str, Any]:
    """Return the settings of a file, with those that it does not name as they were when an earlier version wrote it.

    Args:
        mapping: settings under today's names.
        known: the names that it may hold.
        earlier: what runs of that version had in what its files do not name.
        own: the file lies in the directory of a run, where a version has written it. Any other is taken for one of an
            earlier version if all that it does not name is new since.
    """
    missing = {name for name in known if name not in mapping}
    added = {name: value for name, value in earlier.items() if name in missing}
    if not added or not (own or missing <= set(earlier)):
        return dict(mapping)
    if "policy_update" in added:
        told = ", ".join(f"{name} {value}" for name, value in added.items() if value is not None)
        _log.warning("config: the file is of an earlier version; what it does not name is as it was: %s", told)
    return added | dict(mapping)


def _plain(kind: type, name: str, value: Any) -> Any:
    if isinstance(value, str):
        return from_text(kind, name, value)
    if get_origin(hints(kind)[name]) is tuple:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return value


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
            except OverflowError as error:
                raise ConfigError(f"{name}: {error}") from None
    return text


def _numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers written as a list, `0,3,5`, in which a range `0:256` may stand for a number."""
    found: list[int] = []
    for part in text.split(","):
        start, colon, stop = part.partition(":")
        more = range(int(start), int(stop)) if colon else (int(part),)
        if (count := max(0, more.stop - more.start) if isinstance(more, range) else 1) > MOST_VALUES - len(found):
            raise OverflowError(f"{shown(text)} names {len(found) + count} numbers; name {MOST_VALUES} at most")
        found += more
    return tuple(found)


_PARSERS: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    tuple[str, ...]: lambda text: tuple(part for part in text.split(",") if part),
    tuple[int, ...]: _numbers,
}


def to_mapping(config: Settings) -> dict[str, Any]:
    """Return a configuration as the flat mapping that `from_mapping` reads."""
    values = {name: getattr(config, name) for name in settings(type(config))}
    for name in inner(type(config)):
        values |= to_mapping(getattr(config, name))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def to_yaml(config: Settings) -> str:
    """Return a configuration as YAML that can be run again with `--config`."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads 8:16 as text, a range of seeds (in YAML 1.1 it is 8 * 60 + 16), and refuses what would be read wrongly or
    without end: a key that stands twice, a whole number without bound, aliases of aliases of aliases."""

    def get_single_node(self) -> Any:
        """Return the root of the document, checked."""
        root = super().get_single_node()
        if root is not None:
            _count(root, {})
        return root


_Loader.yaml_implicit_resolvers = {
    first: [("tag:yaml.org,2002:str", re.compile(r"[-+]?\d[\d_]*(:\d+)+$")), *rules]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Return how many values a node stands for, each alias as often as it is named; None is a node being counted."""
    if id(node) in known:
        if (count := known[id(node)]) is None:
            raise _wrong(node, "an alias that holds itself")
        return count
    known[id(node)] = None
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if (twice := next((key for key, count in keys.items() if count > 1), None)) is not None:
            raise _wrong(node, f"{shown(twice)} stands twice")
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    elif node.tag.endswith(":int") and len(node.value) > _DIGITS:
        raise _wrong(node, f"a whole number of {len(node.value)} digits")
    total = 1 + sum(_count(part, known) for part in inside)
    if total > MOST_VALUES:
        raise _wrong(node, f"more than {MOST_VALUES} values, aliases written out")
    known[id(node)] = total
    return total


def _wrong(node: yaml.Node, told: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {node.start_mark.line + 1}: {told}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a flat YAML mapping.

    Raises:
        ConfigError: the file cannot be read, is no YAML or no mapping.
    """
    loaded = load_yaml("config", path)
    if not isinstance(loaded, dict):
        raise ConfigError(f"config: {path} must be a mapping of settings, got {type(loaded).__name__}")
    return loaded


def load_yaml(setting: str, path: Path) -> Any:
    """Read a YAML file; messages begin with the setting that it was given for.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or holds more than any configuration does.
    """
    try:
        text = regular(path, most=MOST_BYTES).read_text(encoding="utf-8")
        if max(itertools.accumulate(map(_DEEPER.get, text, itertools.repeat(0))), default=0) > _DEEPEST:
            raise RecursionError  # before the reader, which is slow to find out
        return yaml.load(text, _Loader)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ConfigError(f"{setting}: {path} is not YAML that is read here (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:  # of a date, of UTF-8, of digits
        raise ConfigError(
            f"{setting}: {path} is not YAML that is read here ({' '.join(str(error).split())[:300]})"
        ) from None
