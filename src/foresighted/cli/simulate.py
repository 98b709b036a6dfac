"""`foresighted simulate`: the controlled games, over seeds and sweeps, with figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import yaml
from rich import box
from rich.table import Table

from foresighted.api.simulate import heat_map_axes, requested, simulate
from foresighted.cli.console import console
from foresighted.cli.options import Parser, add_run_flags, add_settings, given, places
from foresighted.errors import ConfigError, NumericalError
from foresighted.games.settings import GameSettings, LinearSettings, NetworkSettings, SweepSettings
from foresighted.statistics.wording import number
from foresighted.texts import printable


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "simulate",
        help="the controlled games of the paper, or one of yours: thousands of runs, with figures",
        description="A leader (policy) and a follower (reward model) play a game whose true utility is known. Writes"
        " trajectories.parquet, actions.parquet, runs.parquet and summary.json. Finished parts are never played again.",
    )
    games = parser.add_subparsers(title="games", dest="game", required=True, parser_class=Parser)
    for name, kind, text in (
        ("linear", LinearSettings, "linear reward model, one action, 300 rounds"),
        ("network", NetworkSettings, "10-32-32-1 network as reward model, Gaussian policy, 4000 rounds"),
        ("custom", GameSettings, "a game of yours, FILE.py:NAME"),
    ):
        which = f"foresighted simulate {name}{' --file mine.py:GAME' if name == 'custom' else ''} --out runs/game"
        game = games.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            examples=(
                f"{which} --plots", f"{which} --arms rlhf,proximal --sweep gamma=0.01:1:log5", f"{which} --resume",
            ),
            matter=(
                "arms", "seeds", "sweep", "record_every", "drop_threshold", "iterations", "gamma", "influence",
                "labels", "labels_per_round",
            ),
        )  # fmt: skip
        _add_run_flags(game, custom=name == "custom")
        add_settings(game, kind)
        game.set_defaults(run=run, kind=kind)


def _add_run_flags(parser: Parser, *, custom: bool) -> None:
    if custom:
        group = parser.add_argument_group("game")
        group.add_argument("--file", metavar="FILE.py:NAME", required=True, help="the game; the file is run")
        group.add_argument(
            "--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of that game; may be repeated"
        )
    add_run_flags(
        parser,
        out="directory of the sweep",
        resume="go on with the sweep in DIR, or add arms, seeds and values",
        dry_run="check and print the request, play nothing",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--good-utility", type=float, default=9.0, metavar="X", help="a run that ends there ends well (default: 9)"
    )
    group.add_argument("--plots", action="store_true", help="figures as PNG, PDF and SVG in DIR/figures")
    group.add_argument(
        "--heat-map", metavar="X,Y", help="swept settings of the heat map's axes (default: the first two)"
    )
    group.add_argument("--jobs", type=int, metavar="N", help="programs at a time (default: one a CPU core)")
    add_settings(parser, SweepSettings)


def run(args: argparse.Namespace) -> None:
    """Run the subcommand."""
    game = args.file if args.game == "custom" else args.game
    values = dict(_pair(text) for text in getattr(args, "set", [])) | given(args, args.kind, SweepSettings)
    request = requested(game, values, **places(args))
    axes = heat_map_axes(request, args.heat_map.split(",") if args.heat_map is not None else None)
    if args.dry_run:
        print(yaml.safe_dump(request.mapping(), sort_keys=False), end="")
        return
    more = {"jobs": args.jobs, "good_utility": args.good_utility, "progress": not args.quiet}
    simulation = simulate(game, **values, **places(args), **more)
    print_cells(simulation.cells, [sweep.name for sweep in request.sweeps])
    if args.plots:
        for path in simulation.write_figures(axes):
            print(f"figure: {path}")
    print(f"tables and summary: {args.out}")
    if simulation.diverged:
        raise NumericalError("every run diverged (NaN or infinity); lower policy_step or reward_model_step")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"set: got {text!r}, expected NAME=VALUE")
    return name.replace("-", "_"), value


def print_cells(cells: Sequence[dict[str, Any]], swept: Sequence[str]) -> None:
    """Print a line a cell."""
    to = console()
    table = Table(box=box.SIMPLE)
    keys = ["arm", "gamma", *(name for name in swept if name != "gamma")]
    for name in (
        *keys,
        "seeds",
        "final utility",
        "peak",
        "drop",
        "collapsed",
        "dropped",
        "ends well",
        "diverged",
        "labels",
    ):
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for cell in cells:
        table.add_row(
            *(printable(cell[name]) if isinstance(cell[name], str) else f"{cell[name]:g}" for name in keys),
            str(cell["seeds"]),
            *(_mean(cell[name]) for name in ("final_utility", "peak_utility", "drop")),
            *(_share(cell[name]) for name in ("collapsed", "dropped", "good")),
            str(cell["diverged"]["count"]),
            str(cell["labels_a_run"]),
        )
    to.print(table)
    for cell in cells:
        if cell["diverged"]["count"]:
            seeds = ", ".join(map(str, cell["diverged"]["seeds"][:10]))
            told = f"{cell['arm']}: {cell['diverged']['count']} of {cell['seeds']} seeds diverged ({seeds}); no mean"
            to.print(f"- {printable(told)}", markup=False)


def _mean(value: dict[str, float | None] | None) -> str:
    if value is None or value["mean"] is None:
        return "unknown"
    if value["low"] is None or value["high"] is None:
        return number(value["mean"])
    return f"{number(value['mean'])} [{number(value['low'])}, {number(value['high'])}]"


def _share(value: dict[str, Any]) -> str:
    return f"{value['share']:.0%} [{value['low']:.0%}, {value['high']:.0%}]"
