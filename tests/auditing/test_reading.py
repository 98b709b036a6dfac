"""Every format gives the same rows; what cannot be read is named with its line."""

from __future__ import annotations

import csv
import gzip
import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from foresighted.auditing.sources import read_log
from foresighted.errors import ConfigError, DataError
from foresighted.store import logs as reading
from foresighted.store.columns import find_columns
from foresighted.store.logs import Part, peek, read_tables

ROWS = [
    {"step": step, "prompt": f"q{p}", "completion": f'say "{p}",\nover {step} ü', "reward": p / 4 - step, "gold": None}
    for step in range(3)
    for p in range(5)
]
ROWS[4]["gold"] = 0.25


def _jsonl(path: Path, rows=ROWS) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def _csv(path: Path, rows=ROWS, delimiter: str = ",") -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _parquet(path: Path, rows=ROWS) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def _rows(path: Path, **columns: str):
    log = read_log(path, columns)
    rollouts = log.training
    texts = rollouts.texts(np.arange(len(rollouts)))
    prompts = [rollouts.prompts[code] for code in rollouts.prompt]
    numbers = {name: values.tolist() for name, values in sorted(rollouts.numbers.items())}
    return rollouts.round.tolist(), prompts, texts, numbers


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("log.csv", _csv),
        ("log.csv.gz", _csv),
        ("log.parquet", _parquet),
        ("log.jsonl.gz", _jsonl),
        ("log.ndjson", _jsonl),
        ("log.tsv", lambda path: _csv(path, delimiter="\t")),
    ],
)
def test_formats_agree(tmp_path, name, write):
    expected = _rows(_jsonl(tmp_path / "log.jsonl"))
    got = _rows(write(tmp_path / name))
    assert got[:3] == expected[:3]
    np.testing.assert_array_equal(got[3]["reward"], [row["reward"] for row in ROWS])
    np.testing.assert_array_equal(got[3]["utility"], expected[3]["utility"])
    assert got[3]["utility"][4] == 0.25


MIXED = [
    {"round": 1, "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "response": "x",
     "scores": {"rm": 1, "other": [1, "2"]}, "label": True, "seed": 7, "arm": "x", "gamma": 0.5},
    {"round": 2, "prompt": [{"role": "user", "content": "c"}], "response": None, "scores": {"rm": 2.5}, "label": False,
     "seed": 8},
    {"round": 3, "prompt": [], "response": "z", "scores": {"rm": None}, "label": None, "seed": 7},
]  # fmt: skip


def test_fast_blocks_equal_slow_ones(tmp_path, monkeypatch):
    path = _jsonl(tmp_path / "log.jsonl", MIXED)
    part = Part(path, "log")
    told = {"reward": "scores.rm", "run": "arm+gamma"}
    columns, _ = find_columns(peek(part), told, "log", file_name="log")
    ((fast, rows),) = read_tables(part, columns)
    monkeypatch.setattr(reading, "LONGEST_LINE", 20)
    ((slow, count),) = read_tables(part, columns)
    assert rows == count == 3
    assert fast.keys() == slow.keys()
    for name in fast:
        np.testing.assert_array_equal(fast[name].to_pylist(), slow[name].to_pylist(), name)
    assert fast["prompt"].to_pylist() == ["a\nb", "c", ""]
    assert fast["seed"].to_pylist() == ["7", "8", "7"]
    assert fast["run"].to_pylist() == ["x 0.5", " ", " "]


def test_values_that_arrow_refuses_are_read_line_by_line(tmp_path):
    lines = ['{"round": 0, "reward": "1.5", "prompt": "a\\ud800"}', '{"round": 1, "reward": 2, "prompt": 3}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"round": 2, "rew')
    rounds, prompts, _, numbers = _rows(tmp_path / "log.jsonl", reward="reward")
    assert rounds == [0, 1]  # the torn last line is left out
    assert prompts == ["a?", "3"]
    assert numbers["reward"] == [1.5, 2.0]


def test_blocks_are_cut_at_lines(tmp_path, monkeypatch):
    path = _jsonl(tmp_path / "log.jsonl")
    expected = _rows(path)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100)
    got = _rows(path)
    assert got[:3] == expected[:3]
    np.testing.assert_array_equal(got[3]["reward"], expected[3]["reward"])


def test_very_long_lines_are_read(tmp_path):
    rows = [{"round": 1, "reward": 1.0, "text": "x" * (6 << 20)}, {"round": 2, "reward": 2.0, "text": "y"}]
    rounds, _, texts, _ = _rows(_jsonl(tmp_path / "log.jsonl", rows))
    assert rounds == [1, 2]
    assert [len(text) for text in texts] == [6 << 20, 1]


def test_sums_guesses_and_dropped_columns(tmp_path):
    rows = [{"step": 1, "a": 1.0, "b": 0.5, "label": 1}, {"step": 2, "a": 2.0, "b": None, "label": 0}]
    path = _jsonl(tmp_path / "x.jsonl", rows)
    log = read_log(path, {"reward": "a+b", "label": ""})
    np.testing.assert_array_equal(log.training.numbers["reward"], [1.5, math.nan])
    assert log.source.guessed == ("round",)
    assert "label" not in log.training.numbers
    assert log.training.known("label").sum() == 0


ROW = '{"round": 1, "reward": 1}\n'


def _said(path: Path, **columns: str) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        read_log(path, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", ROW + '{"round": 2, "rew\n' + ROW, "a.jsonl, line 2: not a JSON object"),
        ("b.jsonl", ROW + "\n[1]\n" + ROW, "b.jsonl, line 3: not a JSON object"),
        ("c.jsonl", ROW * 300 + '{"round": 1, "reward": "high"}\n',
         "c.jsonl, line 301: reward is 'high', expected a number"),
        ("d.json", '[{"round": 1}]', "d.json: no column tells the reward; it has 'round'"),
        ("e.csv", "round,reward\n1,2\n1,2,3\n", "e.csv, line 3: has 3 fields, the header has 2"),
        ("f.csv", "round,reward\n" + "1,2\n" * 300 + "1,high\n", "line 302: reward is 'high', expected a number"),
        ("g.csv", "round,reward\n1,\xff\n", "g.csv"),
        ("h.parquet", "PAR1" + "round,reward\n1,2\n" * 9, "h.parquet cannot be read"),
        ("i.jsonl", "", "holds no row"),
        ("j.csv", "", "holds no row"),
        ("k.txt", "hello", "k.txt: text, no table; expected JSON lines"),
        ("l.csv.gz", "\x1f\x8b\x08\x00round,reward\n1,2\n", "cannot be read"),
        ("m.jsonl", '{"prompt": "a", "scor": 1}\n', "--column round=NAME --column reward=scor"),
    ],
)  # fmt: skip
def test_bad_files_are_named_in_one_line(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    assert words in _said(path)


GOOD = [{"round": i % 3, "prompt": f"q{i}", "reward": i / 2, "utility": 1.0} for i in range(9)]


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "log.parquet"])
@pytest.mark.parametrize("column", ["round", "reward", "utility"])
def test_one_bad_value_among_the_first_rows_is_named_not_passed_over(tmp_path, name, column):
    rows = [row | {column: "abc" if i == 4 else str(row[column])} for i, row in enumerate(GOOD)]
    write = {"log.jsonl": _jsonl, "log.csv": _csv, "log.parquet": _parquet}[name]
    place = {"log.jsonl": "line 5", "log.csv": "line 6", "log.parquet": "row 5"}[name]
    said = _said(write(tmp_path / name, rows))
    assert f"{name}, {place}: {column} is 'abc', expected a number; mend it" in said
    assert f"--column {column}=NAME" in said


def test_a_bad_value_among_bare_numbers_is_named(tmp_path):
    rows = [row | ({"reward": [1, 2]} if i == 4 else {}) for i, row in enumerate(GOOD)]
    assert "line 5: reward is [1, 2], expected a number" in _said(_jsonl(tmp_path / "log.jsonl", rows))
    assert "line 1: utility is 'good'" in _said(_jsonl(tmp_path / "t.jsonl", [GOOD[0] | {"utility": "good"}]))
    said = _said(_parquet(tmp_path / "log.parquet", [row | {"reward": {"a": 1.0}} for row in GOOD]))
    assert "reward holds several values; say which one is the reward, for example --column reward=reward.a" in said
    rows = [row | {"reward": [1.0]} for row in GOOD]
    assert "row 1: reward is [1.0], expected a number" in _said(_parquet(tmp_path / "list.parquet", rows))


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "log.parquet"])
def test_numbers_in_quotes_and_absent_ones_are_read(tmp_path, name):
    rows = [row | {"reward": "N/A" if i == 2 else f" {row['reward']}"} for i, row in enumerate(GOOD)]
    _, _, _, numbers = _rows(
        {"log.jsonl": _jsonl, "log.csv": _csv, "log.parquet": _parquet}[name](tmp_path / name, rows)
    )
    np.testing.assert_array_equal(numbers["reward"], [0.0, 0.5, math.nan, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])


def test_decimals_are_numbers(tmp_path):
    rows = [row | {"reward": Decimal("1.25")} for row in GOOD]
    assert _rows(_parquet(tmp_path / "log.parquet", rows))[3]["reward"] == [1.25] * 9


def test_a_text_column_with_the_name_of_an_extra_is_passed_over(tmp_path):
    rows = [row | {"tokens": ["a", "b"], "kl": "low"} for row in GOOD]
    assert set(_rows(_jsonl(tmp_path / "log.jsonl", rows))[3]) == {"reward", "utility"}


def test_a_damaged_archive_is_named(tmp_path):
    data = bytearray(gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD * 50).encode()))
    data[40:60] = bytes(range(100, 120))
    (tmp_path / "log.jsonl.gz").write_bytes(data)
    assert "log.jsonl.gz cannot be read (" in _said(tmp_path / "log.jsonl.gz")


def test_bytes_and_dates_are_read_as_text(tmp_path):
    prompts = pa.array([{"at": date(2024, 1, 2)}, {"at": None}])
    table = pa.table({"round": [1, 2], "reward": [1.0, 2.0], "response": [b"\xffab", b"c"], "prompt": prompts})
    parquet.write_table(table, tmp_path / "log.parquet")
    _, prompts, texts, _ = _rows(tmp_path / "log.parquet")
    assert prompts == ['{"at": "2024-01-02"}', '{"at": null}']
    assert texts == ["\ufffdab", "c"]


def test_columns_that_are_not_there(tmp_path):
    path = _jsonl(tmp_path / "log.jsonl")
    said = _said(path, reward="rewards.rm")
    assert "no column 'rewards.rm' (did you mean 'reward'?)" in said
    assert "it has 'step', 'prompt'" in said
    assert "'rewad' is not one of round, reward" in _said(path, rewad="reward")


def test_directories_of_parts(tmp_path):
    dump = tmp_path / "dump"
    dump.mkdir()
    for step in (9, 10):
        rows = [{"input": f"user\n{p}", "output": "x", "gts": "1", "score": p, "step": step} for p in range(3)]
        _jsonl(dump / f"{step}.jsonl", rows)
    log = read_log(dump, {})
    assert (log.source.format, log.source.files) == ("verl rollout dump", 2)
    assert log.source.columns == {"round": "step", "prompt": "input", "response": "output", "reward": "score"}
    assert log.training.round.tolist() == [9] * 3 + [10] * 3
    (tmp_path / "iterations").mkdir()
    for step in (1, 2):  # OpenRLHF's batch inference: one file an iteration, no column tells which
        _jsonl(tmp_path / "iterations" / f"iter_{step}.jsonl", [{"input": "a", "output": "b", "reward": 0.5}])
    log = read_log(tmp_path / "iterations", {})
    assert log.training.round.tolist() == [1, 2]
    assert log.source.columns["round"] == "file name"


def test_mixed_directories(tmp_path):
    _jsonl(tmp_path / "a.jsonl")
    _csv(tmp_path / "b.csv")
    said = _said(tmp_path)
    assert "mixes files of different kinds: b.csv (CSV), a.jsonl (JSONL)" in said
    (tmp_path / "b.csv").unlink()
    _jsonl(tmp_path / "b.jsonl", [{"step": 1, "prompt": "a", "gold": 1.0}])
    assert "b.jsonl: its columns differ from those of a.jsonl (reward in one of them only)" in _said(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no .jsonl, .csv or .parquet file" in _said(tmp_path / "empty")
    assert "no such file" in _said(tmp_path / "nowhere")


def test_rows_without_a_round_are_counted(tmp_path):
    path = _jsonl(tmp_path / "log.jsonl", [{"round": 1, "reward": 1.0}, {"round": None, "reward": 2.0}])
    log = read_log(path, {})
    assert len(log.training) == 1
    assert log.source.remarks[0] == "1 rows have no round and were left out."


def test_rounds_are_whole_numbers_and_endless_values_are_unknown(tmp_path):
    path = _jsonl(tmp_path / "log.jsonl", [{"round": 0.5, "reward": 1.0}])
    said = "expected whole numbers from 0 on; name another column with --column round=NAME"
    assert _said(path) == f"round: got 0.5, {said}"
    assert _said(_jsonl(path, [{"round": -5, "reward": 1.0}])) == f"round: got -5, {said}"
    with pytest.raises(DataError, match="no row has a round; name the column"):
        read_log(_parquet(tmp_path / "nan.parquet", [{"round": math.nan, "reward": 1.0}]), {})
    path = _jsonl(tmp_path / "log.jsonl", [{"round": 1, "reward": 1e300}, {"round": 1, "reward": math.inf}, ROWS[0]])
    assert np.isnan(read_log(path, {"round": "round"}).training.numbers.get("reward", np.nan)).all()


def test_trl_completion_logs(tmp_path):
    """The columns that TRL's GRPO and RLOO trainers write with `log_completions`."""
    folder = tmp_path / "out" / "completions"
    folder.mkdir(parents=True)
    for step in (2, 10):
        message = [{"role": "user", "content": f"Why {step}?"}]
        rows = [
            {"step": step, "prompt": message, "completion": [{"role": "assistant", "content": f"so {i}"}],
             "helpful": i / 2, "polite": 1.0 + i, "gold": -i / 2, "advantage": 0.0}
            for i in range(2)
        ]  # fmt: skip
        _parquet(folder / f"completions_{step:05d}.parquet", rows)
    with pytest.raises(DataError, match=r"'helpful', 'polite' may each be .* --column reward=helpful\+polite"):
        read_log(tmp_path / "out", {})
    log = read_log(tmp_path / "out", {"reward": "helpful+polite"})
    assert log.source.format == "TRL completion logs"
    assert log.source.columns["utility"] == "gold"
    assert log.training.numbers["reward"].tolist() == [1.0, 2.5, 1.0, 2.5]
    assert [log.training.prompts[code] for code in log.training.prompt] == ["Why 2?"] * 2 + ["Why 10?"] * 2
    assert log.training.texts(np.array([3])) == ["so 1"]


def test_a_line_without_end_is_named_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("foresighted.store.formats.LONGEST_LINE", 32 << 20)
    path = tmp_path / "log.jsonl"
    row = {"round": 1, "prompt": "q", "response": "r", "reward": 1.0, "utility": 2.0}
    path.write_text((json.dumps(row) + "\n") * 2000 + '{"prompt": "' + "x" * (40 << 20))
    with pytest.raises(DataError, match="line 2001: more than 32 MiB long"):
        read_log(path, {})
