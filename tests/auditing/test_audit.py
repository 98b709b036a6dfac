"""Whole audits: what is said of loops whose truth is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from foresighted.auditing.audit import audit
from foresighted.errors import ConfigError, DataError
from foresighted.statistics.collapse import Reason
from foresighted.store import records
from foresighted.store.directory import arm_directory
from foresighted.store.rows import append


def test_a_collapse(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING))
    assert result.verdict == "collapsed"
    assert result.headline.startswith("COLLAPSED: the answers got worse, from about round 30 on, while")
    (arm,) = result.arms
    assert (arm.measured_by, arm.paired, arm.seeds) == ("utility", True, ("0",))
    assert arm.fall.corrected
    assert 20 <= arm.onset.low <= 30 <= arm.onset.high
    assert [(row.first, row.last) for row in arm.rounds] == [(t, t) for t in range(0, 70, 10)]
    assert arm.rounds[-1].utility.mean < arm.rounds[0].utility.mean
    assert arm.rounds[-1].gap.low > 0
    assert {kind.kind for kind in arm.kinds} == {"a", "b"}
    assert len(result.look_at) == 20
    assert result.look_at[0].round == 60
    assert result.labels_needed is None


def test_health(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", logs.RISING))
    assert result.verdict == "no collapse seen"
    assert result.arms[0].onset is None
    assert not result.collapsed


def test_reward_that_falls_too_is_no_collapse(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING, gain=-0.5))
    assert result.verdict == "no collapse seen"
    assert result.arms[0].reason.startswith("the answers got worse, but the reward fell with them")


def test_without_labels_it_cannot_tell_and_asks_for_labels(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING, told=()))
    assert result.verdict == "cannot tell"
    assert result.arms[0].measured_by is None
    assert result.labels_needed.what == "comparisons"
    assert result.labels_needed.labels == 101
    assert "side by side" in result.sentences[-1]
    more = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING, told=()), power=0.95)
    assert more.labels_needed.labels > 101


def test_decay_without_labels_is_suspicious_never_collapsed(logs, tmp_path):
    decayed = lambda place, prompt: f"{prompt} a b c d e f g h" if place < 40 else "so and " * 8  # noqa: E731
    result = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING, told=(), gain=0.5, text=decayed))
    assert result.verdict == "suspicious"
    assert "reward, distinct word pairs, like openings moved" in result.arms[0].reason
    seen = next(sentence for sentence in result.sentences if "Seen without labels" in sentence)
    assert "distinct word pairs in a response's first 64 words (share) -" in seen
    assert "distinct_2" not in " ".join((result.headline, *result.sentences))
    assert "no proof" in result.headline


def test_a_fall_without_reward_is_suspicious(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING, reward=False))
    assert result.verdict == "suspicious"
    assert "no reward tells" in result.arms[0].reason
    assert result.labels_needed is None  # more of them would not settle it
    assert result.sentences[-1].startswith("To settle it: record, with each response, the reward")


def test_few_labels_without_reward_want_both(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", (0.0, 0.1), reward=False, prompts=4, noise=3.0))
    assert result.verdict == "cannot tell"
    assert result.labels_needed.what == "ratings"
    assert result.sentences[-2].startswith("To settle it: record")
    assert result.sentences[-1].startswith("To settle it: rate the responses")


def test_a_reward_that_falls_later_is_told_with_the_collapse(logs, tmp_path):
    path = logs.write(tmp_path / "log.jsonl", (*logs.FALLING, -3.0))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["reward"] -= 3.0 * (row["round"] == 70)
    _save(path, rows)
    result = audit(path)
    (arm,) = result.arms
    assert result.verdict == "collapsed"
    assert (arm.fall.last, arm.to_last.last, arm.to_last.reason) == (60, 70, Reason.PROXY_FELL)
    assert result.headline.endswith("while the reward that the loop follows did not fall until round 60.")
    late = next(sentence for sentence in result.sentences if sentence.startswith("By round 70"))
    assert "proxy reward then fell too (it changed by -2.74 [-2.93, -2.54])" in late
    assert audit(logs.write(path, logs.FALLING)).arms[0].to_last is None


def test_what_was_left_out_is_said(logs, tmp_path):
    path = logs.write(tmp_path / "log.jsonl", logs.FALLING)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["reward"], rows[50]["reward"] = math.inf, -1e308
    _save(path, rows)
    assert audit(path).source.remarks == ("log: rewards absent, not finite or beyond 1e+100, and left out: 2 of 280.",)
    for row in rows:
        row["utility"] = math.nan if row["round"] == 60 else row["utility"]
    rows[0]["utility"] = None
    _save(path, rows)
    remarks = audit(path).source.remarks
    assert remarks[0].endswith("left out: 2 of 280.")
    assert (
        "utilities absent, not finite or beyond 1e+100, and left out: 41 of 280, most of them here: 1 of 40 of round 0"
        in remarks[1]
    )
    assert "40 of 40 of round 60" in remarks[1]
    for row in rows:
        row["utility"] = math.nan
    _save(path, rows)
    result = audit(path)
    assert "The column utility holds no finite number up to 1e+100: it tells no utility." in result.sentences


def _save(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_our_records_are_never_guessed(logs, tmp_path):
    """A bad utility in held-out answers is an error; it must not turn the audit to the labels of candidates."""
    _run(logs, tmp_path / "run", logs.FALLING, "rlhf")
    file = tmp_path / "run" / records.HELDOUT
    lines = file.read_text().splitlines()
    row = json.loads(lines[4]) | {"utility": "x"}
    file.write_text("\n".join([*lines[:4], json.dumps(row), *lines[5:]]) + "\n")
    with pytest.raises(DataError, match=r"line 5: utility is 'x', expected a number"):
        audit(tmp_path / "run")
    row = json.loads(lines[0]) | {"score": 1.0}
    file.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    assert audit(tmp_path / "run", columns={"reward": ""}).arms[0].fall.reward_change is None


def test_labels_stand_for_utility_and_must_be_preferences(logs, tmp_path):
    path = logs.write(tmp_path / "log.jsonl", logs.FALLING, prompts=200)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["label"] = 1 / (1 + math.exp(-row.pop("utility")))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = audit(path)
    assert (result.verdict, result.arms[0].measured_by) == ("collapsed", "label")
    assert "No utility is recorded; the mean label stands for it." in result.sentences
    rows[0]["label"] = 7
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"label: got 7, and a label is a preference in \[0, 1\]"):
        audit(path)


def test_one_round_cannot_tell(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", (0.0,)))
    assert result.verdict == "cannot tell"
    assert "one round only" in result.headline
    assert result.arms[0].symptoms == ()


def test_prompts_that_differ_are_compared_unpaired_and_it_says_so(logs, tmp_path):
    path = logs.write(tmp_path / "log.jsonl", logs.FALLING, prompts=100)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(lines):
        row["prompt"] = f"Question {number}?"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    result = audit(path)
    assert (result.verdict, result.arms[0].paired) == ("collapsed", False)
    assert any("Prompts differ from round to round" in sentence for sentence in result.sentences)


def test_several_seeds_are_judged_together_and_alone(logs, tmp_path):
    result = audit(logs.write(tmp_path / "log.jsonl", logs.FALLING, seeds=3))
    (arm,) = result.arms
    assert arm.seeds == ("0", "1", "2")
    assert [fall.seed for fall in arm.seed_falls] == ["0", "1", "2"]
    assert arm.fall.family == 4
    assert arm.fall.fall.seeds == 3
    assert any("4 runs and means" in sentence for sentence in result.sentences)


def _run(logs, directory: Path, utility: tuple[float, ...], label: str, seed: int = 0) -> None:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(f"steering: {label}\nseed: {seed}\nrounds: 60\n")
    logs.write(directory / "log.jsonl", utility, seed=seed)
    rows = []
    for line in (directory / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows.append(
            records.HeldoutRow(
                row["round"], row["prompt"], row["prompt"], row["kind"], row["response"], 9, row["reward"],
                row["utility"], 0.1, 1.0, 1.0,
            )
        )  # fmt: skip
    (directory / "log.jsonl").unlink()
    append(directory / records.HELDOUT, rows)


def test_a_comparison_of_ours_agrees_with_its_report(logs, tmp_path):
    from foresighted.alignment.comparison import summarise

    out = tmp_path / "out"
    for arm, utility in (("rlhf", logs.FALLING), ("practical", logs.RISING)):
        for seed in (0, 1):
            _run(logs, arm_directory(out, arm, seed), utility, arm, seed)
    (out / "config.yaml").write_text("arms: [rlhf, practical]\nseeds: [0, 1]\nrounds: 60\n")
    result = audit(out)
    assert result.source.format == "comparison"
    assert result.source.guessed == ()
    summary = summarise(out)
    for arm, theirs in zip(result.arms, summary.arms, strict=True):
        assert (arm.fall, arm.to_last, arm.seed_falls) == (theirs.collapse, theirs.to_last, theirs.seed_collapses)
    assert [arm.verdict for arm in result.arms] == ["collapsed", "no collapse seen"]
    assert result.headline.startswith("COLLAPSED (1 of 2 arms: rlhf)")


def test_the_directory_of_a_trl_trainer_with_our_callback(logs, tmp_path):
    _run(logs, tmp_path / "trainer" / "foresighted", logs.FALLING, "rlhf")
    (tmp_path / "trainer" / "foresighted" / "config.yaml").unlink()
    result = audit(tmp_path / "trainer")
    assert (result.source.format, result.arms[0].label, result.verdict) == ("run", "trainer", "collapsed")


def test_trajectories_of_games_are_logs_too(logs, tmp_path):
    """A row a seed and round, no prompt: seeds are what is resampled."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(0)
    rows = [
        {"arm": "rlhf", "gamma": 0.5, "seed": seed, "iteration": 100 * i,
         "utility": 3 + u + 0.1 * random.standard_normal(),
         "proxy_reward": 0.1 * i + 0.1 * random.standard_normal()}
        for seed in range(8) for i, u in enumerate(logs.FALLING)
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "trajectories.parquet")
    (tmp_path / "config.yaml").write_text("env: linear\narms: rlhf\nseeds: '0:8'\n")
    result = audit(tmp_path, columns={"run": "arm+gamma"})
    assert result.source.format == "simulated games"
    (arm,) = result.arms
    assert arm.label == "rlhf 0.5"
    assert len(arm.seeds) == 8
    assert arm.fall.fall.resampled == "seeds only"
    assert arm.fall.fall.mean == pytest.approx(2.0, abs=0.2)


def test_power_is_a_share(tmp_path):
    with pytest.raises(ConfigError, match=r"power: got 1\.5"):
        audit(tmp_path, power=1.5)


def test_an_arm_of_which_no_row_has_a_round_is_left_out(tmp_path):
    rows = [{"run": "a", "round": r, "prompt": f"q{p}", "reward": r + p} for r in range(3) for p in range(4)]
    rows += [{"run": "b", "round": None, "prompt": "q0", "reward": 1.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = audit(tmp_path / "log.jsonl")
    assert [arm.label for arm in result.arms] == ["a"]
    assert any("1 rows have no round" in remark for remark in result.source.remarks)
