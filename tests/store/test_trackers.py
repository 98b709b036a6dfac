"""Every tracker's own file, made by its own writer (tests/data/trackers/make.py), and what is damaged."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from pathlib import Path

import pytest

from foresighted.errors import DataError
from foresighted.store.trackers.find import find_metrics
from foresighted.store.trackers.wire import fields

WRITTEN = Path(__file__).parents[1] / "data" / "trackers"
NAMES = {"train/reward", "train/rewards/gold/mean", "train/kl"}


def _expected(name, step):
    fall = max(0, step - 20) * 0.02
    return {
        "train/reward": 0.1 + 0.01 * step + 0.02 * math.sin(7 * step),
        "train/rewards/gold/mean": 0.5 - fall + 0.02 * math.sin(5 * step),
        "train/kl": 0.001 * step,
    }[name]


def _check(found, format, run="grpo-a"):
    (one,) = found.runs
    assert (found.format, one.name) == (format, run)
    assert one.metrics.keys() == NAMES
    for name, values in one.metrics.items():
        assert list(values) == list(range(1, 41))
        for step, value in values.items():
            assert value == pytest.approx(_expected(name, step), abs=1e-6)  # TensorBoard keeps single precision


@pytest.mark.parametrize(
    ("folder", "format"),
    [
        ("wandb", "W&B run files"), ("trackio", "trackio database"), ("mlruns", "MLflow metric files"),
        ("tensorboard", "TensorBoard events"), ("tensorboard/grpo-a", "TensorBoard events"),
    ],
)  # fmt: skip
def test_a_directory_of_a_tracker_is_read(folder, format):
    _check(find_metrics(WRITTEN / folder), format)


def test_a_database_of_mlflow_is_read(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(gzip.decompress((WRITTEN / "mlflow.db.gz").read_bytes()))
    _check(find_metrics(tmp_path), "MLflow database")


@pytest.mark.parametrize("pattern", ["wandb/*/*.wandb", "tensorboard/*/*", "trackio/*.db"])
def test_what_is_being_written_is_read_up_to_there_and_damage_is_named(pattern, tmp_path):
    (file,) = WRITTEN.glob(pattern)
    data = file.read_bytes()
    if file.suffix != ".db":
        (tmp_path / file.name).write_bytes(data[: len(data) // 2])
        (run,) = find_metrics(tmp_path).runs
        assert 5 < len(run.metrics["train/reward"]) < 40
    damaged = data[:30] + bytes(255 - byte for byte in data[30:])
    (tmp_path / file.name).write_bytes(damaged)
    with pytest.raises(DataError, match=file.name):
        find_metrics(tmp_path / file.name)


def test_a_file_that_only_its_name_calls_events_is_named(tmp_path):
    (tmp_path / "events.out.tfevents.1.x").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"no TensorBoard events, or damaged \(checksum"):
        find_metrics(tmp_path)


def test_an_sqlite_database_of_something_else_is_named(tmp_path):
    import sqlite3

    base = sqlite3.connect(tmp_path / "other.db")
    base.execute("CREATE TABLE metrics (x)")
    base.commit()
    base.close()
    with pytest.raises(DataError, match="of neither trackio nor MLflow"):
        find_metrics(tmp_path / "other.db")


def _text(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_console_logs_of_engines(tmp_path):
    path = _text(
        tmp_path / "verl.log",
        "WARNING something",
        "\x1b[36m(TaskRunner pid=7)\x1b[0m step:1 - critic/score/mean:0.25 - val-core/gsm8k/acc/mean@1:np.float64(0.5)",
        "(TaskRunner pid=7) step:2 - critic/score/mean:-1.5e-01 - actor/ppo_kl:nan",
        "step:3 - critic/score/mean:0.7",
    )
    (run,) = find_metrics(path).runs
    assert run.metrics == {
        "critic/score/mean": {1: 0.25, 2: -0.15, 3: 0.7}, "val-core/gsm8k/acc/mean@1": {1: 0.5},
    }  # fmt: skip
    path = _text(
        tmp_path / "ppo.out",
        *(f"INFO 11-27 ✨ Global step {n}: {{'reward': {n}.5, 'kl': 1e-05, 'text': 'x'}}" for n in (1, 2)),
    )
    (run,) = find_metrics(path).runs
    assert run.metrics == {"reward": {1: 1.5, 2: 2.5}, "kl": {1: 1e-5, 2: 1e-5}}
    assert find_metrics(_text(tmp_path / "plain.log", "step: nothing of the kind")) is None


def test_rows_of_metrics(tmp_path):
    verl = [json.dumps({"step": n, "data": {"critic/score/mean": n / 2}}) for n in (1, 2)]
    assert find_metrics(_text(tmp_path / "a.jsonl", *verl)).runs[0].metrics == {"critic/score/mean": {1: 0.5, 2: 1.0}}
    chart = '"Step","run-a - train/reward","run-a - train/reward__MIN","run - b - train/reward"'
    runs = find_metrics(_text(tmp_path / "b.csv", chart, '"0","1","1",""', '"10","2","2","4"')).runs
    assert {run.name: run.metrics["train/reward"] for run in runs} == {"run-a": {0: 1, 10: 2}, "run - b": {10: 4}}
    long = find_metrics(
        _text(tmp_path / "c.csv", "Run,metric,step,value", "x,gold,1,0.5", "x,gold,2,NaN", "y,gold,1,3")
    )
    assert {run.name: run.metrics for run in long.runs} == {"x": {"gold": {1: 0.5}}, "y": {"gold": {1: 3.0}}}
    history = _text(tmp_path / "d.csv", "_step,train/global_step,train/reward,eval/gold", "0,10,1,", "1,10,,0.5")
    assert find_metrics(history).runs[0].metrics == {"train/reward": {10: 1.0}, "eval/gold": {10: 0.5}}


def test_runs_and_seeds_in_one_table_are_apart_and_what_is_logged_twice_is_said(tmp_path):
    rows = [{"run": run, "seed": seed, "step": 1, "a/b": run + seed} for run in (1, 2) for seed in (0, 1)]
    found = find_metrics(_text(tmp_path / "a.jsonl", *map(json.dumps, rows)))
    assert {run.name: run.metrics for run in found.runs} == {
        f"{run}, seed {seed}": {"a/b": {1: run + seed}} for run in (1, 2) for seed in (0, 1)
    }
    assert not found.remarks
    rows = [{"step": n % 3, "a/b": n, "a/big": 1e200} for n in range(5)]
    found = find_metrics(_text(tmp_path / "b.jsonl", *map(json.dumps, rows)))
    assert found.runs[0].metrics == {"a/b": {0: 3, 1: 4, 2: 2}}
    assert found.remarks[0].startswith("2 values were logged again at a step that had one")


def test_a_trainer_that_has_logged_nothing_has_no_metrics(tmp_path):
    path = _text(tmp_path / "trainer_state.json", json.dumps({"global_step": 5, "max_steps": 9, "log_history": []}))
    assert find_metrics(path).runs == ()


@pytest.mark.parametrize("row", [{"step": 1, "prompt": "q", "a/b": 1}, {"step": 1, "reward": 2}, {"x/y": 1}])
def test_other_tables_are_left_to_others(row, tmp_path):
    assert find_metrics(_text(tmp_path / "a.jsonl", json.dumps(row))) is None


def test_of_several_checkpoints_the_latest_state_is_read(tmp_path):
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        state = {"log_history": [{"step": n, "reward": n} for n in range(step)]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    shutil.copytree(tmp_path / "checkpoint-5", tmp_path / "checkpoint-5-copy")
    (run,) = find_metrics(tmp_path).runs
    assert (run.name, len(run.metrics["reward"])) == (tmp_path.name, 10)


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05ab", b"\x0b", b"\xff" * 12])
def test_bytes_that_are_no_message_are_refused(message):
    with pytest.raises(ValueError, match=r"cut|wire type"):
        list(fields(message))
