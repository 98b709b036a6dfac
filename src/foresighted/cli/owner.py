"""`foresighted owner`: what an owner has done, stop it, or have it go back to an earlier version."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from foresighted.cli.options import Parser
from foresighted.errors import ConfigError

_RAY = "ray:"


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser: Parser = commands.add_parser(
        "owner",
        help="look at a reward owner's folder, stop the owner, or go back to an earlier version",
        description="Reads the folder of a reward owner, running or not, and steers it by its folder alone; or asks an"
        " owner in a Ray cluster, by its name.",
        examples=(
            "foresighted owner status runs/owner",
            "foresighted owner stop runs/owner",
            "foresighted owner rollback runs/owner 3 --reason 'the judge was broken'",
            "foresighted owner status ray:rewards",
        ),
    )
    parser.add_argument("action", choices=("status", "stop", "rollback"), help="what to do")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the owner, or ray:NAME")
    parser.add_argument("version", type=int, nargs="?", metavar="VERSION", help="of rollback: where to go back to")
    parser.add_argument("--reason", default="", metavar="TEXT", help="of rollback: why, for the journal")
    parser.add_argument("--json", action="store_true", help="of status: as JSON")
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="S", help="seconds to wait for a running owner (default: 60)"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster (default: this machine's)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    if str(args.folder).startswith(_RAY):
        _run_in_ray(args, str(args.folder).removeprefix(_RAY))
        return
    from foresighted.integrations.owner import folder

    if args.action == "status":
        _print(folder.status(args.folder), as_json=args.json)
    elif args.action == "stop":
        print(folder.stop(args.folder, args.wait))
    else:
        print(folder.rollback(args.folder, args.version, args.reason, args.wait))


def _run_in_ray(args: argparse.Namespace, name: str) -> None:
    from foresighted.integrations.ray import steer

    if args.action == "status":
        _print(steer.status(name, args.address, args.wait), as_json=args.json)
    elif args.action == "stop":
        print(steer.stop(name, args.address, args.wait))
    elif args.version is None:
        raise ConfigError("version: got none; name the version to go back to, foresighted owner status shows them")
    else:
        print(steer.rollback(name, args.version, args.reason, args.address, args.wait))


def _print(said: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(said))
        return
    width = max(map(len, said))
    for name, value in said.items():
        print(f"{name.replace('_', ' '):{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value if len(value) <= 8 else [*value[:3], "...", *value[-3:]])) or "none"
    return "-" if value in ("", None) else str(value)
