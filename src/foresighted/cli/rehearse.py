"""`foresighted rehearse`: would this loop collapse, and what would prevent it, on a small policy?"""

from __future__ import annotations

import argparse
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from foresighted.alignment.compared import missing_sentences, size_sentences
from foresighted.alignment.rehearsal_text import advice, sentences, table
from foresighted.alignment.rehearsed import Rehearsal
from foresighted.api.rehearse import plan, played
from foresighted.api.report import report
from foresighted.cli.console import console
from foresighted.cli.options import add_run_flags, add_settings, given, places
from foresighted.settings import RehearseConfig, to_yaml
from foresighted.settings.rehearse import usual
from foresighted.texts import printable


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "rehearse",
        help="would your loop collapse, and what would prevent it? Your prompts and judges, a small policy",
        description="Plays your loop on a small policy, arms and seeds side by side, for as long as you say: plain"
        " RLHF, KL terms, the default, foresight alone, controls, and choosing by the true label. Ends with three"
        " sentences, a table, a page and the train command that follows. With nothing given it plays on bundled prompts"
        " and models.",
        examples=(
            "foresighted rehearse",
            "foresighted rehearse --prompts prompts.jsonl --reward-model ./my-reward-model --labels judge.py:prefer",
            "foresighted rehearse --config my-loop.yaml --policy embedded --minutes 60 --out runs/rehearsal",
        ),
        matter=(
            "prompts", "reward_model", "labels", "policy", "minutes", "seeds", "arms", "reward_model_learning_rate",
            "reward_model_steps", "rounds",
        ),
    )  # fmt: skip
    add_run_flags(
        parser,
        out="directory of the rehearsal (default: a new one under runs/)",
        resume="go on with the rehearsal in DIR",
        dry_run="check and print the configuration and what would be played, run nothing",
        must=False,
    )
    add_settings(parser, RehearseConfig, usual({}))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    where = places(args)
    planned = plan(given(args, RehearseConfig), out=args.out, resume=args.resume, config=args.config)
    if args.dry_run:
        print(to_yaml(planned.config), end="")
        print(f"# {planned.announced}")
        return
    print(planned.announced, flush=True)
    found = played(planned, out=where["out"], resume=args.resume, progress=not args.quiet)
    print_rehearsal(found.found)
    print(f"report: {report(found)}")
    if found.ended is not None:
        raise found.ended


def print_rehearsal(found: Rehearsal) -> None:
    """Print the sentences, the table of arms and what follows."""
    to = console()
    for sentence in sentences(found):
        to.print(f"- {printable(sentence)}", highlight=False, markup=False)
    head, rows = table(found)
    shown = Table(title=f"after round {found.comparison.last_round}", box=box.SIMPLE, title_justify="left")
    for name in head:
        shown.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    to.print(shown)
    for sentence in (*size_sentences(found.comparison), *missing_sentences(found.comparison)):
        to.print(f"- {printable(sentence)}", highlight=False, markup=False)
    print()
    for text in filter(None, advice(found)):
        print(f"{printable(text)}\n")
