"""Files of a sweep: parts that are written whole or not at all, and the tables that are put together from them.

A part is a folder `parts/NAME` with the runs (cell and seed) of one call of the program:

    trajectories.parquet   a row an iteration
    actions.parquet        the action itself, of the first seeds and at fewer iterations
    runs.parquet           a row a run
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foresighted.errors import DataError, RunError
from foresighted.games.loop import Trajectories
from foresighted.games.plan import Cell, labels_read
from foresighted.games.summary import run_statistics
from foresighted.store.directory import differences
from foresighted.store.files import damaged, hashes, new_folder, replacing
from foresighted.store.rows import read_sealed, write_sealed

PARTS = "parts"
TABLES = ("trajectories", "actions", "runs")
_RUNS = "runs.json"
WRITING: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["env", "arm"]}
"""Numbers are not worth a dictionary."""
ACTION_SEEDS = 16
"""Seeds of which actions are kept: the lowest ones."""
ACTION_POINTS = 400
"""Actions that are kept of a run, about."""

Run = tuple[str, int]
"""Name of a cell and seed: what makes a run the same run."""
Place = tuple[int, int]
"""Index of a run's cell and of its seed in `Trajectories`."""


def cell_name(cell: Cell) -> str:
    """Return a cell's name: arm and swept values."""
    return json.dumps([cell.arm, [list(pair) for pair in cell.swept]])


def write_part(
    out: Path, name: str, played: Trajectories, wanted: set[Run], *, game: Any, every: int, kept: set[int],
    drop_threshold: float, config: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the wanted runs of one call of the program, all files or none.

    Args:
        out: directory of the sweep.
        name: of the part.
        played: what the program made; padding and runs that are on disk already are in it.
        wanted: runs to write.
        game: the game.
        every: record each K-th iteration, and the last.
        kept: seeds of which actions are kept.
        drop_threshold: fall of utility that counts, in its units.
        config: what was asked for.
    """
    places = {
        (cell_name(cell), seed): (i, j) for i, cell in enumerate(played.cells) for j, seed in enumerate(played.seeds)
    }
    runs = [place for run, place in places.items() if run in wanted]
    last = played.utility.shape[2] - 1
    coarse = _iterations(last, max(1, last // ACTION_POINTS))
    tables = (
        _trajectories(game.name, played, runs, _iterations(last, every)),
        _actions(game.name, played, [run for run in runs if played.seeds[run[1]] in kept], coarse),
        _runs(game, played, runs, drop_threshold),
    )
    with new_folder(out / PARTS / name) as folder:
        for table, content in zip(TABLES, tables, strict=True):
            pq.write_table(content, folder / f"{table}.parquet", **WRITING)
        write_sealed(folder / _RUNS, Part([list(run) for run in sorted(wanted)], hashes(folder), config))


def _iterations(last: int, every: int) -> Any:
    return np.unique(np.append(np.arange(0, last + 1, every), last))


def _keys(env: str, played: Trajectories, runs: Sequence[Place], rows: int) -> dict[str, Any]:
    """Return the columns that name a run, `rows` rows for each; a swept gamma is the gamma column."""
    cells, (of_cell, of_seed) = played.cells, np.repeat(np.asarray(runs, int).reshape(-1, 2), rows, axis=0).T
    swept = [name for name, _ in cells[0].swept if name != "gamma"]
    return {
        "env": pa.array([env] * len(cells)).take(of_cell),
        "arm": pa.array([cell.arm for cell in cells]).take(of_cell),
        "gamma": pa.array([cell.settings.gamma for cell in cells], pa.float64()).take(of_cell),
        "seed": pa.array(played.seeds, pa.int64()).take(of_seed),
        **{name: pa.array([getattr(cell.settings, name) for cell in cells]).take(of_cell) for name in swept},
    }


def _picked(values: Any, runs: Sequence[Place], at: Any) -> Any:
    """Return the values of runs at iterations, run after run."""
    cells, seeds = np.asarray(runs, int).reshape(-1, 2).T
    return np.ascontiguousarray(values[cells, seeds][:, at]).ravel()


def _trajectories(env: str, played: Trajectories, runs: Sequence[Place], at: Any) -> pa.Table:
    measured = ("utility", "proxy_reward", "signal", "noise")
    columns = {name: _picked(getattr(played, name), runs, at) for name in measured}
    iteration = np.tile(at.astype(np.int32), len(runs))
    if played.cells[0].settings.control == "trust":  # cells of one program are all controlled, or none is
        columns["tau"] = _picked(played.tau, runs, at)
    return pa.table({**_keys(env, played, runs, len(at)), "iteration": iteration, **columns})


def _actions(env: str, played: Trajectories, runs: Sequence[Place], at: Any) -> pa.Table:
    values = pa.array(_picked(played.action, runs, at))
    action = pa.FixedSizeListArray.from_arrays(values, played.action[0, 0, 0].size)
    iteration = np.tile(at.astype(np.int32), len(runs))
    return pa.table({**_keys(env, played, runs, len(at)), "iteration": iteration, "action": action})


def _runs(game: Any, played: Trajectories, runs: Sequence[Place], drop_threshold: float) -> pa.Table:
    rows = [
        run_statistics(played.utility[run], played.proxy_reward[run], drop_threshold=drop_threshold) for run in runs
    ]
    labels = [labels_read(game, played.cells[i]) for i, _ in runs]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return pa.table({**_keys(game.name, played, runs, 1), **columns, "labels": labels})


@dataclass(frozen=True)
class Part:
    """What a part says of itself in `runs.json`; one of 0.2 says the runs alone."""

    runs: list[list[str | int]]
    """Name of the cell and seed of each run."""
    sha256: Mapping[str, str]
    """Hash of each table."""
    config: Mapping[str, Any]
    """What was asked for when it was played."""


def finished_runs(
    out: Path, asked: Mapping[str, Any] | None = None, may_change: Collection[str] = ()
) -> dict[Run, str]:
    """Return which runs are on disk, and in which part, everything checked. Nothing is written.

    Args:
        out: directory of the sweep.
        asked: what is asked for now.
        may_change: settings of that which may be others than when a part was played.

    Raises:
        RunError: a part that is not as it was written, or was played with other settings.
    """
    found: dict[Run, str] = {}
    for folder in sorted(one for one in (out / PARTS).glob("*") if not _unfinished(one)):
        try:
            part = _part(folder)
            found |= {(str(name), int(seed)): folder.name for name, seed in part.runs}
        except (OSError, ValueError, TypeError, RecursionError, DataError, pa.ArrowException):
            raise RunError(f"out: {folder} is damaged; remove that folder, and its runs are played again") from None
        if changes := differences(part.config, asked or {}, may_change):
            raise RunError(f"out: {folder} was played with other settings ({changes}); give those, or another --out")
    return found


def _unfinished(part: Path) -> bool:
    return part.name.startswith(".") or part.suffix == ".tmp"


def _part(folder: Path) -> Part:
    told = json.loads((folder / _RUNS).read_bytes())
    if isinstance(told, list) and told:  # of 0.2
        for table in TABLES:
            pq.read_table(folder / f"{table}.parquet")
        return Part(told, {}, {})
    part, sealed = read_sealed(folder / _RUNS, Part, what="part", again="play it again", since="sha256")
    if not sealed or damaged(folder, part.sha256) is not None:
        raise DataError(f"{folder}: damaged")
    return part


def drop_unfinished(out: Path) -> None:
    """Remove what processes that were killed left of parts."""
    for folder in (out / PARTS).glob("*"):
        if _unfinished(folder):
            shutil.rmtree(folder, ignore_errors=True)


def put_together(out: Path) -> None:
    """Write each table of the sweep in `out` from all parts on disk, whole or not at all."""
    parts = sorted(set(finished_runs(out).values()))
    for table in TABLES:
        files = [out / PARTS / part / f"{table}.parquet" for part in parts]
        if not files:
            continue
        schema = pa.unify_schemas([pq.read_schema(file) for file in files])
        with (
            replacing(out / f"{table}.parquet") as temporary,
            pq.ParquetWriter(temporary, schema, **WRITING) as writer,
        ):
            for file in files:
                content = pq.read_table(file)
                for name in schema.names[content.num_columns :]:  # tau, in parts of arms without control
                    content = content.append_column(name, pa.nulls(content.num_rows, schema.field(name).type))
                writer.write_table(content)
