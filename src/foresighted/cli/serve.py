"""`foresighted serve`: a reward model that keeps learning, for engines that ask over HTTP."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from foresighted.cli.options import Parser, add_settings, given
from foresighted.errors import ConfigError
from foresighted.integrations.http.config import ServeConfig
from foresighted.integrations.ray.config import Placement
from foresighted.settings import from_mapping, names, read_yaml, settings, to_yaml


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
            "foresighted serve --out /shared/owner --config owner.yaml --ray rewards --gpus 1",
        ),
        matter=(
            "reward_model", "labels", "host", "port", "token_file", "steering", "gamma", "update_every",
            "group_deadline", "incomplete", "gpus", "replicas",
        ),
    )  # fmt: skip
    group = parser.add_argument_group("directory and configuration")
    told = "folder of the owner; what is there already is gone on with"
    group.add_argument("--out", type=Path, metavar="DIR", required=True, help=told)
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings; flags override them")
    group.add_argument("--dry-run", action="store_true", help="check and print the configuration, start nothing")
    group.add_argument("--ray", metavar="NAME", help="start the owner in a Ray cluster, under this name; no HTTP")
    group.add_argument("--address", metavar="HOST:PORT", help="of that cluster (default: this machine's)")
    add_settings(parser, ServeConfig)
    add_settings(parser, Placement)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    config, placement = configured(args)
    if args.dry_run:
        print(to_yaml(config if placement is None else config.owner), end="")
        print("" if placement is None else to_yaml(placement), end="")
        return
    if placement is not None:
        from foresighted.integrations.ray import Plan, steer

        print(steer.serve(args.ray, Plan(os.path.abspath(args.out), config.owner, placement), args.address))
        return
    from foresighted.integrations.http.run import serve

    serve(config, args.out, said=lambda address: print(f"listening on {address}", flush=True))


def configured(args: argparse.Namespace) -> tuple[ServeConfig, Placement | None]:
    """Return the settings of file and flags, and those for Ray where it is asked for.

    Raises:
        ConfigError: all faults in one line, or settings of the one way where the other is asked for.
    """
    read = {} if args.config is None else read_yaml(args.config)
    said = read | given(args, ServeConfig, Placement)
    places = {name: said.pop(name) for name in names(Placement) if name in said}
    if args.ray is None:
        if places or args.address:
            name = next(iter(places), "address")
            raise ConfigError(f"{name}: is of an owner in a Ray cluster; give --ray NAME, or leave it out")
        return from_mapping(ServeConfig, said), None
    if wrong := [name for name in settings(ServeConfig) if name in said]:
        raise ConfigError(f"{wrong[0]}: is of a server, and an owner in a Ray cluster is none; leave it out")
    return from_mapping(ServeConfig, said), from_mapping(Placement, places)
