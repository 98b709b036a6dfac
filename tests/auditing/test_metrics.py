"""Metrics without responses: what is taken as what, the verdict, the parts of the reward, and what is said."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from foresighted.auditing.audit import audit
from foresighted.auditing.result import read_audit, write_audit
from foresighted.auditing.sources import read_log
from foresighted.errors import DataError
from foresighted.integrations.monitoring.monitor import MetricsMonitor
from foresighted.statistics.wording import fall_of_logs


def _rows(logs=60, fall=0.02, slope=0.01, every=1, **more):
    random = np.random.default_rng(0)
    for step in range(logs):
        gold = 0.5 - fall * max(0, step - logs // 2) + random.normal(0, 0.02)
        row = {"step": step, "reward": 0.1 + slope * step + random.normal(0, 0.02)}
        row |= {"rewards/gold/mean": gold} if step % every == 0 else {}
        yield row | {name: value(step) for name, value in more.items()}


def _log(folder, rows):
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": list(rows)}))
    return path


def test_a_trainer_state_is_judged_as_the_monitor_would(tmp_path):
    found = audit(_log(tmp_path, _rows()))
    (arm,) = found.arms
    assert (found.verdict, arm.logs, found.source.format) == ("collapsed", 60, "trainer state")
    assert found.source.columns["reward"] == "reward"
    assert found.source.columns["utility"] == "rewards/gold/mean"
    assert found.source.guessed == ("utility", "reward")
    assert arm.onset.round <= 30 < arm.fall.last <= 44
    assert "rewards/gold/mean fell, from about step" in found.headline
    assert [row.first for row in arm.rounds] == list(range(0, 60, 5))
    assert not any("[interval unknown]" in text for text in found.sentences)
    assert read_audit(write_audit(found, tmp_path)) == found


def test_few_evaluations_are_judged(tmp_path):
    assert audit(_log(tmp_path, _rows(logs=400, fall=0.002, every=25))).verdict == "collapsed"
    assert audit(_log(tmp_path, _rows(logs=400, fall=-0.002, every=25))).verdict == "no collapse seen"
    assert audit(_log(tmp_path, _rows(logs=5))).arms[0].reason.startswith("the trusted metric has 5 logs")


def test_a_reward_that_rises_alone_is_suspicious_and_one_that_does_not_is_not(tmp_path):
    found = audit(_log(tmp_path, _rows(fall=0)))
    assert found.verdict == "suspicious"
    assert "the reward rose by" in found.headline
    assert audit(_log(tmp_path, _rows(fall=0, slope=0))).verdict == "no collapse seen"
    assert audit(_log(tmp_path, _rows(slope=-0.02))).verdict == "no collapse seen"


def test_names_are_told_or_the_candidates_are_listed(tmp_path):
    path = _log(tmp_path, _rows(human_score=lambda n: 1.0 - 0.1 * n, score=lambda n: float(n)))
    with pytest.raises(DataError, match=r"'rewards/gold/mean'.*'human_score'.*--trusted"):
        audit(path)
    found = audit(path, columns={"utility": "human_score", "reward": "score"})
    assert (found.verdict, found.source.guessed) == ("collapsed", ())
    with pytest.raises(DataError, match=r"'human_scor' for --trusted \(did you mean 'human_score'\?\); there are"):
        audit(path, columns={"utility": "human_scor"})
    with pytest.raises(DataError, match="both the reward and the trusted metric"):
        audit(path, columns={"utility": "score", "reward": "score"})
    alone = audit(path, columns={"utility": ""})
    assert alone.verdict == "cannot tell"
    assert "--trusted NAME" in " ".join(alone.sentences)
    assert "'human_score'" in " ".join(alone.sentences)


def test_an_evaluated_metric_goes_with_the_evaluated_reward(tmp_path):
    rows = [*_rows(), *({"step": n, "eval_reward": 0.1 * n, "eval_rewards/gold/mean": 1.0} for n in range(0, 60, 5))]
    rows = [{name: value for name, value in row.items() if name != "rewards/gold/mean"} for row in rows]
    columns = audit(_log(tmp_path, rows)).source.columns
    assert (columns["reward"], columns["utility"]) == ("eval_reward", "eval_rewards/gold/mean")


@pytest.mark.parametrize("apart", [False, True])
def test_a_plain_table_is_judged_too_with_gold_on_lines_of_its_own(apart, tmp_path):
    rows = [{"step": row["step"], "reward": row["reward"], "gold": row["rewards/gold/mean"]} for row in _rows()]
    if apart:
        rows = [{"step": row["step"], name: row[name]} for row in rows for name in ("reward", "gold")]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = audit(tmp_path / "log.jsonl")
    assert (found.verdict, found.arms[0].logs) == ("collapsed", 60)


def test_gold_on_rows_without_a_reward_is_said(tmp_path):
    rows = [{"step": n // 4, "prompt": f"q{n % 4}", name: n / 9} for n in range(32) for name in ("reward", "gold")]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (arm,) = audit(tmp_path / "log.jsonl").arms
    assert "utility is known of 32 rows, with a reward on the same row of 0" in arm.reason


def test_a_part_that_takes_over_the_reward_is_shown_and_moves_no_verdict(tmp_path):
    def parts(takes_over):
        random = np.random.default_rng(0)
        for step in range(60):
            style, right = (0.1 + 0.03 * step if takes_over else 0.5), 0.5
            own = {"style": style + random.normal(0, 0.02), "right": right + random.normal(0, 0.02)}
            row = {f"rewards/{name}/mean": value for name, value in own.items()}
            row |= {f"rewards/{name}/std": max(value, 0.05) for name, value in own.items()}
            yield row | {
                "step": step, "reward": 2 * own["style"] + own["right"], "rewards/gold/mean": random.normal(0.5, 0.1),
                "frac_reward_zero_std": 0.005 * step,
            }  # fmt: skip

    (arm,) = audit(_log(tmp_path, parts(True)), columns={"utility": ""}).arms
    assert arm.verdict == "cannot tell"
    assert [(one.name, round(one.weight, 3), one.of) for one in arm.components] == [
        ("rewards/style/mean", 2, "variance"), ("rewards/right/mean", 1, "variance")
    ]  # fmt: skip
    assert math.isclose(sum(one.shares[-1].mean for one in arm.components), 1)
    assert [one.what for one in arm.symptoms if one.alarming] == ["rewards/style/mean: share in the reward's variance"]
    assert arm.rounds[-1].idle.mean == pytest.approx(0.285)
    (calm,) = audit(_log(tmp_path, parts(False))).arms
    assert not any(one.alarming for one in calm.symptoms)


def test_runs_of_one_directory_share_the_chance_of_a_false_alarm(tmp_path):
    for name, fall in (("a", 0.02), ("b", -0.02)):
        lines = ["step,train/reward,train/gold"]
        lines += [f"{row['step']},{row['reward']},{row['rewards/gold/mean']}" for row in _rows(fall=fall, slope=0.002)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    found = audit(tmp_path)
    assert [(arm.label, arm.verdict) for arm in found.arms] == [("a", "collapsed"), ("b", "no collapse seen")]
    assert "(1 of 2 arms: a)" in found.headline


def test_a_trusted_metric_that_is_the_reward_tells_nothing(tmp_path):
    rows = [{"step": n, "reward": n % 7, "gold": n % 7} for n in range(40)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = audit(tmp_path / "log.jsonl")
    assert (found.verdict, "is the reward, number for number" in found.headline) == ("cannot tell", True)
    assert found.look_at == ()  # there are no words


def test_a_folder_of_trackio_is_read_in_either_form_and_in_both(tmp_path):
    written = Path(__file__).parents[1] / "data" / "trackers"
    (run,) = read_log(written / "trackio_parquet", {}).runs
    assert (run.label, len(run.reward), len(run.trusted)) == ("grpo-a", 40, 40)
    for folder in ("trackio", "trackio_parquet"):
        shutil.copytree(written / folder, tmp_path, dirs_exist_ok=True)
    log = read_log(tmp_path, {})
    assert (log.source.format, log.source.metrics) == (
        "trackio database", ("train/reward", "train/rewards/gold/mean", "train/kl")
    )  # fmt: skip
    assert read_log(tmp_path / "loop.parquet", {}).source.format == "trackio export"


@pytest.mark.parametrize("every", [1, 4])
def test_the_monitor_says_the_same_at_the_same_step(every, tmp_path):
    for seed in range(6):
        random = np.random.default_rng(seed)
        fall = (0, 0.5, 9)[seed % 3] * np.clip((np.arange(80) - 40) / 20, 0, 1)
        gold, reward = random.normal(0, 1, 80) - fall, random.normal(0, 1, 80) + 0.05 * np.arange(80)
        rows = [{"step": n, "reward": reward[n]} for n in range(80)]
        rows += [{"step": n, "rewards/gold/mean": gold[n]} for n in range(0, 80, every)]
        rows.sort(key=lambda row: row["step"])
        monitor = MetricsMonitor("rewards/gold/mean", "reward")
        for row in rows:
            monitor.log(row["step"], row)
        (arm,) = audit(_log(tmp_path, rows)).arms
        assert (arm.verdict == "collapsed") == (monitor.verdict is not None) == (seed % 3 == 2), seed
        if monitor.verdict:
            assert (monitor.verdict.step, monitor.verdict.reason) == (arm.fall.last, said_of(arm))


def said_of(arm):
    return fall_of_logs(arm.fall, "rewards/gold/mean", "reward")


def test_a_value_that_is_no_number_is_refused_where_it_is_judged_and_passed_over_elsewhere(tmp_path):
    rows = [row | {"note": "a text"} for row in _rows()]
    assert audit(_log(tmp_path, rows)).verdict == "collapsed"
    for name in ("reward", "rewards/gold/mean"):
        wrong = [row | {name: "abc" if row["step"] == 7 else row[name]} for row in rows]
        with pytest.raises(DataError, match=f"{name} at step 7 of .* is 'abc', expected a number"):
            audit(_log(tmp_path, wrong))
    gone = [row | {"reward": (None, "", "NaN", math.nan)[row["step"] % 4]} if row["step"] > 50 else row for row in rows]
    assert audit(_log(tmp_path, gone)).verdict == "collapsed"
