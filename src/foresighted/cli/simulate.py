"""`foresighted simulate`: the controlled games, over seeds and sweeps, with figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from foresighted.cli.options import Parser, add_run_flags, add_settings, merged
from foresighted.cli.progress import Bars
from foresighted.errors import ConfigError, NumericalError, nearest
from foresighted.games.settings import GameSettings, LinearSettings, NetworkSettings, SweepSettings
from foresighted.statistics.intervals import mean_interval, number, wilson_share

if TYPE_CHECKING:
    from foresighted.games.game import Game
    from foresighted.games.run import Request

_WIDTH = 160


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
        game = games.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _add_run_flags(game, custom=name == "custom")
        add_settings(game, kind)
        game.set_defaults(run=run, kind=kind)


def _add_run_flags(parser: argparse.ArgumentParser, *, custom: bool) -> None:
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
    request = _request(args)
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"jobs: got {args.jobs}, must be at least 1")
    axes = _axes(args.heat_map, [sweep.name for sweep in request.sweeps])
    if args.dry_run:
        print(yaml.safe_dump(request.mapping(), sort_keys=False), end="")
        return
    from foresighted.games.run import sweep

    with Bars(quiet=args.quiet) as bars:
        bars.update(request.game.name, 0, 1)
        sweep(
            request, args.out, resume=args.resume, jobs=args.jobs,
            on_progress=lambda done, total: bars.update(request.game.name, done, total),
        )  # fmt: skip
    cells = summary(request, args.out, args.good_utility)
    print_cells(cells, [sweep.name for sweep in request.sweeps])
    if args.plots:
        from foresighted.games.plots import write_figures

        for path in write_figures(request, args.out, cells, axes):
            print(f"figure: {path}")
    print(f"tables and summary: {args.out}")
    if all(cell["diverged"]["count"] == cell["seeds"] for cell in cells):
        raise NumericalError("every run diverged (NaN or infinity); lower policy_step or reward_model_step")


def _request(args: argparse.Namespace) -> Request:
    from foresighted.games.run import Request

    game = _game(args)

    def take_out(held: dict[str, Any]) -> None:
        if (named := held.pop("game", game.name)) != game.name:
            raise ConfigError(f"config: {args.config or args.out} is for the game {named!r}, not {game.name!r}")

    texts = dict(_pair(text) for text in getattr(args, "set", []))
    return merged(args, Request, {"base": game.settings}, texts=texts, take_out=take_out, game=game)


def _game(args: argparse.Namespace) -> Game:
    if args.game == "custom":
        from foresighted.games.custom import load_game

        return load_game(args.file)
    from foresighted.games import LINEAR, NETWORK

    return {"linear": LINEAR, "network": NETWORK}[args.game]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"set: got {text!r}, expected NAME=VALUE")
    return name.replace("-", "_"), value


def _axes(text: str | None, swept: list[str]) -> tuple[str, str] | None:
    if text is None:
        return (swept[0], swept[1]) if len(swept) >= 2 else None
    names = text.split(",")
    wrong = next((name for name in names if name not in swept), None)
    if len(names) != 2 or len(set(names)) != 2 or wrong is not None:
        hint = nearest(wrong, swept) if wrong else ""
        raise ConfigError(
            f"heat_map: got {text!r}{hint}, expected two of the swept settings {', '.join(swept) or '(none)'}"
        )
    return names[0], names[1]


def summary(request: Request, out: Path, good_utility: float) -> list[dict[str, Any]]:
    """Write summary.json from the table of runs; return its cells."""
    import pyarrow.parquet as pq

    from foresighted.games.summary import summarise

    def mean(values: Any) -> tuple[float, float, float]:
        interval = mean_interval(values[:, None], seed=0)
        return interval.mean, interval.low, interval.high

    def share(count: int, total: int) -> tuple[float, float, float]:
        interval = wilson_share(count, total)
        return interval.mean, interval.low, interval.high

    swept = tuple(sweep.name for sweep in request.sweeps)
    cells = summarise(
        pq.read_table(out / "runs.parquet"), swept, good_utility=good_utility, mean=mean, share=share
    )  # fmt: skip
    written = {
        "game": request.game.name,
        "drop_threshold": request.drop_threshold,
        "good_utility": good_utility,
        "level": 0.95,
        "cells": cells,
    }
    (out / "summary.json").write_text(json.dumps(written, indent=1, allow_nan=False))
    return cells


def print_cells(cells: Sequence[dict[str, Any]], swept: Sequence[str]) -> None:
    """Print a line a cell."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH, soft_wrap=True)
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
            *(str(cell[name]) if isinstance(cell[name], str) else f"{cell[name]:g}" for name in keys),
            str(cell["seeds"]),
            *(_mean(cell[name]) for name in ("final_utility", "peak_utility", "drop")),
            *(_share(cell[name]) for name in ("collapsed", "dropped", "good")),
            str(cell["diverged"]["count"]),
            str(cell["labels_a_run"]),
        )
    console.print(table)
    for cell in cells:
        if cell["diverged"]["count"]:
            seeds = ", ".join(map(str, cell["diverged"]["seeds"][:10]))
            console.print(
                f"- {cell['arm']}: {cell['diverged']['count']} of {cell['seeds']} seeds diverged ({seeds}); no mean",
                markup=False,
            )


def _mean(value: dict[str, float | None] | None) -> str:
    if value is None or value["mean"] is None:
        return "unknown"
    if value["low"] is None or value["high"] is None:
        return number(value["mean"])
    return f"{number(value['mean'])} [{number(value['low'])}, {number(value['high'])}]"


def _share(value: dict[str, Any]) -> str:
    return f"{value['share']:.0%} [{value['low']:.0%}, {value['high']:.0%}]"
