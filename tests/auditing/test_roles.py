"""No reward and no utility is made up: what paid, what measures a response, and where that is left open."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from foresighted.auditing.audit import audit
from foresighted.auditing.sources import read_log
from foresighted.errors import DataError

SIZE = 4


def _advantages(reward, scale):
    groups = reward.reshape(-1, SIZE)
    away = groups - np.nanmean(groups, axis=1, keepdims=True)
    spread = np.nanstd(groups, axis=1, ddof=1, keepdims=True)
    made = {"group": away / (spread + 1e-4), "batch": away / (np.nanstd(reward, ddof=1) + 1e-4), "none": away,
            "rloo": away * SIZE / (SIZE - 1)}[scale]  # fmt: skip
    return np.nan_to_num(made.reshape(-1)).astype(np.float32).astype(float)


def _log(folder, columns, paid, *, scale="group", steps=4, prompts=3, advantages=True):
    """Write a TRL log: `columns` makes name -> values of (random, step, rows); `paid` are added up."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = prompts * SIZE
    for step in range(1, steps + 1):
        values = {name: np.asarray(make(random, step, rows), float) for name, make in columns.items()}
        some = np.stack([values[name] for name in paid])
        reward = np.where(np.isfinite(some).any(axis=0), np.nansum(some, axis=0), np.nan)
        table = {
            "step": [step] * rows,
            "prompt": [f"q{place // SIZE}" for place in range(rows)],
            "completion": [f"so {step} {place}" for place in range(rows)],
            **{name: [None if np.isnan(v) else v for v in own.tolist()] for name, own in values.items()},
            "advantage": _advantages(reward, scale).tolist() if advantages else [0.0] * rows,
        }
        parquet.write_table(pa.table(table), folder / f"completions_{step:05d}.parquet")
    return folder


def _noise(random, step, rows):
    return random.normal(size=rows).astype(np.float32)


def _seconds(random, step, rows):
    return 1000 + random.random(rows)


def _half(parity):
    return lambda random, step, rows: [
        random.normal() if (place // SIZE) % 2 == parity else np.nan for place in range(rows)
    ]


@pytest.mark.parametrize("scale", ["group", "batch", "none", "rloo"])
@pytest.mark.parametrize("paid", [["math"], ["math", "chat"], ["chat", "polite"], ["math", "chat", "polite"]])
def test_the_advantages_tell_what_paid(tmp_path, scale, paid):
    columns = {"math": _noise, "chat": _noise, "polite": _noise, "seconds_to_run": _seconds}
    log = read_log(_log(tmp_path / "completions", columns, paid, scale=scale), {})
    assert log.source.columns["reward"] == "+".join(paid)
    assert any(remark.endswith("the advantages say so.") for remark in log.source.remarks)


def test_a_column_of_one_value_and_groups_of_one_prompt_in_a_row_leave_nothing_open(tmp_path):
    columns = {"math": _noise, "format": lambda random, step, rows: np.ones(rows), "chat": _noise, "seconds": _seconds}
    folder = _log(tmp_path, columns, ["math", "format", "chat"])
    assert read_log(folder, {}).source.columns["reward"] == "math+chat"
    for path in folder.iterdir():
        table = parquet.read_table(path).to_pylist()
        parquet.write_table(pa.Table.from_pylist([row | {"prompt": "q"} for row in table]), path)
    assert read_log(folder, {}).source.columns["reward"] == "math+chat"


def test_functions_that_abstain_are_passed_over_as_trl_does(tmp_path):
    columns = {"math": _half(0), "chat": _half(1), "seconds": _seconds}
    log = read_log(_log(tmp_path, columns, ["math", "chat"]), {})
    assert log.source.columns["reward"] == "math+chat"
    assert np.isfinite(log.training.numbers["reward"]).all()
    table = parquet.read_table(tmp_path / "completions_00001.parquet").to_pylist()
    for row in table[:2]:
        row["math"] = row["chat"] = None  # nobody scored them: they have no reward, and no advantage
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "completions_00001.parquet")
    reward = read_log(tmp_path, {"reward": "math+chat"}).training.numbers["reward"]
    assert np.isnan(reward).sum() == 2


@pytest.mark.parametrize("extra", ["seconds", "length_penalty", "parsed_answer"])
def test_a_column_left_open_stops_with_the_choices(tmp_path, extra):
    _log(tmp_path, {"helpful": _noise, extra: _noise}, ["helpful"], advantages=False)
    with pytest.raises(DataError) as caught:
        read_log(tmp_path, {})
    assert f"'helpful', '{extra}' may each be" in str(caught.value)
    assert f"--column reward=helpful+{extra}" in str(caught.value)
    assert read_log(tmp_path, {"reward": "helpful"}).source.columns["reward"] == "helpful"


def test_what_is_the_utility_is_no_part_of_the_reward(tmp_path):
    rising = {
        "helpfulness_model": lambda random, step, rows: 0.1 * step + 0.1 * random.normal(size=rows),
        "gold": lambda random, step, rows: -0.2 * step + 0.1 * random.normal(size=rows),
    }
    _log(tmp_path, rising, ["helpfulness_model"], steps=12, prompts=20, advantages=False)
    result = audit(tmp_path)
    assert (result.verdict, result.source.columns["reward"]) == ("collapsed", "helpfulness_model")
    with pytest.raises(DataError, match=r"gold is the utility and part of the reward.*--column utility="):
        audit(tmp_path, columns={"reward": "helpfulness_model+gold", "utility": "gold"})
    told = read_log(tmp_path, {"reward": "helpfulness_model+gold"})
    assert "utility" not in told.source.columns


def test_our_own_log_needs_no_flag_and_the_penalty_hides_nothing(tmp_path):
    ours = {"fpo": _noise, "reward_model": _noise, "penalty": _noise}
    log = read_log(_log(tmp_path / "a", ours, ["fpo"], advantages=False), {})
    assert log.source.columns["reward"] == "reward_model"
    assert "FPOReward logged the others beside" in log.source.remarks[0]
    more = {"fpo": _noise, "short": _noise, "gold": _noise, "penalty": _noise, "reward_model": _noise}
    log = read_log(_log(tmp_path / "b", more, ["fpo", "short"]), {})
    assert log.source.columns["reward"] == "short+reward_model"
    assert log.source.columns["utility"] == "gold"


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _rows(name, value, prompts=6, steps=4, each=2):
    return [
        {"step": step, "prompt": f"q{p}", "response": f"{step} {p} {i}", "reward": step + i / 2,
         name: value(p, step, i)}
        for step in range(steps) for p in range(prompts) for i in range(each)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gold", lambda p, step, i: 100 + 7 * p),
        ("gold", lambda p, step, i: p % 2),
        ("gold", lambda p, step, i: p % 2 == 0),
        ("label", lambda p, step, i: p % 2),
        ("label", lambda p, step, i: str(p % 2)),
        ("rating", lambda p, step, i: 1.0),
        ("utility", lambda p, step, i: p / 3),
    ],
)
def test_what_never_varies_within_a_prompt_measures_the_prompt(tmp_path, name, value):
    path = _write(tmp_path / "log.jsonl", _rows(name, value))
    for told in ({}, {"utility" if name != "label" else "label": name}):
        result = audit(path, columns=told)
        assert result.verdict == "cannot tell"
        assert f"nothing tells what is true: {name} measures the prompt" in result.headline
        assert any("it was set aside" in remark for remark in result.source.remarks)


def test_a_utility_that_varies_within_a_single_prompt_is_kept(tmp_path):
    rows = _rows("gold", lambda p, step, i: float(p == 3 and step == 2))
    assert "gold" in read_log(_write(tmp_path / "log.jsonl", rows), {}).source.columns["utility"]
    same = [row | {"response": row["prompt"], "gold": 1.0} for row in rows]  # the same answer again: the same utility
    log = read_log(_write(tmp_path / "log.jsonl", same), {})
    assert log.set_aside == ()
    assert any("nothing shows that gold measures the response" in remark for remark in log.source.remarks)


def test_a_right_answer_of_a_prompt_that_stands_there_twice_is_no_utility(tmp_path):
    rows = _rows("gold", lambda p, step, i: 100 + p if p or step else 7, prompts=40)
    assert audit(_write(tmp_path / "log.jsonl", rows)).verdict == "cannot tell"


def test_a_reward_that_never_varies_within_a_prompt_is_none(tmp_path):
    rows = _rows("gold", lambda p, step, i: -step + i / 3, prompts=30)
    for row in rows:
        row["score"] = float(row["prompt"][1:])
        del row["reward"]
    result = audit(_write(tmp_path / "log.jsonl", rows))
    assert result.verdict == "suspicious"  # utility fell, and nothing tells whether the loop saw it
    assert any("The column score is the same for every response" in remark for remark in result.source.remarks)


def test_whole_numbers_one_a_prompt_may_be_right_answers(tmp_path):
    rows = [
        {"step": n // 20, "prompt": f"q{n}", "response": f"r{n}", "reward": 0.5, "gold": 17 * n % 101}
        for n in range(60)
    ]
    path = _write(tmp_path / "log.jsonl", rows)
    with pytest.raises(DataError, match=r"gold: whole numbers.*--column utility=gold .*--column utility= to leave"):
        read_log(path, {})
    assert "utility" in read_log(path, {"utility": "gold"}).training.numbers
    assert "utility" not in read_log(path, {"utility": ""}).training.numbers


def test_a_label_that_is_no_preference_says_what_it_may_be(tmp_path):
    path = _write(tmp_path / "log.jsonl", _rows("label", lambda p, step, i: str(400 + p)))
    with pytest.raises(DataError, match=r"label: got 400.* right answer, leave it out with --column label="):
        read_log(path, {})


@pytest.mark.parametrize(
    ("ours", "names"),
    [("reward", ("score", "rm_score")), ("utility", ("gold", "rating")), ("label", ("label", "human_label"))],
)
def test_two_columns_that_may_be_one_of_ours_stop_with_both(tmp_path, ours, names):
    rows = [
        {"step": n // 8, "prompt": f"q{n % 4}", "response": f"{n}", "reward" if ours != "reward" else "kl": n / 9,
         names[0]: n % 3 / 2, names[1]: n % 5 / 4}
        for n in range(32)
    ]  # fmt: skip
    path = _write(tmp_path / "log.jsonl", rows)
    with pytest.raises(DataError, match=rf"'{names[0]}' and '{names[1]}' may each be the {ours}.*--column {ours}="):
        read_log(path, {})
    assert read_log(path, {ours: names[1]}).source.columns[ours] == names[1]
    same = [row | {names[1]: row[names[0]]} for row in rows]
    assert read_log(_write(path, same), {}).source.columns[ours] == names[0]


def test_a_whole_exchange_is_a_prompt_and_a_response(tmp_path):
    rows = [
        {"step": n, "score": n / 2, "messages": [{"role": "user", "content": f"q{p}"},
                                                  {"role": "assistant", "content": f"so {n}"}]}
        for n in range(3) for p in range(2)
    ]  # fmt: skip
    for path in (_write(tmp_path / "x.jsonl", rows), tmp_path / "x.parquet"):
        if path.suffix == ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path)
        rollouts = read_log(path, {}).training
        assert rollouts.prompts == ("q0", "q1")
        assert rollouts.texts(np.arange(2)) == ["so 0", "so 0"]


def test_files_that_are_no_log_are_passed_over_and_said(tmp_path):
    _write(tmp_path / "1.jsonl", _rows("gold", lambda p, step, i: step / 2 + i)[:20])
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}, indent=1))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "loss": 1.0}] * 3}))
    log = read_log(tmp_path, {})
    assert log.source.files == 1
    assert "No log, and passed over: config.json, trainer_state.json." in log.source.remarks


def test_exports_of_others_are_read(tmp_path):
    history = {"log_history": [{"step": n, "reward": n / 3, "loss": 0.1} for n in range(5)], "epoch": 1}
    (tmp_path / "trainer_state.json").write_text(json.dumps(history, indent=1))
    (run,) = read_log(tmp_path / "trainer_state.json", {}).runs
    assert list(run.reward.values()) == [n / 3 for n in range(5)]
    table = {"columns": ["step", "prompt", "completion", "reward"], "data": [[n, "q", f"r{n}", n] for n in range(5)]}
    (tmp_path / "w.table.json").write_text(json.dumps(table))
    assert read_log(tmp_path / "w.table.json", {}).training.prompts == ("q",)
    swift = [
        {"step": ["1", "1"], "prompt": ["q", "q"], "completion": ["a", "b"], "reward": [0.5, 1.5]},
        {"step": ["2", "2"], "prompt": ["p", "p"], "completion": ["a", "b"], "reward": [1, 2]},
    ]
    log = read_log(_write(tmp_path / "completions.jsonl", swift), {})
    assert log.training.round.tolist() == [1, 1, 2, 2]
    assert log.training.numbers["reward"].tolist() == [0.5, 1.5, 1, 2]
    (tmp_path / "wandb_export.csv").write_text(
        '"Step","run-a - train/reward","run-a - train/reward__MIN"\n"0","1","1"\n'
    )
    (run,) = read_log(tmp_path / "wandb_export.csv", {}).runs
    assert (run.label, run.reward) == ("run-a", {0: 1.0})


def _both(utility, **more):
    return [
        {"step": n // 8, "prompt": f"q{n % 4}", "response": f"{n}", "reward": n / 9 % 1, "utility": utility(n),
         **{name: value(n) for name, value in more.items()}}
        for n in range(32)
    ]  # fmt: skip


def test_another_column_that_may_be_the_utility_or_the_reward_is_said(tmp_path):
    path = _write(tmp_path / "log.jsonl", _both(lambda n: n % 5 / 4, gold=lambda n: n % 3, score=lambda n: n % 7))
    log = read_log(path, {})
    assert log.source.columns["utility"] == "utility"
    said = " ".join(log.source.remarks)
    assert "The utility is the column utility; 'gold' may be it, too: --column utility=gold takes that." in said
    assert "--column reward=score takes that" in said
    told = read_log(path, {"utility": "gold", "reward": "score"})
    assert told.source.columns["utility"] == "gold"
    assert not [remark for remark in told.source.remarks if "takes that" in remark]
    same = _write(path, _both(lambda n: n % 5 / 4, gold=lambda n: n % 5 / 4))
    assert not [remark for remark in read_log(same, {}).source.remarks if "takes that" in remark]


@pytest.mark.parametrize("slip", [0.0, 1e-9])
def test_a_utility_that_is_the_reward_is_refused(tmp_path, slip):
    rows = _both(lambda n: n / 9 % 1 * (1 + slip))
    with pytest.raises(DataError, match=r"reward and utility are the same number in every row.*--column utility=NAME"):
        read_log(_write(tmp_path / "log.jsonl", rows), {})
    rows[5]["utility"] += 0.1
    assert "utility" in read_log(_write(tmp_path / "log.jsonl", rows), {}).training.numbers


@pytest.mark.parametrize("text", ["reward+reward", "reward + kl + reward"])
def test_a_column_counts_once(tmp_path, text):
    path = _write(tmp_path / "log.jsonl", _both(lambda n: n % 5, kl=lambda n: n))
    with pytest.raises(DataError, match="has the column 'reward' twice"):
        read_log(path, {"reward": text})


def test_rewards_whose_sums_overflow_are_called_so(tmp_path):
    rows = [row | {"reward": 1e308} for row in _both(lambda n: n % 5)]
    log = read_log(_write(tmp_path / "log.jsonl", rows), {})
    assert "The column reward holds no finite number up to 1e+100: it tells no reward." in log.source.remarks
    with pytest.raises(DataError, match=r"round: got 1e\+300, expected whole numbers"):
        read_log(_write(tmp_path / "log.jsonl", [row | {"step": 1e300} for row in rows]), {})
