"""Flags made from the settings of a configuration class, and what they say as arguments of the front door."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from foresighted.errors import nearest
from foresighted.judging.key import without_keys
from foresighted.settings import (
    OLD_NAMES,
    PRESETS,
    choices,
    hints,
    inner,
    names,
    settings,
)
from foresighted.texts import printable

_LONGEST = 500  # characters of an error


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest known flag.

    Args:
        examples: commands that its help opens with.
        matter: settings that `--help` shows; the others are under `--help-all`. Flags that are no settings always show.
        **kwargs: as argparse takes them.
    """

    def __init__(self, *, examples: Sequence[str] = (), matter: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, **kwargs)
        self._examples, self._matter = examples, matter
        self._of_settings: list[Any] = []
        if examples:
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every setting and exit")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version; argparse would pass over a disk that is full."""
        if file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def format_help(self, *, every: bool = False) -> str:
        """Return examples, what the command does, and the settings that matter or `every` one, with all other flags."""
        some = [] if every else [self._actions_of(name) for name in self._matter]
        formatter = self._get_formatter()
        if some:
            must = [action for action in self._actions if action.required]
            formatter.add_usage(None, must, [])
            text = formatter.format_help().rstrip() + " [--SETTING VALUE ...]\n\n"
        else:
            formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
            text = formatter.format_help() + "\n"
        text += "".join(["examples:\n", *(f"  {line}\n" for line in self._examples), "\n"]) if self._examples else ""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        sections: list[tuple[str | None, list[argparse.Action]]] = []
        if some:
            sections.append(("settings that matter most", some))
        hidden = self._of_settings if some else []
        sections += [(g.title, g._group_actions) for g in self._action_groups if g not in hidden]
        for title, actions in sections:
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return text + formatter.format_help()

    def _actions_of(self, name: str) -> argparse.Action:
        return next(action for action in self._actions if action.dest == name)

    def settings_group(self, title: str) -> Any:
        """Return a new group of flags that are settings."""
        group = self.add_argument_group(title)
        self._of_settings.append(group)
        return group

    def error(self, message: str) -> NoReturn:
        """Print one line to stderr and exit with code 2."""
        wrong = next((word for word in message.split() if word.startswith("--")), "")[:80]
        hint = ""
        if message.startswith("unrecognized"):
            known = _flags(self)
            now = {_flag(old): _flag(name) for old, name in OLD_NAMES.items()}.get(wrong.partition("=")[0])
            if now in known:
                hint = f" (is now called {now})"
            else:
                hint = " (a flag of another command)" if wrong in known else nearest(wrong, known)
        told = printable(without_keys(" ".join(message.split())))
        self.exit(2, f"foresighted: {told[:_LONGEST]}{hint}; see {self.prog} --help\n")


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        parser._print_message(parser.format_help(every=True), sys.stdout)
        parser.exit()


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


def add_settings(parser: Parser, kind: type, usual: Mapping[str, Any] | None = None) -> None:
    """Add one flag a setting, grouped, with help and default from the configuration class and those inside it.

    Args:
        parser: of the command.
        kind: the configuration class.
        usual: what holds for this command in place of the class's defaults.
    """
    groups: dict[str, Any] = {}
    for one in (kind, *inner(kind).values()):
        for name, item in settings(one).items():
            title = item.metadata["group"]
            if title not in groups:
                groups[title] = parser.settings_group(title)
            hint = hints(one)[name]
            more: dict[str, Any] = {"nargs": "?", "const": "true"} if hint is bool else {}  # --flag is --flag true
            if item.metadata["repeat"]:
                more = {"action": "append"}
            known = choices(one, name)
            groups[title].add_argument(
                _flag(name),
                metavar="{" + ",".join(known) + "}" if known else _metavar(hint),
                help=_help(item.metadata["help"], (usual or {}).get(name, item.default)),
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


def given(args: argparse.Namespace, *kinds: type) -> dict[str, Any]:
    """Return the settings that flags name, as the text that they were written in."""
    known = (name for kind in kinds for name in names(kind))
    return {name: text for name in known if (text := getattr(args, name)) is not None}


def places(args: argparse.Namespace) -> dict[str, Any]:
    """Return where a command writes and where its settings come from, as the front door takes them."""
    return {name: getattr(args, name) for name in ("out", "resume", "preset", "config") if name in vars(args)}
