"""The command `rehearse`: what it says before and after, and every bad input in one line. The loops are written, not
played."""

from __future__ import annotations

import shutil

import pytest
import yaml

from foresighted.alignment import compare, within
from foresighted.errors import Stopped

PLAIN = "rlhf:kl_coefficient=0"
ARMS = f"{PLAIN},practical,labels"


@pytest.fixture
def played(monkeypatch, synthetic, tmp_path):
    """Let loops be written in place of being played; `played["stop"]` stops them after a round."""
    asked = {}

    def play(config, out, **_more):
        shapes = {arm: synthetic.FALLING if arm == PLAIN else synthetic.STEADY for arm in config.arms}
        stop = asked.get("stop")
        cut = {(arm, seed): stop for arm in config.arms for seed in config.seeds} if stop else {}
        shutil.rmtree(out, ignore_errors=True)
        synthetic.write_comparison(out, shapes, seeds=config.seeds, rounds=20, cut=cut)
        asked["config"] = config
        if stop:
            raise Stopped(stop)

    monkeypatch.setattr(compare, "compare", play)
    monkeypatch.setattr(within, "compare_within", lambda config, out, _minutes, **more: play(config, out, **more))
    return asked


def test_a_dry_run_says_what_would_be_played(foresighted, tmp_path, prompt_file):
    code, out, err = foresighted("rehearse", "--out", tmp_path / "x", "--prompts", prompt_file, "--dry-run")
    assert (code, err) == (0, "")
    config = yaml.safe_load(out)
    assert config["arms"][0] == PLAIN
    assert config["arms"][-1] == "labels:kl_coefficient=0"
    assert (config["reward_model"], config["max_new_tokens"], config["minutes"]) == ("embedded:relevance", 16, 20.0)
    assert "# 18 loops (9 arms, seeds 0, 1), 288 answers of at most 16 tokens and 96 labels a round" in out
    assert not (tmp_path / "x").exists()


def test_help_shows_its_own_defaults(foresighted):
    for flag, words in {"--help": "default: 60", "--help-all": "default: last:10"}.items():
        assert words in " ".join(foresighted("rehearse", flag)[1].split())


@pytest.mark.slow
def test_it_ends_with_sentences_table_and_what_follows(foresighted, tmp_path, played, prompt_file):
    out = tmp_path / "r"
    code, said, err = foresighted("rehearse", "--out", out, "--prompts", prompt_file, "--seeds", "0,1", "--arms", ARMS)
    assert (code, err) == (0, "")
    assert said.startswith("6 loops (3 arms, seeds 0, 1)")
    for words in ("- Plain RLHF", "- What prevents it at equal labels", "- Against the ceiling", "after round 20",
                  "What follows from", "foresighted train", "fpo.FPOConfig("):  # fmt: skip
        assert words in said
    assert "report.html" in said
    code, again, _ = foresighted("report", out)
    assert code == 0
    assert again[again.index("- Plain") :] == said[said.index("- Plain") :]
    code, _, err = foresighted("rehearse", "--out", out, "--prompts", prompt_file)
    assert code == 2
    assert "holds a rehearsal already; go on with --resume" in err
    assert foresighted("rehearse", "--out", out, "--resume", "--minutes", "30", "--seeds", "0:3")[0] == 0
    assert played["config"].seeds == (0, 1, 2)
    code, _, err = foresighted("rehearse", "--out", out, "--resume", "--candidates", "8")
    assert code == 2
    assert "candidates was 4, now 8" in err


@pytest.mark.slow
def test_what_was_played_when_it_is_stopped_is_reported(foresighted, tmp_path, played, prompt_file):
    played["stop"] = 10
    given = ["--prompts", prompt_file, "--seeds", "0,1", "--arms", ARMS]
    code, said, err = foresighted("rehearse", "--out", tmp_path / "r", *given)
    assert code == 130
    assert "stopped after round 10" in err
    assert "in 10 rounds and 2 seeds" in said
    assert (tmp_path / "r" / "report.html").exists()


@pytest.mark.slow
def test_without_a_directory_it_makes_one(foresighted, tmp_path, played, prompt_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert foresighted("rehearse", "--prompts", prompt_file, "--seeds", "0", "--arms", PLAIN)[0] == 0
    assert (tmp_path / "runs" / "rehearse-1" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms", "rlhf,practicl"], ["unknown arm 'practicl'", "did you mean 'practical'"]),
        (["--minutes", "0"], ["minutes: got 0.0, must be above 0"]),
        (["--minutes", "soon"], ["minutes: got 'soon', expected a number"]),
        (["--seeds", "a:b"], ["seeds: got 'a:b'"]),
        (["--prompts-per-round", "8"], ["has 7 to train on, and a round asks 8", "prompts_per_round to 7"]),
        (["--prompts", "/no/such.txt"], ["/no/such.txt cannot be read"]),
        (["--labels", "/no/judge.py:prefer"], ["labels: ", "/no/judge.py"]),
        (["--resume"], ["out: needed with resume"]),
        (["--minute", "3"], ["unrecognized arguments: --minute 3", "did you mean '--minutes'"]),
    ],
)
def test_bad_input(foresighted, tmp_path, monkeypatch, prompt_file, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = foresighted("rehearse", "--prompts", prompt_file, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not list(tmp_path.glob("runs/*"))
