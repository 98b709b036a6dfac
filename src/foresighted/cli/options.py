"""Flags made from the settings of a configuration class, and the order in which preset, file and flags count."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from foresighted.errors import nearest
from foresighted.settings import (
    OLD_NAMES,
    PRESETS,
    Settings,
    choices,
    from_mapping,
    hints,
    inner,
    names,
    preset,
    read_yaml,
    renamed,
    settings,
)

Kind = TypeVar("Kind", bound=Settings)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest known flag."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print one line to stderr and exit with code 2."""
        wrong = next((word for word in message.split() if word.startswith("--")), "")
        hint = ""
        if message.startswith("unrecognized"):
            known = _flags(self)
            now = {_flag(old): _flag(name) for old, name in OLD_NAMES.items()}.get(wrong.partition("=")[0])
            if now in known:
                hint = f" (is now called {now})"
            else:
                hint = " (a flag of another command)" if wrong in known else nearest(wrong, known)
        self.exit(2, f"foresighted: {message}{hint}; see {self.prog} --help\n")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            found += [flag for sub in action.choices.values() for flag in _flags(sub)]
    return found


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(110, shutil.get_terminal_size().columns))


def add_run_flags(
    parser: argparse.ArgumentParser, *, out: str, resume: str, dry_run: str, must: bool = True, presets: bool = False
) -> None:
    """Add what is not a setting: where to write, where settings come from, and what to do with what is there.

    Args:
        parser: of the command.
        out: help of `--out`.
        resume: help of `--resume`.
        dry_run: help of `--dry-run`.
        must: whether `--out` must be given.
        presets: whether there are presets.
    """
    group = parser.add_argument_group("directory and configuration")
    group.add_argument("--out", type=Path, metavar="DIR", required=must, help=out)
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings; flags override them")
    if presets:
        text = "named starting point; file and flags override it"
        group.add_argument("--preset", choices=sorted(PRESETS), help=text)
    group.add_argument("--resume", action="store_true", help=resume)
    group.add_argument("--dry-run", action="store_true", help=dry_run)
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def add_settings(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add one flag a setting, grouped, with help and default from the configuration class and those inside it."""
    groups: dict[str, Any] = {}
    for one in (kind, *inner(kind).values()):
        for name, item in settings(one).items():
            title = item.metadata["group"]
            if title not in groups:
                groups[title] = parser.add_argument_group(title)
            hint = hints(one)[name]
            more: dict[str, Any] = {"nargs": "?", "const": "true"} if hint is bool else {}  # --flag is --flag true
            if item.metadata["repeat"]:
                more = {"action": "append"}
            known = choices(one, name)
            groups[title].add_argument(
                _flag(name),
                metavar="{" + ",".join(known) + "}" if known else _metavar(hint),
                help=_help(item.metadata["help"], item.default),
                **more,
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(hint: Any) -> str:
    names = {int: "N", float: "X", bool: "{true,false}", str: "TEXT", tuple[str, ...]: "A,B", tuple[int, ...]: "A:B"}
    return names.get(hint) or next(names[part] for part in get_args(hint) if part in names)


def _help(text: str, value: Any) -> str:
    said = "default" in text or value == ()  # a default that depends on the machine is told in words
    return (text if said else f"{text} (default: {_shown(value)})").replace("%", "%%")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def merged(
    args: argparse.Namespace,
    kind: type[Kind],
    inside: Mapping[str, type[Settings]] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
    take_out: Callable[[dict[str, Any]], None] = lambda values: None,
    **given: Any,
) -> Kind:
    """Return the configuration of a command: preset, then file, then flags; a resumed run starts from its own file.

    Args:
        args: of the command.
        kind: class of the configuration.
        inside: classes of configurations inside it, as `from_mapping` takes them.
        texts: values in text that count as flags.
        take_out: told what a file holds; takes out, or refuses, what is no setting.
        **given: values of fields that are no settings.

    Raises:
        ConfigError: a setting that is unknown or out of range.
    """
    values: dict[str, Any] = {}
    known = names(kind, inside)
    if preset_name := getattr(args, "preset", None):
        values |= preset(preset_name, kind)
    own = args.out / "config.yaml"
    again = args.resume and own.exists() and not (preset_name or args.config)
    for path in (own if again else None, args.config):
        if path is not None:
            held = read_yaml(path)
            take_out(held)
            values |= renamed(held, known)
    flags = {name: text for name in known if (text := getattr(args, name, None)) is not None}
    return from_mapping(kind, values | flags | dict(texts or {}), inside, **given)
