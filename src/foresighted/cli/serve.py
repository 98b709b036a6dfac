"""`foresighted serve`: a reward model that keeps learning, for engines that ask over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from foresighted.cli.options import Parser, add_settings, given
from foresighted.integrations.http.config import ServeConfig
from foresighted.settings import from_mapping, read_yaml, to_yaml


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser: Parser = commands.add_parser(
        "serve",
        help="a reward owner over HTTP: foresighted rewards for OpenRLHF, verl and any other trainer",
        description="Owns a reward model: pays whole groups of responses their reward less the steering penalty, has"
        " some labelled, and retrains meanwhile. Its folder is a run directory, which report and audit read; a server"
        " that died goes on from there.",
        examples=(
            "foresighted serve --out runs/owner --reward-model ./my-reward-model --labels judge.py:prefer",
            "foresighted serve --out runs/owner --reward-model ./my-reward-model --labels runs/people/ --port 9000",
            "foresighted serve --out runs/owner --config owner.yaml --host 0.0.0.0 --token-file token.txt",
        ),
        matter=(
            "reward_model", "labels", "host", "port", "token_file", "steering", "gamma", "update_every",
            "group_deadline", "incomplete",
        ),
    )  # fmt: skip
    group = parser.add_argument_group("directory and configuration")
    told = "folder of the owner; what is there already is gone on with"
    group.add_argument("--out", type=Path, metavar="DIR", required=True, help=told)
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings; flags override them")
    group.add_argument("--dry-run", action="store_true", help="check and print the configuration, start nothing")
    add_settings(parser, ServeConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    config = configured(args)
    if args.dry_run:
        print(to_yaml(config), end="")
        return
    from foresighted.integrations.http.run import serve

    serve(config, args.out, said=lambda address: print(f"listening on {address}", flush=True))


def configured(args: argparse.Namespace) -> ServeConfig:
    """Return the settings of file and flags; raises a `ConfigError` with all faults in one line."""
    read = {} if args.config is None else read_yaml(args.config)
    return from_mapping(ServeConfig, read | given(args, ServeConfig))
