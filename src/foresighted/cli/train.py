"""`foresighted train`: iterative RLHF on a language model, one arm."""

from __future__ import annotations

import argparse
from typing import Any

from foresighted.cli.options import add_run_flags, add_settings, merged
from foresighted.cli.progress import Bars
from foresighted.prompts import load_prompts
from foresighted.settings import TrainConfig, to_yaml
from foresighted.store.records import RoundRow


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "train",
        help="iterative RLHF on a language model, one arm",
        description="Iterative RLHF in rounds: the policy writes N candidates a prompt, the best by reward - penalty is"
        " labelled against a reference, the reward model is retrained, the policy learns the winners. A killed run"
        " goes on with --resume, to the same bits on a CPU.",
    )
    add_run_flags(
        parser,
        out="run directory",
        resume="go on with the run in DIR (an empty DIR starts anew)",
        dry_run="check and print the configuration, run nothing",
        presets=True,
    )
    parser.add_argument("--start", metavar="DIR", help="share references and first reward model with other runs")
    add_settings(parser, TrainConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    config = merged(args, TrainConfig)
    if args.dry_run:
        load_prompts(config.prompts, limit=config.prompt_limit)
        print(to_yaml(config), end="")
        return
    from pathlib import Path

    from foresighted.alignment.run import train

    with Bars(quiet=args.quiet) as bars:
        bars.update(config.steering, 0, config.rounds)

        def on_round(row: RoundRow) -> None:
            bars.update(config.steering, row.round, config.rounds, note=f"reward {row.reward_chosen:.2f}")

        start = Path(args.start) if args.start else None
        train(config, args.out, resume=args.resume, start=start, on_round=on_round)
    if not args.quiet:
        print(f"records and policy: {args.out}")
