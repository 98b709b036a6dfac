"""`foresighted compare`: several arms and seeds, everything else held fixed, with paired statistics and a page."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foresighted.alignment.comparison import Comparison, summarise
from foresighted.cli.options import add_run_flags, add_settings, merged
from foresighted.cli.progress import Bars
from foresighted.cli.report import print_summary
from foresighted.prompts import load_prompts
from foresighted.settings import CompareConfig, to_yaml

if TYPE_CHECKING:
    from foresighted.alignment.compare import Run


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="several arms and seeds, everything else held fixed",
        description="The settling experiment: the same prompts in the same order, the same first reward model, the same"
        " references and the same sampling noise for every arm of a seed. Writes summary.json and report.html.",
    )
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
    config = merged(args, CompareConfig)
    if args.dry_run:
        load_prompts(config.train.prompts, limit=config.train.prompt_limit)
        print(to_yaml(config), end="")
        return
    from foresighted.alignment.compare import compare
    from foresighted.reporting import write_report

    with Bars(quiet=args.quiet) as bars:

        def on_progress(runs: Sequence[Run]) -> None:
            for one in runs:
                bars.update(f"{one.arm}, seed {one.seed}", one.rounds_done, config.train.rounds)

        compare(config, args.out, resume=args.resume, on_progress=on_progress)
    comparison = summarise(args.out)
    _write(args.out / "summary.json", comparison)
    print_summary(comparison)
    print(f"report: {write_report(args.out)}")


def _write(path: Path, comparison: Comparison) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(comparison.to_mapping(), indent=1, allow_nan=False))
    os.replace(temporary, path)
