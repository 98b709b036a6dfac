"""Flags made from the settings of a configuration class, and the order in which preset, file and flags count."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from foresighted.errors import nearest
from foresighted.settings import (
    PRESETS,
    CompareConfig,
    TrainConfig,
    default,
    from_mapping,
    from_text,
    preset,
    read_yaml,
    settings,
)


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


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is not a setting: where to write, where settings come from, and what to do with what is there."""
    group = parser.add_argument_group("directory and configuration")
    group.add_argument("--out", type=Path, metavar="DIR", required=True, help="run directory")
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings; flags override them")
    group.add_argument("--preset", choices=sorted(PRESETS), help="named starting point; file and flags override it")
    group.add_argument("--resume", action="store_true", help="go on with the run in DIR (an empty DIR starts anew)")
    group.add_argument("--dry-run", action="store_true", help="check and print the configuration, run nothing")
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def add_settings(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add one flag a setting, grouped, with help and default from the configuration class."""
    groups: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for name, item in settings(kind).items():
        title = item.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if hints[name] is bool else {}  # --flag is --flag true
        groups[title].add_argument(
            "--" + name.replace("_", "-"),
            metavar=_metavar(hints[name]),
            help=_help(item.metadata["help"], default(item)),
            **alone,
        )


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    names = {int: "N", float: "X", bool: "{true,false}", str: "TEXT", tuple[str, ...]: "A,B", tuple[int, ...]: "A:B"}
    return names.get(hint) or next(names[part] for part in get_args(hint) if part in names)


def _help(text: str, value: Any) -> str:
    said = "default" in text  # a default that depends on the machine is told in words
    return (text if said else f"{text} (default: {_shown(value)})").replace("%", "%%")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def merged(args: argparse.Namespace, *, compare: bool) -> TrainConfig | CompareConfig:
    """Return the configuration of a command: preset, then file, then flags; a resumed run starts from its own file.

    Raises:
        ConfigError: a setting that is unknown or out of range.
    """
    kinds = (CompareConfig, TrainConfig) if compare else (TrainConfig,)
    values: dict[str, Any] = preset(args.preset, compare=compare) if args.preset else {}
    own = args.out / "config.yaml"
    if args.resume and own.exists() and not (args.preset or args.config):
        values |= read_yaml(own)
    if args.config:
        values |= read_yaml(args.config)
    for kind in kinds:
        for name in settings(kind):
            if (text := getattr(args, name)) is not None:
                values[name] = from_text(kind, name, text)
    return from_mapping(values, compare=compare)
