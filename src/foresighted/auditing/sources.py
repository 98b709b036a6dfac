"""What lies at a path: a comparison or a run of ours, a TRL output directory, a rollout dump, or files of any loop."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foresighted.alignment.played import read_plan, run_directory
from foresighted.auditing.result import Source
from foresighted.auditing.rollouts import Collector, Rollouts
from foresighted.errors import DataError
from foresighted.settings import read_yaml
from foresighted.store.columns import FROM_FILE_NAME, JUDGED_BY, NUMBER_OF_FILE, Column, find_columns
from foresighted.store.directory import CONFIG, TRAINER_FOLDER, kind_of
from foresighted.store.logs import SUFFIXES, Part, peek, read_tables
from foresighted.store.records import CANDIDATES, HELDOUT

OUR_FORMATS = ("comparison", "run")
SHOWN_AS = {"jsonl": "JSONL", "csv": "CSV", "parquet": "Parquet"}
TRL_LOGS = "completions"
TRAJECTORIES = "trajectories.parquet"
Progress = Callable[[int, int], None]
"""Told how many files were read, of how many."""


@dataclass(frozen=True)
class Log:
    """What was read. `heldout`: the same prompts again and again; `training`: what the loop learned from."""

    source: Source
    heldout: Rollouts | None
    training: Rollouts | None


@dataclass(frozen=True)
class _Found:
    format: str
    heldout: tuple[Part, ...]
    training: tuple[Part, ...]
    remarks: tuple[str, ...] = ()


def read_log(path: Path, columns: Mapping[str, str], progress: Progress = lambda done, total: None) -> Log:
    """Read a directory or a file; see `audit.audit`."""
    found = _find(path)
    parts = (*found.heldout, *found.training)
    done = itertools.count(1)
    remarks = list(found.remarks)
    tables: list[Rollouts | None] = []
    used: dict[str, str] = {}
    guessed: dict[str, None] = {}
    rows = 0
    for group in (found.heldout, found.training):
        if not group:
            tables.append(None)
            continue
        rollouts, columns_found, guesses, said = _read(
            group, columns, lambda: progress(next(done), len(parts)), ours=found.format in OUR_FORMATS
        )
        used |= {ours: column.name for ours, column in columns_found.items()}
        if "round" not in columns_found:
            used["round"] = FROM_FILE_NAME
        guessed |= dict.fromkeys(guesses)
        remarks += said
        rows += len(rollouts)
        tables.append(rollouts)
    shown = () if found.format in OUR_FORMATS else tuple(guessed)
    source = Source(str(path), found.format, len(parts), rows, used, shown, tuple(remarks))
    return Log(source, tables[0], tables[1])


def _find(path: Path) -> _Found:
    if path.is_file():
        part = Part(path, path.name.split(".")[0], round=_round_of(path.name))
        return _Found(SHOWN_AS[part.format], (), (part,))
    if not path.is_dir():
        raise DataError(f"{path}: no such file or directory")
    if (path / TRAJECTORIES).is_file():
        return _Found("simulated games", (), (Part(path / TRAJECTORIES, path.resolve().name),))
    for folder in (path, path / TRAINER_FOLDER):
        if found := _our_directory(folder):
            return found
    for folder in (path / TRL_LOGS, path):
        if found := _trl(folder):
            return found
    return _directory(path)


def _our_directory(path: Path) -> _Found | None:
    if kind_of(path) == "comparison":
        return _comparison(path)
    present = [name for name in (HELDOUT, CANDIDATES) if (path / name).exists()]
    if not present:
        return None
    config = path / CONFIG
    label = str(read_yaml(config).get("steering") or "") if config.exists() else ""
    label = label or (path.resolve().parent.name if path.name == TRAINER_FOLDER else path.resolve().name)
    held, training = ([Part(path / name, label)] if name in present else [] for name in (HELDOUT, CANDIDATES))
    return _Found("run", tuple(held), tuple(training))


def _comparison(path: Path) -> _Found:
    plan = read_plan(path)
    found: dict[str, list[Part]] = {HELDOUT: [], CANDIDATES: []}
    absent = []
    for arm, seed in itertools.product(plan.arms, plan.seeds):
        directory = run_directory(path, plan, arm, seed)
        present = [name for name in found if (directory / name).exists()]
        for name in present:
            found[name].append(Part(directory / name, arm, str(seed)))
        if not present:
            absent.append(f"{arm}, seed {seed}")
    if not any(found.values()):
        raise DataError(f"{path}: a comparison without any records yet; wait for its first round")
    remarks = (f"No records yet of {'; '.join(absent)}.",) if absent else ()
    return _Found("comparison", tuple(found[HELDOUT]), tuple(found[CANDIDATES]), remarks)


def _trl(folder: Path) -> _Found | None:
    files = sorted(folder.glob("completions_*.parquet"), key=_natural) if folder.is_dir() else []
    if not files:
        return None
    name = (folder.resolve().parent if folder.name == TRL_LOGS else folder.resolve()).name
    remark = (
        "TRL writes one column a reward function and no weights: their sum stands for the reward; --column"
        " reward=NAME takes one of them."
    )
    parts = tuple(Part(file, name, round=_round_of(file.name)) for file in files)
    several = len({name for row in peek(parts[0])[:1] for name in row} - {"step", "prompt", "completion", "advantage"})
    return _Found("TRL completion logs", (), parts, (remark,) if several > 1 else ())


def _directory(path: Path) -> _Found:
    files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".") and _kind(file)]
    files.sort(key=_natural)
    if not files:
        raise DataError(
            f"{path}: holds no records of ours and no .jsonl, .csv or .parquet file; give the run directory, or the"
            " folder or file with the logged responses"
        )
    kinds = {kind: file.name for file in files if (kind := _kind(file))}
    if len(kinds) > 1:
        named = ", ".join(f"{name} ({kind})" for kind, name in sorted(kinds.items()))
        raise DataError(f"{path}: mixes files of different kinds: {named}; give one file, or a folder of one kind")
    label = path.resolve().name
    parts = tuple(Part(file, label, round=_round_of(file.name)) for file in files)
    rows = peek(parts[0])
    verl = bool(rows) and {"input", "output", "score", "step"} <= set(rows[0])
    name = "verl rollout dump" if verl else SHOWN_AS[next(iter(kinds))]
    return _Found(name if len(parts) == 1 or verl else f"{name} in parts", (), parts)


def _kind(file: Path) -> str | None:
    return SUFFIXES.get(Path(file.name.removesuffix(".gz")).suffix.lower())


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts 9.jsonl before 10.jsonl."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _round_of(name: str) -> int | None:
    found = NUMBER_OF_FILE.search(name)
    return int(found.group(1)) if found and len(found.group(1)) < 16 else None


def _read(
    parts: Sequence[Part], told: Mapping[str, str], after: Callable[[], None], *, ours: bool
) -> tuple[Rollouts, dict[str, Column], tuple[str, ...], list[str]]:
    collector = Collector()
    columns: dict[str, Column] = {}
    guessed: tuple[str, ...] = ()
    empty = []
    first: Part | None = None
    for part in parts:
        rows = peek(part)
        if rows:
            found, guesses = find_columns(rows, told, str(part.path), file_name=part.plain_name, ours_alone=ours)
            if first is None:
                columns, guessed, first = found, guesses, part
            lacking = {"round", "reward", "prompt"} & (set(columns) ^ set(found))
            if lacking:
                raise DataError(
                    f"{part.path}: its columns differ from those of {first.path.name}"
                    f" ({', '.join(sorted(lacking))} in one of them only); give files of one loop"
                )
            for table, count in read_tables(part, found):
                collector.add(table, count, run=part.run, seed=part.seed, round_=part.round)
        else:
            empty.append(part.path.name)
        after()
    if not collector.rows:
        raise DataError(f"{parts[0].path}: holds no row; wait for the first round, or check the path")
    rollouts, without = collector.made()
    if not len(rollouts):
        raise DataError(f"{parts[0].path}: no row has a round; name the column with --column round=NAME")
    remarks = [f"Empty: {', '.join(empty[:5])}{' and more' if len(empty) > 5 else ''}."] if empty else []
    for name in JUDGED_BY:  # utility and labels are null in records of ours where nobody gave them
        if name in columns and name not in rollouts.numbers and (name == "reward" or not ours):
            remarks.append(f"The column {columns[name].name} holds no finite number: it tells no {name}.")
    if without:
        remarks.append(f"{without} rows have no round and were left out.")
    return rollouts, columns, guessed, remarks
