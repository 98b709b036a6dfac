"""`foresighted.simulate`: the controlled games, over seeds and sweeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from foresighted.api.arguments import Place, configured, directory
from foresighted.api.progress import Told, shown
from foresighted.api.result import Plot, Result, copied, frame
from foresighted.errors import ConfigError, DataError, nearest
from foresighted.games.summary import SUMMARY
from foresighted.settings import read_yaml
from foresighted.statistics.wording import number

if TYPE_CHECKING:
    from foresighted.games.game import Game
    from foresighted.games.run import Request


class Simulation(Result):
    """A sweep over a game: `cells` is the main table, `runs`, `trajectories` and `actions` hold the rest.

    Args:
        request: what was played.
        directory: where its tables lie.
    """

    main: ClassVar[str] = "cells"
    directory: Path

    def __init__(self, request: Request, directory: Path) -> None:
        super().__init__(directory)
        self.request = request

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """One mapping an arm and swept value: means with intervals over seeds, shares, what diverged."""
        found: list[dict[str, Any]] = json.loads((self.directory / SUMMARY).read_text())["cells"]
        return found

    @property
    def diverged(self) -> bool:
        """Whether every run diverged."""
        return all(cell["diverged"]["count"] == cell["seeds"] for cell in self.cells)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Where each arm ended, and how many of its seeds dropped."""
        return tuple(map(_sentence, self.cells))

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Tables by name, as pandas frames."""
        import pyarrow.parquet as pq

        names = ("runs", "trajectories", "actions")
        found = {name: pq.read_table(self.directory / f"{name}.parquet").to_pandas() for name in names}
        return {"cells": frame(map(_flat, self.cells)), **found}

    @classmethod
    def read(cls, directory: str | Path, game: Any = None) -> Self:
        """Read the directory of a sweep.

        Args:
            directory: of `simulate`.
            game: of a game of your own, FILE.py:NAME or the game itself.

        Raises:
            DataError: it holds no whole sweep.
            RunError: one of 0.2 over a setting that has another name now.
        """
        path = Path(directory)
        if not (path / SUMMARY).exists():
            raise DataError(f"{path}: holds no finished sweep of simulate; go on with resume")
        from foresighted.games.run import check_sweeps

        values = read_yaml(path / "config.yaml")
        request = requested(values.pop("game") if game is None else game, values)
        check_sweeps(request, values, path)
        return cls(request, path)

    def write(self, directory: str | Path) -> Path:
        """Copy tables, summary and configuration to a new directory."""
        return copied(self.directory, directory)

    def plot(self, name: str | None = None, axes: tuple[str, str] | None = None) -> Plot:
        """Return true utility by iteration, or another figure by its name: noise, phase, pca, heat_map_dropped, ...

        Args:
            name: of the figure.
            axes: swept settings of a heat map (default: the first two).

        Raises:
            ConfigError: no figure of this name.
        """
        from foresighted.games.plots import drawn_bytes, figures

        known = figures(self.request, self.directory, self.cells, heat_map_axes(self.request, axes))
        wanted = "utility" if name is None else name
        if wanted not in known:
            raise ConfigError(f"plot: no figure {wanted!r}{nearest(wanted, known)}; there are {', '.join(known)}")
        return Plot({f".{kind}": partial(drawn_bytes, known[wanted], kind) for kind in ("png", "svg", "pdf")})

    def write_figures(self, axes: tuple[str, str] | None = None) -> list[Path]:
        """Write every figure as PNG, PDF and SVG into `figures/`; return the PNGs."""
        from foresighted.games.plots import write_figures

        return write_figures(self.request, self.directory, self.cells, heat_map_axes(self.request, axes))


def simulate(
    game: Any,
    *,
    out: Place | None = None,
    resume: bool = False,
    config: Place | None = None,
    jobs: int | None = None,
    good_utility: float = 9.0,
    progress: Told | bool | None = None,
    **values: Any,
) -> Simulation:
    """Play a game over arms, seeds and swept settings; what `foresighted simulate` runs.

    Args:
        game: `linear`, `network`, FILE.py:NAME (the file is run), or a `games.Game`.
        out: directory of the sweep; None for a new folder under `runs/`.
        resume: go on with the sweep in `out`, or add arms, seeds and values to it.
        config: settings in YAML; keywords override them.
        jobs: programs at a time (default: one a CPU core).
        good_utility: a run that ends there ends well.
        progress: told (game, rounds done, rounds); True, False or None as in `train`.
        **values: `arms`, `seeds`, `sweep`, `record_every`, `drop_threshold`, and any setting of the game.

    Returns:
        The simulation.

    Raises:
        ForesightedError: bad input, in one line.

    Example:
        >>> simulate("network", arms=["rlhf", "practical:gamma=0.01"], seeds=range(64))  # doctest: +SKIP
    """
    request = requested(game, values, out=out, resume=resume, config=config)
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ConfigError(f"jobs: got {jobs!r}, must be a whole number, at least 1")
    if not isinstance(good_utility, int | float) or not math.isfinite(good_utility):
        raise ConfigError(f"good_utility: got {good_utility!r}, expected a finite number")
    from foresighted.games.run import sweep

    name = request.game.name
    with directory(out, "simulate") as place, shown(progress) as tell:
        tell(name, 0, 1)

        def on_progress(done: int, total: int) -> None:
            tell(name, done, total)

        sweep(request, place, resume=resume, jobs=jobs, on_progress=on_progress, good_utility=good_utility)
    return Simulation(request, place)


def requested(
    game: Any, values: Mapping[str, Any], *, out: Place | None = None, resume: bool = False, config: Place | None = None
) -> Request:
    """Return what is to be played: file, then values; a resumed sweep starts from its own file.

    Raises:
        ConfigError: an unknown game or setting, or a value out of range.
    """
    from foresighted.games.run import Request

    played = _game(game)

    def take_out(held: dict[str, Any]) -> None:
        if (named := held.pop("game", played.name)) != played.name:
            raise ConfigError(f"config: {config or out} is for the game {named!r}, not {played.name!r}")

    return configured(
        Request, values, out=out, resume=resume, config=config, inside={"base": played.settings}, take_out=take_out,
        game=played,
    )  # fmt: skip


def _game(game: Any) -> Game:
    from foresighted.games import LINEAR, NETWORK
    from foresighted.games.game import Game

    if isinstance(game, Game):
        return game
    if str(game) in (known := {"linear": LINEAR, "network": NETWORK}):
        return known[str(game)]
    if ".py:" not in str(game):
        expected = "linear, network, FILE.py:NAME or a Game"
        raise ConfigError(f"game: got {game!r}{nearest(str(game), known)}, expected {expected}")
    from foresighted.games.game import load_game

    return load_game(str(game))


def heat_map_axes(request: Request, names: Sequence[str] | None) -> tuple[str, str] | None:
    """Return the swept settings of the heat map, by default the first two; None where there are not as many.

    Raises:
        ConfigError: not two different swept settings.
    """
    swept = [sweep.name for sweep in request.sweeps]
    if names is None:
        return (swept[0], swept[1]) if len(swept) >= 2 else None
    wrong = next((name for name in names if name not in swept), None)
    if len(names) != 2 or len(set(names)) != 2 or wrong is not None:
        hint, there = nearest(wrong, swept) if wrong else "", ", ".join(swept) or "(none)"
        raise ConfigError(f"heat_map: got {','.join(names)!r}{hint}, expected two of the swept settings {there}")
    return names[0], names[1]


def _flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in cell.items():
        if isinstance(value, Mapping):
            row |= {(name if part in ("mean", "share") else f"{name}_{part}"): one for part, one in value.items()}
        else:
            row[name] = value
    return row


def _sentence(cell: Mapping[str, Any]) -> str:
    where = f"{cell['arm']}, gamma {cell['gamma']:g}, {cell['seeds']} seeds"
    if cell["diverged"]["count"]:
        return f"{where}: {cell['diverged']['count']} diverged, so there is no mean."
    final, dropped = cell["final_utility"]["mean"], cell["dropped"]
    return f"{where}: ends at a true utility of {number(final)}; {dropped['count']} of {dropped['of']} seeds dropped."
