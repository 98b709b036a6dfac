"""`foresighted audit`: whether, when and how a loop collapsed, from its records or its logs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foresighted.api.audit import audit
from foresighted.cli.console import console
from foresighted.errors import ConfigError
from foresighted.inputs import shown
from foresighted.statistics.wording import count, interval_text, number
from foresighted.store.aliases import listed
from foresighted.store.directory import AUDIT
from foresighted.store.rows import plain
from foresighted.texts import printable

if TYPE_CHECKING:
    from foresighted.api.progress import Console
    from foresighted.auditing.result import ArmAudit, Audit, Response, Source
    from foresighted.statistics.intervals import Interval

COLLAPSED = 1
_LINE = 100
"""Characters of a response that its line shows; audit.json has more."""

DESCRIPTION = (
    "Reads what a loop left behind and says whether true utility fell while the reward that it follows did not, from"
    " when on, and how sure that is. PATH is a run or a comparison of foresighted, the output directory of a TRL"
    " trainer, a folder of OpenRLHF or verl rollout dumps, or a file of JSON lines, JSON, CSV or Parquet (.gz too) with"
    " a round, a prompt, a response, a reward and, where known, a utility or a label; or metrics without responses:"
    " trainer_state.json, TensorBoard, Weights & Biases, MLflow, trackio, verl, OpenRLHF. Exit code 1: collapsed; 0:"
    " not, or nothing tells; 2: the input cannot be used."
)


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "audit",
        help="say whether, when and how a loop collapsed",
        description=DESCRIPTION,
        examples=(
            "foresighted audit runs/first",
            "foresighted audit logs/ --column reward=scores.rm --column utility=gold",
            "foresighted audit rollouts.jsonl --strict --out runs/audited",
        ),
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="directory or file with records or logged responses")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="what a column is called there, for example reward=scores.rm (nested keys by dots), reward=helpful+polite"
        " (a sum), run=arm+gamma (side by side), label= (do not use it); OURS is round, prompt, prompt_id, response,"
        " reward, utility, label, reference_reward, kl, tokens, kind, run or seed; may be given several times;"
        " those not given are guessed, and the guesses are shown",
    )
    parser.add_argument(
        "--reward",
        metavar="NAME",
        help="the column or metric that the loop follows, A+B for a sum; the same as --column reward=NAME",
    )
    parser.add_argument(
        "--trusted",
        metavar="NAME",
        help="the column or metric that tells what is true (empty: none); the same as --column utility=NAME",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write DIR/audit.json")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if the verdict is suspicious, too")
    parser.add_argument(
        "--suspicious-exit",
        type=int,
        metavar="CODE",
        help="exit code of a suspicious verdict, 0 to 125 (default: 0, with --strict 1)",
    )
    parser.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="X",
        help="chance with which the labels that are asked for should settle the question (default: 0.8)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; return 1 for a collapse."""
    code = _suspicious_exit(args)
    found = audit(args.path, columns=columns_of(args), power=args.power, out=args.out, progress=not args.quiet)
    if args.json:
        print(json.dumps(plain(found.data), indent=1, allow_nan=False))
    else:
        print_audit(found.data)
    if args.out and not args.json:
        print(f"audit: {args.out / AUDIT}")
    return COLLAPSED if found.collapsed else code if found.verdict == "suspicious" else 0


def _suspicious_exit(args: argparse.Namespace) -> int:
    code: int | None = args.suspicious_exit
    if code is None:
        return COLLAPSED if args.strict else 0
    if not 0 <= code <= 125 or code == 2:
        raise ConfigError(f"suspicious-exit: got {code}, must be 0 to 125 and not 2, which says that the input is bad")
    if args.strict and code != COLLAPSED:
        raise ConfigError(f"suspicious-exit: got {code}, and --strict says 1; give one of them")
    return code


def columns_of(args: argparse.Namespace) -> dict[str, str]:
    """Return what --column, --reward and --trusted say."""
    short = (("reward", args.reward), ("utility", args.trusted))
    return _columns([*args.column, *(f"{ours}={name}" for ours, name in short if name is not None)])


def _columns(texts: Iterable[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in texts:
        ours, equals, theirs = text.partition("=")
        if not equals or not ours:
            raise ConfigError(f"column: got {text!r}, expected OURS=THEIRS, for example --column reward=score")
        ours, theirs = ours.strip(), theirs.strip()
        if (before := columns.setdefault(ours, theirs)) != theirs:
            raise ConfigError(
                f"column: {ours} was given as {shown(before)} and as {shown(theirs)}; give it once, a sum as reward=A+B"
            )
    return columns


def print_audit(result: Audit) -> None:
    """Print the verdict, a table an arm, what was seen, and which responses to look at."""
    to = console()

    def say(text: str) -> None:
        to.print(printable(text), highlight=False, markup=False)

    say(result.headline)
    say("")
    for line in _source(result):
        say(line)
    for arm in result.arms:
        _print_arm(to, arm)
    say("")
    for sentence in result.sentences:
        say(f"- {sentence}")
    if result.look_at:
        say("")
        say(f"Look at these first. {result.look_rule}")
        for place, response in enumerate(result.look_at, start=1):
            say(_line(place, response, several=len(result.arms) > 1))


def _source(result: Audit) -> Iterable[str]:
    source = result.source
    read = count(source.rows, "step") if source.metrics else f"{source.rows} rows"
    yield f"Read {read} of {count(source.files, 'file')} ({source.format})."
    if source.metrics:
        yield from _taken(source)
    elif source.guessed:
        guesses = ", ".join(f"{ours} = {source.columns[ours]}" for ours in source.guessed)
        yield f"Columns guessed: {guesses}. Wrong? Say --column OURS=THEIRS."


def _taken(source: Source) -> Iterable[str]:
    """Say what was taken as what among metrics, and what else there is."""
    for flag, ours in (("reward", "reward"), ("trusted", "utility")):
        how = " (guessed)" if ours in source.guessed else ""
        yield f"--{flag} {source.columns[ours]}{how}" if ours in source.columns else f"--{flag}: nothing is taken as it"
    others = [f"{ours} = {theirs}" for ours, theirs in source.columns.items() if ours in ("kl", "tokens", "idle")]
    if others:
        yield f"Beside them: {', '.join(others)}."
    yield f"Metrics: {listed(source.metrics, 24)}."


def _print_arm(to: Console, arm: ArmAudit) -> None:
    title, unit = ("steps", "logs") if arm.logs else ("rounds", "responses")
    shown = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in arm.rounds)]
    table = _new_table(f"{arm.label}: {arm.verdict}", [title, unit, *(_COLUMNS[name] for name in shown)])
    for row in arm.rounds:
        cells = [_cell(getattr(row, name), bare=name in _BARE) for name in shown]
        table.add_row(_span(row.first, row.last), str(row.responses), *cells)
    to.print(table)
    if arm.calibration:
        names = ["rounds", "pairs", "overconfidence", "accuracy", "Brier", "ECE"]
        table = _new_table("the reward model's preferences against the labels'", names)
        for one in arm.calibration:
            cells = [_cell(value) for value in (one.overconfidence, one.accuracy, one.brier, one.ece)]
            table.add_row(_span(one.first, one.last), str(one.pairs), *cells)
        to.print(table)
    if arm.symptoms:
        seen = (
            "how other metrics moved, first logs against last"
            if arm.logs
            else "seen without labels, last row against first"
        )
        table = _new_table(seen, ["", "from", "to", "change", ""])
        for symptom in arm.symptoms:
            ends = (number(symptom.start), number(symptom.end))
            table.add_row(symptom.what, *ends, _cell(symptom.change), "ALARM" if symptom.alarming else "")
        to.print(table)


def _new_table(title: str, names: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), style="bold"), box=box.SIMPLE, title_justify="left")
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place > 0)
    return table


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


_COLUMNS = {
    "utility": "utility", "reward": "reward", "gap": "gap (sd)", "kl": "KL", "length": "length",
    "distinct_2": "distinct pairs", "alike": "alike", "idle": "groups of one reward",
}  # fmt: skip
_BARE = ("kl", "length", "distinct_2", "alike", "idle")
"""Columns shown without interval: that of their change is in the table of symptoms, each one's own in audit.json."""


def _cell(interval: Interval | None, *, bare: bool = False) -> str:
    if interval is None:
        return "-"
    return number(interval.mean) if bare else interval_text(interval)


def _line(place: int, response: Response, *, several: bool) -> str:
    where = f"{response.arm}, " if several else ""
    text = " ".join(response.text.split())
    shown = text if len(text) <= _LINE else text[: _LINE - 1] + "…"
    utility = "" if response.utility is None else f", utility {response.utility:.2f}"
    prompt = " ".join(response.prompt.split())[:60]
    scores = f"reward {response.reward:.2f}{utility}, excess {response.excess:.1f}"
    return f"{place:3}. {where}round {response.round}, {scores}: {prompt!r} -> {shown!r}"
