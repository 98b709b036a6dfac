"""`foresighted watch`: an audit in the terminal that goes on as its loop does."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foresighted.api.audit import audit
from foresighted.cli.audit import COLLAPSED, columns_of
from foresighted.cli.console import console
from foresighted.errors import ConfigError, DataError
from foresighted.texts import printable

if TYPE_CHECKING:
    from foresighted.auditing.result import Audit

DESCRIPTION = (
    "Reads what a loop is writing, again and again, and shows the reward that it follows, the metric that is trusted,"
    " and whether it has collapsed. PATH is whatever foresighted audit reads. Where the output is no terminal, a line"
    " is printed each time the verdict changes. Exit code 1 if the loop had collapsed when it was ended (Ctrl-C)."
)
_CLEAR = "\x1b[H\x1b[2J"


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "watch",
        help="follow a loop in the terminal: both curves, the verdict, its interval",
        description=DESCRIPTION,
        examples=(
            "foresighted watch runs/grpo",
            "foresighted watch wandb/latest-run --trusted eval/gold --webhook https://hooks.example/T0/B0",
        ),
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="directory or file that a loop writes")
    parser.add_argument("--reward", metavar="NAME", help="as in audit")
    parser.add_argument("--trusted", metavar="NAME", help="as in audit")
    parser.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="as in audit")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two reads (default: 5)")
    parser.add_argument("--once", action="store_true", help="show what is there now, and end")
    parser.add_argument("--stop", action="store_true", help="end as soon as a collapse is seen, with exit code 1")
    parser.add_argument("--webhook", metavar="URL", help="send a new verdict there, as JSON (collapsed and suspicious)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; return 1 for a collapse."""
    if not args.every > 0:
        raise ConfigError(f"every: got {args.every}, must be above 0 seconds")
    if args.webhook is not None:
        from foresighted.integrations.monitoring.webhook import check_address

        check_address(args.webhook)
    if not args.path.exists():
        raise DataError(f"{args.path}: no such file or directory")
    columns, seen, last = columns_of(args), False, ""
    try:
        while True:
            try:
                found = audit(args.path, columns=columns, progress=False).data
                seen = found.collapsed
                last = _show(found, last, args)
            except DataError as error:
                if args.once:
                    raise
                last = _wait(str(error), last)
            if args.once or (args.stop and seen):
                break
            time.sleep(args.every)
    except KeyboardInterrupt:
        pass
    return COLLAPSED if seen else 0


def _show(found: Audit, last: str, args: argparse.Namespace) -> str:
    """Show the view in a terminal, else the verdict where it changed; return the verdict."""
    from foresighted.reporting.live import view

    to, live = console(), sys.stdout.isatty()
    if live and not args.once:
        sys.stdout.write(_CLEAR)
    if live or args.once:
        for line in view(found, width=to.width):
            to.print(printable(line), highlight=False, markup=False)
    elif found.headline != last:
        print(printable(found.headline), flush=True)
    if found.headline != last and args.webhook is not None and found.verdict in ("collapsed", "suspicious"):
        _send(found, args.webhook)
    return found.headline


def _send(found: Audit, address: str) -> None:
    from foresighted.integrations.monitoring.webhook import post

    steps = [arm.rounds[-1].last for arm in found.arms if arm.rounds]
    alarm = {"step": max(steps, default=0), "verdict": found.verdict, "reason": found.headline}
    if fault := post(address, alarm):
        print(f"foresighted: {fault}", file=sys.stderr)


def _wait(told: str, last: str) -> str:
    """Say once what is not there yet; a loop that has just begun has written nothing."""
    if told != last:
        print(f"waiting: {printable(told)}", file=sys.stderr)
    return told
