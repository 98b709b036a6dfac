"""What lies at a path: a comparison or a run of ours, a TRL output directory, a rollout dump, or files of any loop."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foresighted.alignment.played import read_plan, run_directory
from foresighted.auditing.metrics import Logged, logged, named_apart, roles_of
from foresighted.auditing.result import Source
from foresighted.auditing.roles import looks_like_answers, measured, paid_by
from foresighted.auditing.rollouts import LARGEST_NUMBER, Collector, Rollouts
from foresighted.errors import DataError
from foresighted.settings import read_yaml
from foresighted.store.aliases import written
from foresighted.store.columns import FROM_FILE_NAME, JUDGED_BY, NUMBER_OF_FILE, Column, find_columns, passed_over
from foresighted.store.directory import AUDIT, CONFIG, LOOPS, TRAINER_FOLDER, VERDICTS, kind_of
from foresighted.store.formats import Kind, named_as_rows
from foresighted.store.logs import PEEKED_ROWS, Part, peek, read_tables
from foresighted.store.records import CANDIDATES, HELDOUT
from foresighted.store.trackers.find import find_metrics
from foresighted.store.trackers.metrics import Metrics
from foresighted.store.trackers.tables import beside_trackio

OUR_FORMATS = ("comparison", "run")
GAMES = "simulated games"
SHOWN_AS: Mapping[Kind, str] = {
    "jsonl": "JSONL", "batches": "JSONL", "json": "JSON", "csv": "CSV", "parquet": "Parquet", "text": "text",
}  # fmt: skip
STEPS_COMPARED = 32
"""Files of a TRL log whose advantages are read to tell what the policy was paid by."""
TRL_LOGS = "completions"
TRAJECTORIES = "trajectories.parquet"
TRAINER_STATE = "trainer_state.json"
Progress = Callable[[int, int], None]
"""Told how many files were read, of how many."""


@dataclass(frozen=True)
class Log:
    """What was read. `heldout`: the same prompts again and again; `training`: what the loop learned from."""

    source: Source
    heldout: Rollouts | None
    training: Rollouts | None
    set_aside: tuple[str, ...] = ()
    """Columns that were to tell what is true, and measure the prompt."""
    runs: tuple[Logged, ...] = ()
    """Metrics without responses; then there is nothing else."""


@dataclass(frozen=True)
class _Found:
    format: str
    heldout: tuple[Part, ...]
    training: tuple[Part, ...]
    remarks: tuple[str, ...] = ()


def read_log(path: Path, columns: Mapping[str, str], progress: Progress = lambda done, total: None) -> Log:
    """Read a directory or a file; see `audit.audit`."""
    found = _find(path, columns)
    if isinstance(found, Metrics):
        return _metrics_log(path, found, columns)
    parts = (*found.heldout, *found.training)
    done = itertools.count(1)
    remarks = list(found.remarks)
    tables: list[Rollouts | None] = []
    used: dict[str, str] = {}
    guessed: dict[str, None] = {}
    aside: dict[str, None] = {}
    rows = 0
    for group in (found.heldout, found.training):
        if not group:
            tables.append(None)
            continue
        read = _read(group, columns, lambda: progress(next(done), len(parts)), ours=found.format in OUR_FORMATS)
        rollouts, columns_found, guesses, said, dropped = read
        aside |= dict.fromkeys(dropped)
        used |= {ours: column.name for ours, column in columns_found.items()}
        if "round" not in columns_found:
            used["round"] = FROM_FILE_NAME
        guessed |= dict.fromkeys(guesses)
        remarks += said
        rows += len(rollouts)
        tables.append(rollouts)
    if found.format not in (*OUR_FORMATS, GAMES) and not {"prompt", "prompt_id", "response"} & used.keys():
        remarks.append("No column holds prompts or responses: a row is taken as a mean of its round.")
    shown = () if found.format in OUR_FORMATS else tuple(guessed)
    source = Source(str(path), found.format, len(parts), rows, used, shown, tuple(remarks))
    return Log(source, tables[0], tables[1], tuple(aside))


def _metrics_log(path: Path, found: Metrics, told: Mapping[str, str]) -> Log:
    if not found.runs:
        raise DataError(f"{path}: {found.format} without a single number of a step; wait for the first log")
    roles = roles_of(found, told, str(path))
    columns = {"round": "step", "reward": "+".join(roles.reward), "utility": roles.trusted or "", **roles.others}
    names = tuple(dict.fromkeys(name for run in found.runs for name in run.metrics))
    source = Source(
        str(path), found.format, found.files, sum(len(run.steps) for run in found.runs),
        {ours: theirs for ours, theirs in columns.items() if theirs}, roles.guessed, found.remarks, names,
    )  # fmt: skip
    return Log(source, None, None, (), tuple(logged(run, roles) for run in named_apart(found.runs)))


def _find(path: Path, told: Mapping[str, str]) -> _Found | Metrics:
    plain = not told.keys() - {"reward", "utility"}
    if plain and path.is_file() and (metrics := find_metrics(path)):
        return metrics
    if path.exists() and not path.is_dir():  # the reader says of a FIFO what it is
        part = Part(path, path.name.split(".")[0], round=_round_of(path.name))
        return _Found(SHOWN_AS[part.format.kind], (), (part,))
    if not path.is_dir():
        raise DataError(f"{path}: no such file or directory")
    if (path / TRAJECTORIES).is_file():
        return _Found(GAMES, (), (Part(path / TRAJECTORIES, path.resolve().name),))
    for folder in (path, path / TRAINER_FOLDER, path / LOOPS):
        if found := _our_directory(folder):
            return found
    for folder in (path / TRL_LOGS, path):
        if found := _trl(folder):
            return found
    parts = _row_files(path)
    if plain and (metrics := _metrics_in(path, parts)):
        return metrics
    return _directory(path, parts)


def _metrics_in(path: Path, parts: Sequence[Part]) -> Metrics | None:
    """Return the metrics in a directory: of its tables where it has some that are logs, else of a tracker."""
    logs = [part for part in parts if not _no_log(part)]
    if all((path / f"{part.plain_name.partition('.')[0]}.db").exists() for part in logs):  # trackio's, in both forms
        return find_metrics(path)
    found = [find_metrics(part.path) for part in logs]
    whole = [one for one in found if one]
    if len(whole) < len(found):
        return None
    remarks = tuple(text for one in whole for text in one.remarks)
    return Metrics(whole[0].format, len(whole), tuple(run for one in whole for run in one.runs), remarks)


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
    parts = tuple(Part(file, name, round=_round_of(file.name)) for file in files)
    return _Found("TRL completion logs", (), parts)


def _row_files(path: Path) -> list[Part]:
    here = [file for file in path.iterdir() if file.name[:1] != "." and file.name not in (VERDICTS, AUDIT)]
    named = [file for file in here if file.is_file() and named_as_rows(file)]
    label = path.resolve().name
    return [Part(file, label, round=_round_of(file.name)) for file in sorted(named, key=_natural)]


def _directory(path: Path, every: list[Part]) -> _Found:
    parts = tuple(part for part in every if not _no_log(part)) or tuple(every)
    if not parts:
        raise DataError(
            f"{path}: holds no records of ours, no .jsonl, .csv or .parquet file and no tracker's metrics; give the run"
            " directory, or the folder or file with the logged responses or metrics"
        )
    kinds = {SHOWN_AS[part.format.kind]: part.path.name for part in parts if part.format.kind != "text"}
    if len(kinds) > 1:
        shown = ", ".join(f"{name} ({kind})" for kind, name in sorted(kinds.items()))
        raise DataError(f"{path}: mixes files of different kinds: {shown}; give one file, or a folder of one kind")
    rows = peek(parts[0])
    verl = bool(rows) and {"input", "output", "score", "step"} <= set(rows[0])
    name = "verl rollout dump" if verl else next(iter(kinds), "JSONL")
    passed = [part.path.name for part in every if part not in parts]
    remarks = (f"No log, and passed over: {', '.join(passed[:5])}{' and more' * (len(passed) > 5)}.",) if passed else ()
    return _Found(name if len(parts) == 1 or verl else f"{name} in parts", (), parts, remarks)


def _no_log(part: Part) -> bool:
    """Return whether a file beside logs is plainly none: one JSON object, such as a config.json, a trainer's state, or
    what trackio keeps beside its metrics.

    Of JSON, only a file that ends in .json can be; JSON lines of one row are a log.
    """
    if part.path.name.removesuffix(".gz").endswith(".json") and part.format.kind in ("json", "jsonl"):
        rows = peek(part)
        return len(rows) == 1 or part.path.name == TRAINER_STATE
    return beside_trackio(part.path)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts 9.jsonl before 10.jsonl."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _round_of(name: str) -> int | None:
    found = NUMBER_OF_FILE.search(name)
    return int(found.group(1)) if found and len(found.group(1)) < 16 else None


_Read = tuple[Rollouts, dict[str, Column], tuple[str, ...], list[str], list[str]]
"""Rows, columns, which of them were guessed, remarks, and columns that are set aside."""


def _read(parts: Sequence[Part], told: Mapping[str, str], after: Callable[[], None], *, ours: bool) -> _Read:
    collector = Collector()
    columns: dict[str, Column] = {}
    guessed: tuple[str, ...] = ()
    empty, remarks = [], []
    first: Part | None = None
    settled: list[str] = []

    def paid(candidates: Sequence[str]) -> Sequence[str]:
        """Ask the advantages once, of files from the first to the last."""
        if not settled:
            some = sorted({round(n * (len(parts) - 1) / (STEPS_COMPARED - 1)) for n in range(STEPS_COMPARED)})
            try:
                found, why = paid_by(candidates, [step for n in some for step in _steps(parts[n])])
            except DataError as error:
                raise DataError(f"{parts[0].path}: {error}") from None
            settled.extend(found)
            remarks.append(f"Of {', '.join(candidates)}, the reward is {'+'.join(settled)}: {why}.")
        return [name for name in candidates if name in settled]

    for part in parts:
        rows = peek(part)
        if rows:
            found, guesses = find_columns(
                rows, told, str(part.path), file_name=part.plain_name, ours_alone=ours, paid_by=paid
            )
            if first is None:
                columns, guessed, first = found, guesses, part
                remarks += () if ours else passed_over(rows, found, guesses)
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
    if empty:
        remarks.append(f"Empty: {', '.join(empty[:5])}{' and more' if len(empty) > 5 else ''}.")
    for name in JUDGED_BY:  # utility and labels are null in records of ours where nobody gave them
        if name in columns and name not in rollouts.numbers and (name == "reward" or not ours):
            holds = f"The column {columns[name].name} holds no finite number up to {LARGEST_NUMBER:g}"
            remarks.append(f"{holds}: it tells no {name}.")
    if without:
        remarks.append(f"{without} rows have no round and were left out.")
    if ours:
        return rollouts, columns, guessed, remarks, []
    rollouts, aside = _checked(rollouts, columns, guessed, remarks)
    return rollouts, columns, guessed, remarks, aside


def _steps(part: Part) -> list[list[Mapping[str, Any]]]:
    """Return the first rows of a file, a step each; the last prompt of a step that is cut is left out."""
    rows = peek(part)
    last = rows[-1].get("prompt") if len(rows) == PEEKED_ROWS else None
    while last is not None and rows and rows[-1].get("prompt") == last:
        rows.pop()
    return [list(same) for _, same in itertools.groupby(rows, key=lambda row: row.get("step"))]


def _checked(
    rollouts: Rollouts, columns: Mapping[str, Column], guessed: Sequence[str], remarks: list[str]
) -> tuple[Rollouts, list[str]]:
    """Take away what was to tell what is paid or true and measures the prompt; say so, or what could not be seen.

    Raises:
        DataError: a label that is no preference, a guessed utility that may as well be the right answers, or one that
            is the reward.
    """
    aside = []
    for ours in JUDGED_BY:
        if ours not in rollouts.numbers:
            continue
        name = written(columns[ours].name)
        kind = measured(rollouts, ours)
        if ours == "label":
            _check_labels(rollouts, name, of_prompt=kind == "prompt")
        if kind == "unseen" and ours in guessed and ours != "reward":
            if ours == "utility" and looks_like_answers(rollouts, ours):
                raise DataError(
                    f"{name}: whole numbers, one a prompt, which may be right answers or utilities; say --column"
                    f" utility={name} if they are utilities, --column utility= to leave them out"
                )
            remarks.append(f"No prompt has several responses, so nothing shows that {name} measures the response.")
        if ours == "reward" and len(np.unique(rollouts.numbers[ours][rollouts.known(ours)])) == 1:
            continue  # a reward function that gives the same to all
        if kind == "prompt":
            aside += [name] if ours != "reward" else []
            remarks.append(
                f"The column {name} is the same for every response to a prompt: it measures the prompt, as a right"
                f" answer does, and is no {ours}; it was set aside."
            )
            numbers = {key: values for key, values in rollouts.numbers.items() if key != ours}
            rollouts = replace(rollouts, numbers=numbers)
    if {"prompt", "prompt_id", "response"} & columns.keys():
        _check_two(rollouts, columns)
    return rollouts, aside


def _check_two(rollouts: Rollouts, columns: Mapping[str, Column]) -> None:
    """Refuse a utility that has the reward's value wherever both are known: it could not fall while that rises."""
    both = rollouts.known("reward") & rollouts.known("utility")
    if not both.any():
        return
    reward, utility = (rollouts.numbers[name][both] for name in ("reward", "utility"))
    if np.ptp(reward) > 0 and np.allclose(utility, reward, rtol=1e-6, atol=0):
        names = " and ".join(written(columns[name].name) for name in ("reward", "utility"))
        raise DataError(
            f"{names} are the same number in every row, so that neither could be judged by the other and no fall would"
            " show; name another column with --column reward=NAME or --column utility=NAME (--column utility= for none)"
        )


def _check_labels(rollouts: Rollouts, name: str, *, of_prompt: bool) -> None:
    values = rollouts.numbers["label"]
    same = ", the same for every response to its prompt," if of_prompt else ""
    outside = values[np.isfinite(values) & ((values < 0) | (values > 1))]
    if len(outside):
        raise DataError(
            f"{name}: got {outside[0]:g}{same or ','} and a label is a preference in [0, 1]; if it is the right answer,"
            " leave it out with --column label=; if it is a score of the response, say --column utility=NAME --column"
            " label="
        )
