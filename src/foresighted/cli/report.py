"""`foresighted report`: one self-contained page from the records of a run or a comparison."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from foresighted.evaluate.comparison import Arm, Comparison, summarise
from foresighted.evaluate.intervals import Interval, interval_text

_WIDTH = 160


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "report",
        help="one self-contained HTML page from records",
        description="Reads the records of a run or a comparison, prints the summary and writes report.html there.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="directory of foresighted train or compare")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    from foresighted.report import write_report

    print_summary(summarise(args.path))
    print(f"report: {write_report(args.path)}")


def print_summary(comparison: Comparison) -> None:
    """Print what was seen: a table of arms, then the sentences."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH, soft_wrap=True)  # a file or a pipe has no width of its own
    table = Table(title=f"after round {comparison.last_round}", box=box.SIMPLE, title_justify="left")
    for name in ("arm", "labels a seed", "true utility", "against baseline", "proxy reward", "KL (nats)", "collapsed"):
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for arm in comparison.arms:
        table.add_row(*_cells(arm))
    console.print(table)
    for sentence in comparison.sentences():
        console.print(f"- {sentence}", highlight=False, markup=False)


def _cells(arm: Arm) -> list[str]:
    labels = sorted({one.total for one in arm.labels})
    share = arm.collapsed_share
    return [
        arm.label,
        " to ".join(str(n) for n in dict.fromkeys((labels[0], labels[-1]))) if labels else "",
        _text(arm.final_utility),
        _text(arm.utility_difference),
        _text(arm.final_reward),
        _text(arm.evaluated[-1].kl),
        f"{share.successes} of {share.total}" if share else "unknown",
    ]


def _text(interval: Interval | None) -> str:
    return interval_text(interval) if interval else "-"
