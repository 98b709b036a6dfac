"""Logs of columns with any names and roles: no verdict rests on a reward or a utility that is none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from foresighted.auditing.sources import Log, read_log
from foresighted.store.aliases import ALIASES

SIZE = 2
REWARDS = st.sampled_from(["accuracy_reward", "reward", "score", "helpful", "format", "penalty", "rm", "m1", "length"])
EXTRAS = st.sampled_from(
    ["seconds", "latency", "parsed", "len", "length_penalty", "kl", "tokens", "advantages", "answer", "std", "rating_n"]
)
UTILITIES = st.sampled_from([*ALIASES["utility"], "Gold", "judge", "truth"])
TRUTHS = st.sampled_from(["gold", "label", "rating", "answer", "solution", "ground_truth", "human_label", "gold_score"])


def _advantages(reward: np.ndarray, scale: str) -> np.ndarray:
    groups = reward.reshape(-1, SIZE * 2)
    away = groups - groups.mean(axis=1, keepdims=True)
    by = {"group": groups.std(axis=1, ddof=1, keepdims=True) + 1e-4, "batch": reward.std(ddof=1) + 1e-4, "none": 1.0}
    return np.asarray(away / by[scale], np.float32).reshape(-1)


@st.composite
def trl_logs(draw: st.DrawFn) -> tuple[list[list[dict[str, Any]]], set[str], str | None]:
    """Steps of a TRL log, the columns that paid, and the one that is a utility by its name."""
    names = draw(st.lists(REWARDS, min_size=1, max_size=3, unique=True))
    paid = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))  # the others have weight 0
    gold = draw(st.sampled_from([None, "gold", "true_reward"]))
    extras = draw(st.lists(EXTRAS.filter(lambda name: name not in names), max_size=2, unique=True))
    scale, silent = draw(st.sampled_from(["group", "batch", "none"])), draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    slopes = {name: random.normal() / 5 for name in (*names, *([gold] if gold else []))}
    steps = []
    for step in range(1, 7):
        rows = 6 * SIZE * 2
        values = {name: (slope * step + random.normal(size=rows)).astype(np.float32) for name, slope in slopes.items()}
        for name in paid if len(paid) > 1 and draw(st.booleans()) else ():
            values[name][random.random(rows) < 0.2] = np.nan  # it abstains
        every = np.stack([values[name] for name in paid])
        every[0] = np.where(np.isnan(every).all(axis=0), 0, every[0])
        values[paid[0]] = every[0]
        more = {name: _extra(name, random, rows) for name in extras}
        advantage = np.zeros(rows) if silent else _advantages(np.nansum(every, axis=0), scale)
        steps.append([
            {"step": step, "prompt": f"q{place // (SIZE * 2)}", "completion": f"so {step} {place}",
             **{name: None if np.isnan(own[place]) else float(own[place]) for name, own in values.items()},
             **{name: own[place] for name, own in more.items()}, "advantage": float(advantage[place])}
            for place in range(rows)
        ])  # fmt: skip
    return steps, set(paid), gold


def _extra(name: str, random: np.random.Generator, rows: int) -> Sequence[Any]:
    if name in ("parsed", "answer"):
        return [f"{value}" for value in random.integers(0, 9, rows)]
    values: list[float] = (1000 * random.random(rows)).tolist()
    return values


def _told(columns: Mapping[str, str], ours: str) -> set[str]:
    return set(columns[ours].split("+")) if ours in columns else set()


@given(log=trl_logs())
def test_trl_logs_are_judged_by_what_paid_or_not_at_all(log, tmp_path, tally):
    steps, paid, gold = log
    folder = tmp_path / "completions"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, rows in enumerate(steps, start=1):
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"completions_{number:05d}.parquet")

    names = set(steps[0][0]) - {"step", "prompt", "completion", "advantage", gold}

    def right(read: Log) -> bool:
        columns = read.source.columns
        return (_told(columns, "reward") == paid or len(names) == 1) and _told(columns, "utility") <= {gold}

    tally("audit: TRL columns").call(read_log, folder, {}, right=right)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[dict[str, Any]], set[str], set[str], set[str]]:
    """Rows of another log, and its columns that are the reward, that measure a response, and that measure a prompt."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    reward = draw(st.lists(st.sampled_from([*ALIASES["reward"][:6], "r"]), min_size=1, max_size=2, unique=True))
    utility = draw(st.lists(UTILITIES, max_size=2, unique=True))
    truth = draw(st.lists(TRUTHS.filter(lambda name: name not in utility), max_size=2, unique=True))
    extras = draw(
        st.lists(EXTRAS.filter(lambda name: name not in (*reward, *utility, *truth)), max_size=3, unique=True)
    )
    answers: Callable[[int], Any] = draw(
        st.sampled_from([lambda p: 100 + 13 * p, lambda p: p % 2, lambda p: f"{p * 7}"])
    )
    names = [draw(st.sampled_from(ALIASES[ours][:3])) for ours in ("round", "prompt", "response")]
    rows = []
    for step, prompt, place in itertools.product(range(6), range(8), range(SIZE)):
        row: dict[str, Any] = dict(zip(names, (step, f"q{prompt}", f"so {step} {prompt} {place}"), strict=True))
        row |= {name: float(random.normal() + step / 3) for name in reward}
        row |= {name: float(random.normal() - step / 3) for name in utility}
        row |= {name: answers(prompt) for name in truth}
        row |= {name: float(random.random()) for name in extras}
        rows.append(row)
    return rows, set(reward), set(utility), set(truth)


@given(log=logs(), suffix=st.sampled_from(["jsonl", "csv", "parquet"]))
def test_other_logs_are_judged_by_what_measures_a_response_or_not_at_all(log, suffix, tmp_path, tally):
    rows, reward, utility, truth = log
    path = _write(tmp_path / f"log.{suffix}", rows)

    def right(read: Log) -> bool:
        columns, numbers = read.source.columns, read.training.numbers if read.training else {}
        by = {name for ours in ("utility", "label") if ours in numbers for name in _told(columns, ours)}
        paid = _told(columns, "reward")
        return len(paid) <= 1 and paid <= reward and by <= utility and not by & (truth | paid)

    tally("audit: columns of others").call(read_log, path, {}, right=right)


@given(log=logs(), told=st.data())
def test_exit_codes_of_the_command_are_0_1_or_2(log, told, tmp_path, tally, capsys):
    rows, *_ = log
    names = [*rows[0], "nothing", ""]
    path = _write(tmp_path / "log.jsonl", rows)
    some = st.lists(st.sampled_from(names), min_size=1, max_size=2).map("+".join)
    ours = st.sampled_from(["reward", "utility", "label", "round", "prompt"])
    columns = told.draw(st.dictionaries(ours, some, max_size=2))
    flags = [part for name, theirs in columns.items() for part in ("--column", f"{name}={theirs}")]
    tally("audit: the command").command(["audit", "--quiet", str(path), *flags], capsys, codes=(0, 1))


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, line)) for line in (rows[0], *(row.values() for row in rows))))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
