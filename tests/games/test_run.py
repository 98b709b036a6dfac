from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from foresighted.errors import RunError
from foresighted.games import LINEAR, LinearSettings, run
from foresighted.games.run import Request, sweep
from foresighted.games.summary import run_statistics, summarise

pytestmark = pytest.mark.slow

BASE = LinearSettings(iterations=12, dimension=6)


def request(**change) -> Request:
    return Request(**{"game": LINEAR, "base": BASE, "arms": ("rlhf", "relaxed"), "seeds": (0, 1, 2), **change})


@pytest.fixture
def counted(monkeypatch):
    """Parts of four runs, one at a time; the calls are counted, and the call with the given number fails."""
    calls, real = [], run.play

    def play(game, cells, seeds, on_piece):
        calls.append((cells, seeds))
        if len(calls) == counted_fail[0]:
            raise KeyboardInterrupt
        return real(game, cells, seeds, on_piece)

    counted_fail = [0]
    monkeypatch.setattr(run, "play", play)
    monkeypatch.setattr(run, "ROWS_A_PART", 2 * BASE.iterations)
    return calls, counted_fail


def test_tables_hold_every_run(tmp_path):
    sweep(request(sweep=("action_cost=0,0.1",)), tmp_path)
    table = pq.read_table(tmp_path / "trajectories.parquet")
    expected = ["env", "arm", "gamma", "seed", "action_cost", "iteration", "utility", "proxy_reward", "signal", "noise"]
    assert table.column_names == expected
    assert table.num_rows == 2 * 2 * 3 * 13
    runs = pq.read_table(tmp_path / "runs.parquet")
    assert runs.num_rows == 12
    actions = pq.read_table(tmp_path / "actions.parquet")
    assert len(actions["action"][0]) == 6
    last = table.filter((table_column(table, "iteration") == 12).tolist())
    np.testing.assert_allclose(last["utility"], runs["final_utility"], rtol=1e-6)


def table_column(table, name):
    return np.asarray(table[name])


def test_a_stopped_sweep_goes_on_to_the_same_bits_and_plays_nothing_twice(tmp_path, counted):
    calls, fail = counted
    sweep(request(), tmp_path / "whole", jobs=1)
    whole = len(calls)
    assert whole == 4
    fail[0] = whole + 3
    with pytest.raises(KeyboardInterrupt):
        sweep(request(), tmp_path / "stopped", jobs=1)
    (tmp_path / "stopped" / "parts" / ".half.1").mkdir()  # what a killed process leaves
    fail[0] = 0
    del calls[:]
    sweep(request(), tmp_path / "stopped", resume=True, jobs=1)
    assert 1 <= len(calls) <= 2  # of the last two calls one may have begun before the other failed
    one, two = (pq.read_table(tmp_path / name / "trajectories.parquet") for name in ("whole", "stopped"))
    assert one.equals(two)
    assert not list((tmp_path / "stopped" / "parts").glob(".*"))


def test_a_sweep_grows(tmp_path, counted):
    calls, _ = counted
    sweep(request(arms=("rlhf",)), tmp_path)
    before = pq.read_table(tmp_path / "runs.parquet")
    del calls[:]
    sweep(request(arms=("rlhf", "relaxed"), seeds=(0, 1, 2, 3)), tmp_path, resume=True)
    runs = pq.read_table(tmp_path / "runs.parquet").to_pydict()
    assert sorted(zip(runs["arm"], runs["seed"], strict=True)) == [
        (a, s) for a in ("relaxed", "rlhf") for s in range(4)
    ]
    old = {
        (arm, seed): runs["final_utility"][k]
        for k, (arm, seed) in enumerate(zip(runs["arm"], runs["seed"], strict=True))
    }
    assert before["final_utility"].to_pylist() == [old["rlhf", seed] for seed in before["seed"].to_pylist()]
    sweep(request(arms=("rlhf",), seeds=(1,)), tmp_path, resume=True)
    assert pq.read_table(tmp_path / "runs.parquet").num_rows == 8


def test_directories_that_are_taken(tmp_path):
    sweep(request(), tmp_path / "a")
    with pytest.raises(RunError, match="go on with --resume"):
        sweep(request(), tmp_path / "a")
    with pytest.raises(RunError, match=r"action_cost was 0.1, now 0.2"):
        sweep(request(base=replace(BASE, action_cost=0.2)), tmp_path / "a", resume=True)
    with pytest.raises(RunError, match="another sweep, over nothing"):
        sweep(request(sweep=("gamma=0.1,0.2",)), tmp_path / "a", resume=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no sweep"):
        sweep(request(), tmp_path / "b")
    next((tmp_path / "a" / "parts").glob("0*")).joinpath("runs.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        sweep(request(), tmp_path / "a", resume=True)


def test_statistics_of_a_run():
    utility, proxy = np.array([0.0, 4.0, 2.0, 1.0]), np.array([0.0, 3.0, 3.5, 1.0])
    found = run_statistics(utility, proxy, drop_threshold=1.0)
    assert (found["peak_utility"], found["peak_iteration"], found["drop"]) == (4.0, 1, 3.0)
    assert found["area"] == pytest.approx((2 + 3 + 1.5) / 3)
    assert found["dropped"]
    assert found["collapsed"]
    assert not run_statistics(utility, np.array([0.0, 3.0, 2.9, 1.0]), drop_threshold=1.0)["collapsed"]
    recovered = run_statistics(np.array([0.0, 4.0, 2.0, 3.5]), proxy, drop_threshold=1.0)
    assert not recovered["dropped"]
    assert not recovered["collapsed"]


def test_divergence_is_counted_and_never_averaged_away(tmp_path):
    broken = run_statistics(np.array([0.0, 1.0, np.nan]), np.array([0.0, np.inf, 0.0]), drop_threshold=1.0)
    assert broken["diverged_at"] == 1
    assert not broken["collapsed"]
    sweep(request(base=replace(BASE, policy_step=1e20), arms=("rlhf",)), tmp_path)
    cells = summarise(pq.read_table(tmp_path / "runs.parquet"), (), good_utility=9.0)
    assert cells[0]["diverged"] == {"count": 3, "seeds": [0, 1, 2]}
    assert cells[0]["final_utility"] is None
    assert cells[0]["good"]["count"] == 0
    json.dumps(cells, allow_nan=False)


def test_parts_without_kept_actions_fit_the_tables(tmp_path, monkeypatch):
    """The actions of the lowest seeds alone are kept, so that a part of the others has none."""
    monkeypatch.setattr(run, "ROWS_A_PART", 12)
    monkeypatch.setattr(run, "ACTION_SEEDS", 2)
    swept = {"arms": ("rlhf",), "seeds": (0, 1, 2, 3), "sweep": ("labels_per_round=1,2",)}
    sweep(Request(**swept, game=LINEAR, base=LinearSettings(iterations=6)), tmp_path)
    kept = pq.read_table(tmp_path / "actions.parquet", columns=["seed", "labels_per_round"]).to_pydict()
    assert (set(kept["seed"]), set(kept["labels_per_round"])) == ({0, 1}, {1, 2})
