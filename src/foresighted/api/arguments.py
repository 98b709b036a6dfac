"""What calls of the front door take besides their settings: where to write, and where settings come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any, TypeVar

from foresighted.errors import ConfigError, nearest
from foresighted.settings import PRESETS, Settings, as_it_was, from_mapping, names, read_yaml, renamed
from foresighted.settings import preset as values_of

_log = logging.getLogger(__name__)
RUNS = Path("runs")
"""Where a call without `out` makes its folder."""

Place = str | PathLike[str]
Kind = TypeVar("Kind", bound=Settings)


def configured(
    kind: type[Kind],
    values: Mapping[str, Any],
    *,
    out: Place | None,
    resume: bool,
    config: Place | None,
    preset: str | None = None,
    inside: Mapping[str, type[Settings]] | None = None,
    take_out: Callable[[dict[str, Any]], object] = lambda held: None,
    usual: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda given: {},
    **fields: Any,
) -> Kind:
    """Return a configuration: preset, then file, then values; a resumed run starts from its own file.

    Args:
        kind: class of the configuration.
        values: settings by name; text is read as on the command line.
        out: the run directory; None for a new one.
        resume: go on there.
        config: settings in YAML.
        preset: named starting point.
        inside: classes of configurations inside it, as `from_mapping` takes them.
        take_out: told what a file holds; takes out, or refuses, what is no setting.
        usual: told all that was given; returns what holds where nothing was, in place of the class's defaults.
        **fields: values of fields that are no settings.

    Raises:
        ConfigError: a setting that is unknown or out of range.
    """
    if resume and out is None:
        raise ConfigError("out: needed with resume; give the directory of the run to go on with")
    if preset is not None and str(preset) not in PRESETS:
        hint, every = nearest(str(preset), PRESETS), " or ".join(sorted(PRESETS))
        raise ConfigError(f"preset: got {preset!r}{hint}, expected {every}")
    known = names(kind, inside)
    merged = values_of(preset, kind) if preset else {}
    own = None if out is None else path_of("out", out) / "config.yaml"
    if resume and own is not None and not own.parent.exists():
        _log.warning("out: %s does not exist, so there is nothing to go on with: it begins anew", own.parent)
    again = resume and own is not None and own.exists() and not (preset or config)
    for path in (own if again else None, None if config is None else path_of("config", config)):
        if path is not None:
            held = read_yaml(path)
            take_out(held)
            merged |= as_it_was(renamed(held, known), known, kind.earlier, own=path == own)
    given = {name: plain(value) for name, value in values.items()}
    merged |= renamed(given, known)
    return from_mapping(kind, {**usual(merged), **merged}, inside, **fields)


def path_of(name: str, value: Any) -> Path:
    """Return the path that an argument gives, `~` for the home folder.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str | PathLike):
        raise ConfigError(f"{name}: got {value!r:.60}, expected a path")
    return Path(expanduser(value))


def plain(value: Any) -> Any:
    """Return a value as a configuration file would hold it: path as text, range as list, mapping as NAME=VALUE."""
    if isinstance(value, Mapping):
        return [f"{name}={_text(part)}" for name, part in value.items()]
    if isinstance(value, PathLike):
        return str(value)
    return list(value) if isinstance(value, range) else value


def _text(value: Any) -> str:
    """Return a value of a mapping: of numbers a,b,c, of a result where it lies."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(getattr(value, "directory", value))


@contextmanager
def directory(out: Place | None, command: str) -> Iterator[Path]:
    """Give the directory to write in: `out`, or a new one, runs/COMMAND-1, -2, ...; removed if nothing came of it."""
    if out is not None:
        yield path_of("out", out)
        return
    made = _new(command)
    try:
        yield made
    except BaseException:
        with suppress(OSError):
            made.rmdir()  # only an empty one goes
        raise


def _new(command: str) -> Path:
    RUNS.mkdir(exist_ok=True)
    number = 1
    while True:
        with suppress(FileExistsError):
            (path := RUNS / f"{command}-{number}").mkdir()
            return path
        number += 1
