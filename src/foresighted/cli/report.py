"""`foresighted report`: one self-contained page from the records of any command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from foresighted.alignment.compared import Arm, Comparison
from foresighted.api.audit import Audit
from foresighted.api.evaluate import Evaluation
from foresighted.api.rehearse import Rehearsal
from foresighted.api.report import read, report
from foresighted.cli.audit import print_audit
from foresighted.cli.console import console
from foresighted.cli.evaluate import print_evaluation
from foresighted.cli.rehearse import print_rehearsal
from foresighted.statistics.intervals import Interval
from foresighted.statistics.wording import interval_text
from foresighted.texts import printable


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "report",
        help="one self-contained HTML page from records",
        description="Reads a run, a comparison, a rehearsal, an evaluation or an audit, prints its summary and writes"
        " report.html there: charts, every response to search and sort, configuration. The page needs no network.",
        examples=("foresighted report runs/first", "foresighted report runs/arms --out page.html"),
    )
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="directory of foresighted train, compare, rehearse, evaluate or audit --out, or an evaluation.json or"
        " audit.json",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page here (default: PATH/report.html)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    found = read(args.path)
    if isinstance(found, Evaluation):
        print_evaluation(found.data)
    elif isinstance(found, Audit):
        print_audit(found.data)
    elif isinstance(found, Rehearsal):
        print_rehearsal(found.found)
    else:
        print_summary(found.data)
    print(f"report: {report(args.path, args.out)}")


def print_summary(comparison: Comparison) -> None:
    """Print what was seen: a table of arms, then the sentences."""
    to = console()
    table = Table(title=f"after round {comparison.last_round}", box=box.SIMPLE, title_justify="left")
    for name in ("arm", "labels a seed", "true utility", "against baseline", "proxy reward", "KL (nats)", "collapsed"):
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for arm in comparison.arms:
        table.add_row(*(Text(printable(cell)) for cell in _cells(arm)))
    to.print(table)
    for sentence in comparison.sentences:
        to.print(f"- {printable(sentence)}", highlight=False, markup=False)


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
