"""`foresighted audit` as a user types it: what it prints, its exit codes, its one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foresighted.auditing.result import read_audit

FALLING, RISING = (0.0, 0.2, 0.4, -0.6, -1.6), (0.0, 0.2, 0.4, 0.6, 0.8)


def _log(path: Path, utility: tuple[float, ...], *, name: str = "gold", text: str = "an answer") -> Path:
    random = np.random.default_rng(0)
    effects = random.standard_normal(40)
    with path.open("w") as file:
        for round_, mean in enumerate(utility):
            for prompt in range(40):
                true = mean + effects[prompt] + 0.3 * random.standard_normal()
                row = {"step": round_, "prompt": f"q{prompt}", "completion": f"{text} {prompt}",
                       "scores": {"rm": effects[prompt] + 0.1 * round_ + 0.3 * random.standard_normal()}}  # fmt: skip
                file.write(json.dumps(row | ({name: true} if name else {})) + "\n")
    return path


REWARD = ["--column", "reward=scores.rm"]


def test_a_collapse_is_said_first_and_exits_with_1(foresighted, tmp_path):
    path = _log(tmp_path / "log.jsonl", FALLING)
    code, out, err = foresighted("audit", path, *REWARD, "--out", tmp_path / "audit")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("COLLAPSED: the answers got worse, from about round 2 on")
    assert "Columns guessed: round = step, prompt = prompt, response = completion, utility = gold." in out
    assert "log: collapsed" in out
    assert "Look at these first." in out
    assert " 20. round 4, reward" in out
    assert lines[-1] == f"audit: {tmp_path / 'audit' / 'audit.json'}"
    assert read_audit(tmp_path / "audit").verdict == "collapsed"


def test_health_exits_with_0(foresighted, tmp_path):
    code, out, _ = foresighted("audit", _log(tmp_path / "log.jsonl", RISING), *REWARD)
    assert code == 0
    assert out.startswith("NO COLLAPSE SEEN: ")


def test_json_is_the_whole_result_and_nothing_else(foresighted, tmp_path):
    path = _log(tmp_path / "log.jsonl", FALLING)
    code, out, _ = foresighted("audit", path, *REWARD, "--json", "--out", tmp_path)
    assert code == 1
    assert json.loads(out) == json.loads((tmp_path / "audit.json").read_text())


def test_strict_counts_suspicion(foresighted, tmp_path):
    path = _log(tmp_path / "log.jsonl", FALLING)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "scores"}) + "\n" for row in lines))
    assert foresighted("audit", path)[0] == 0
    assert foresighted("audit", path, "--strict")[0] == 1


def test_without_labels_power_sets_how_many_are_asked_for(foresighted, tmp_path):
    path = _log(tmp_path / "log.jsonl", FALLING, name="")
    code, out, _ = foresighted("audit", path, *REWARD)
    assert code == 0
    assert out.startswith("CANNOT TELL: nothing tells what is true")
    assert "show a person 101 prompts" in out
    assert "show a person 101 prompts" not in foresighted("audit", path, *REWARD, "--power", "0.9")[1]


def test_text_cannot_steer_the_terminal(foresighted, tmp_path):
    path = _log(tmp_path / "log.jsonl", FALLING, text="\x1b[2J\x07[bold red]hostile[/]\u202e")
    _, out, _ = foresighted("audit", path, *REWARD)
    assert "[bold red]hostile[/]" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "scores holds several values; say which one is the reward, for example --column reward=scores.rm"),
        (["--column", "reward=scores.mr"], "did you mean 'scores.rm'?"),
        (["--column", "reword=scores.rm"], "did you mean 'reward'?"),
        (["--column", "reward"], "expected OURS=THEIRS"),
        ([*REWARD, "--column", "reward=step"], "reward was given as 'scores.rm' and as 'step'; give it once"),
        ([*REWARD, "--power", "2"], "power: got 2.0"),
    ],
)
def test_bad_arguments_are_one_line(foresighted, tmp_path, arguments, words):
    code, out, err = foresighted("audit", _log(tmp_path / "log.jsonl", FALLING, name=""), *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err


def test_a_log_of_several_rewards_and_a_utility_is_not_judged_without_a_reward(foresighted, tmp_path):
    path = tmp_path / "log.jsonl"
    rows = (
        {"step": i // 4, "prompt": "p", "completion": f"{i}", "reward_a": i, "reward_b": -i, "gold": i % 7}
        for i in range(40)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = foresighted("audit", path)
    assert (code, out) == (2, "")
    assert "--column reward=reward_a, or with a sum such as --column reward=reward_a+reward_b" in err
    for given in ("reward_a", "reward_a+reward_b", ""):
        assert foresighted("audit", path, "--column", f"reward={given}")[0] in (0, 1)


def test_bad_input_is_one_line(foresighted, tmp_path):
    path = _log(tmp_path / "log.jsonl", FALLING)
    path.write_text(path.read_text().replace('{"step": 3', '{"step" 3', 1))
    code, _, err = foresighted("audit", path, *REWARD)
    assert code == 2
    assert f"{path}, line 121: not a JSON object (" in err
    assert "remove this line" in err
    code, _, err = foresighted("audit", tmp_path / "nothing")
    assert (code, err.count("\n")) == (2, 1)
    (tmp_path / "taken").write_text("")
    code, _, err = foresighted("audit", _log(tmp_path / "log.jsonl", RISING), *REWARD, "--out", tmp_path / "taken")
    assert code == 2
    assert "taken cannot be written" in err


def test_the_documented_log_says_what_the_page_says(foresighted, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    page = (root / "docs" / "audit.md").read_text()
    command = "audit docs/assets/audit/rollouts.jsonl --column reward=scores.rm"
    assert f"$ foresighted {command}" in page
    code, out, _ = foresighted(*command.split())
    assert code == 1
    shown = page.split(f"$ foresighted {command}")[1].split("```text\n")[1].split("```")[0]
    assert shown.strip()
    assert all(line in out for line in shown.splitlines())


def test_metrics_say_what_was_taken_as_what_and_have_an_exit_code_of_their_own(tmp_path, foresighted):
    rows = [{"step": n, "reward": 0.02 * n + 0.01 * (n % 3), "true_reward": 0.01 * (n % 2)} for n in range(40)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    code, out, _ = foresighted("audit", tmp_path, "--quiet")
    lines = out.splitlines()
    assert (code, lines[0].split(":")[0]) == (0, "SUSPICIOUS")
    assert lines[2:6] == [
        "Read 40 steps of 1 file (trainer state).", "--reward reward (guessed)", "--trusted true_reward (guessed)",
        "Metrics: 'reward', 'true_reward'.",
    ]  # fmt: skip
    assert foresighted("audit", tmp_path, "--quiet", "--strict")[0] == 1
    assert foresighted("audit", tmp_path, "--quiet", "--suspicious-exit", 7)[0] == 7
    assert foresighted("audit", tmp_path, "--quiet", "--reward", "true_reward", "--trusted", "reward")[0] == 0
    for wrong in ((2,), (126,), (3, "--strict")):
        code, _, err = foresighted("audit", tmp_path, "--suspicious-exit", *wrong)
        assert (code, "suspicious-exit: got" in err) == (2, True)
