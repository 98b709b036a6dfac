"""`foresighted train`: iterative RLHF on a language model, one arm."""

from __future__ import annotations

import argparse
from typing import Any

from foresighted.alignment.parent import end_with_parent
from foresighted.api.arguments import configured
from foresighted.api.train import train
from foresighted.cli.options import add_run_flags, add_settings, given, places
from foresighted.prompts import load_prompts
from foresighted.settings import TrainConfig, to_yaml


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "train",
        help="iterative RLHF on a language model, one arm",
        description="Iterative RLHF in rounds: the policy writes N candidates a prompt, some are labelled against a"
        " reference, the reward model is retrained, and the policy moves by reward - penalty. A killed run goes on with"
        " --resume, to the same bits on a CPU.",
        examples=(
            "foresighted train --out runs/first",
            "foresighted train --out runs/mine --policy MODEL --reward-model MODEL --prompts FILE --labels my.py:best",
            "foresighted train --out runs/first --resume",
        ),
        matter=(
            "prompts", "policy", "reward_model", "labels", "steering", "gamma", "rounds", "prompts_per_round",
            "candidates", "seed",
        ),
    )  # fmt: skip
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
    values = given(args, TrainConfig)
    if args.dry_run:
        config = configured(TrainConfig, values, **places(args))
        load_prompts(config.prompts, limit=config.prompt_limit)
        print(to_yaml(config), end="")
        return
    end_with_parent()
    train(**values, **places(args), start=args.start, progress=not args.quiet)
    if not args.quiet:
        print(f"records and policy: {args.out}")
