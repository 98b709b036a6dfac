"""`foresighted compare`: several arms and seeds, everything else held fixed, with paired statistics and a page."""

from __future__ import annotations

import argparse
from typing import Any

from foresighted.api.arguments import configured
from foresighted.api.compare import compare
from foresighted.api.report import report
from foresighted.cli.options import add_run_flags, add_settings, given, places
from foresighted.cli.report import print_summary
from foresighted.prompts import load_prompts
from foresighted.settings import CompareConfig, to_yaml


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="several arms and seeds, everything else held fixed",
        description="The settling experiment: the same prompts in the same order, the same first reward model, the same"
        " references and the same sampling noise for every arm of a seed. Writes summary.json and report.html.",
        examples=(
            "foresighted compare --preset demo --out runs/demo",
            "foresighted compare --out runs/arms --arms rlhf:kl_coefficient=0,rlhf,practical --seeds 0:4",
            "foresighted compare --out runs/arms --resume --seeds 0:8",
        ),
        matter=(
            "arms", "seeds", "jobs", "prompts", "policy", "reward_model", "labels", "gamma", "rounds", "candidates",
        ),
    )  # fmt: skip
    add_run_flags(
        parser,
        out="directory of the comparison",
        resume="go on with the comparison in DIR (an empty DIR starts anew)",
        dry_run="check and print the configuration, run nothing",
        presets=True,
    )
    add_settings(parser, CompareConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    values = given(args, CompareConfig)
    if args.dry_run:
        config = configured(CompareConfig, values, **places(args))
        load_prompts(config.train.prompts, limit=config.train.prompt_limit)
        print(to_yaml(config), end="")
        return
    comparison = compare(**values, **places(args), progress=not args.quiet)
    print_summary(comparison.data)
    print(f"report: {report(comparison)}")
