"""`foresighted label`: a page on which people label the pairs that a run asks about."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from foresighted.api.arguments import configured
from foresighted.cli.options import add_settings, given
from foresighted.integrations.people.settings import LabelConfig


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "label",
        help="a page on which people label the pairs that a run asks about",
        description="Serves a page in the browser: a prompt, two responses in random order, and the keys 1, 2, 0 (tie),"
        " s (skip), u (take back). Each answer is on the disk before the next pair comes, and the run takes it from"
        " there, while it goes on, waits or has been stopped.",
        examples=(
            "foresighted train --labels people/ --wait-for-labels 4 --out runs/first",
            "foresighted label runs/first",
            "foresighted label people/ --people ann,bob --guidelines rules.md",
        ),
        matter=("people", "guidelines", "host", "port", "both_orders", "again", "shared", "order"),
    )  # fmt: skip
    parser.add_argument("queue", type=Path, metavar="QUEUE", help="folder of --labels FOLDER/, or a run's directory")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings; flags override them")
    add_settings(parser, LabelConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    config = configured(LabelConfig, given(args, LabelConfig), out=None, resume=False, config=args.config)
    from foresighted.integrations.people.serve import queue_of, serve

    serve(queue_of(args.queue), config, lambda line: print(line, flush=True))
