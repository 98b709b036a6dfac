from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from foresighted.judging.result import read_evaluation

JUDGE = """
def longer(prompt, first, second):
    return 0.9 if len(first) > len(second) else 0.1 if len(first) < len(second) else 0.5
"""


@pytest.fixture
def files(tmp_path):
    """Two files of answers and a judge; return what `--policies` and `--judge` take."""
    named = []
    for name, text in (("base", "short"), ("new", "rather longer")):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"prompt_id": f"p{i}", "prompt": f"Question {i}?", "kind": "factual", "text": text} for i in range(12)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        named.append(f"{name}={path}")
    (tmp_path / "judge.py").write_text(JUDGE)
    return ",".join(named), f"{tmp_path / 'judge.py'}:longer"


def _refused(result, *words):
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("foresighted: ")
    for word in words:
        assert word in err


def test_help_is_for_newcomers(foresighted):
    code, out, _ = foresighted("evaluate", "--help")
    text = " ".join(out.split())
    assert code == 0
    assert "examples: foresighted evaluate --policies before=embedded,after=runs/first" in text
    assert "longest answer in tokens (the paper: 64) (default: 64)" in text
    assert "environment variable that holds the key" in text


def test_it_answers_judges_and_prints(foresighted, files, tmp_path):
    policies, judge = files
    out = tmp_path / "out"
    code, text, err = foresighted("evaluate", "--policies", policies, "--judge", judge, "--out", out)
    assert (code, err) == (0, "")
    assert "new over base" in text
    assert "Standard - Factual" in text
    assert "The judge prefers new more often than base" in text
    assert "the longer answer won 100% of 12 decided pairs" in text
    assert f"evaluation: {out}" in text
    assert read_evaluation(out).pairs[0].counts.wins == 12
    _refused(foresighted("evaluate", "--policies", policies, "--judge", judge, "--out", out), "go on with --resume")
    code, again, _ = foresighted("evaluate", "--out", out, "--resume")
    assert code == 0
    assert again == text


@pytest.mark.slow
def test_dry_run_prints_a_configuration_that_runs_and_an_estimate(foresighted, files, tmp_path):
    flags = ["--policies", files[0], "--judge", "openai:m", "--base-url", "http://localhost:1/v1"]
    flags += ["--out", tmp_path / "x"]
    code, text, _ = foresighted("evaluate", *flags, "--concurrency", "3", "--dry-run")
    assert code == 0
    assert yaml.safe_load(text)["concurrency"] == 3
    assert "# requests to the judge: at most 24, about " in text
    assert not (tmp_path / "x").exists()
    (tmp_path / "c.yaml").write_text(text)
    code, again, _ = foresighted("evaluate", "--config", tmp_path / "c.yaml", "--out", tmp_path / "x", "--dry-run")
    assert (code, again) == (0, text)


def test_a_table_is_read_without_anything_else(foresighted, tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"{i},x[red]\x1b,{'b' if i % 3 else 'a'}" for i in range(9)]
    path.write_text("\n".join(["prompt_id,category,a_vs_b", *lines]))
    code, text, err = foresighted("evaluate", "--judgements", path)
    assert (code, err) == (0, "")
    assert "b over a: 6:3 (0 ties), p = .51. No clear difference" in text
    assert "x[red]" in text  # neither markup nor escape sequences of a file reach the terminal
    assert "\x1b" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
    assert foresighted("evaluate", "--judgements", path, "--out", tmp_path / "out")[0] == 0
    assert read_evaluation(tmp_path / "out").baseline == "a"
    assert foresighted("evaluate", "--judgements", path, "--baseline", "b")[1].count("a over b: 3:6") == 1


@pytest.mark.slow
def test_a_table_loads_no_model_library(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a_vs_b\na\nb\n")
    code = (
        "import sys; from foresighted.cli.main import main;"
        f"assert main(['evaluate', '--judgements', {str(path)!r}]) == 0;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'openai', 'jax', 'lm_eval')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["policies: got none; give NAME=MODEL"]),
        (["--policies", "embedded"], ["policies: got 'embedded'; expected NAME=MODEL"]),
        (["--policies", "tie=embedded"], ["not 'tie'"]),
        (["--policies", "a=x,a=y"], ["policies: a stands twice"]),
        (["--policies", "a@1=x,a@1=y"], ["policies: a stands twice"]),
        (["--policies", "a=embedded", "--judge", "likelihood"], ["a judge compares at least two"]),
        (["--judge", "openai"], ["judge: got 'openai' (did you mean 'openai:MODEL'?)"]),
        (["--judge", "openai:"], ["without a model"]),
        (["--judge", "openai:m"], ["needs a key in the environment variable OPENAI_API_KEY"]),
        (["--judge", "nowhere.py:f"], ["judge: no file nowhere.py"]),
        (["--judge", "likelihood", "--base-url", "http://x/v1"], ["is no endpoint"]),
        (["--judge", "openai:m", "--base-url", "localhost:8000"], ["base_url: got 'localhost:8000'; expected http://"]),
        (["--judge", "openai:m", "--base-url", "http://me:secret@x/v1"], ["a key belongs in the environment"]),
        (["--judge", "likelihood", "--categories", "judge"], ["categories: only an endpoint"]),
        (["--judge", "openai:m", "--base-url", "http://127.0.0.1:9/v1", "--retries", "0"], ["cannot be reached"]),
        (["--judge", "likelihood:/no/model"], ["judge: no folder /no/model"]),
        (["--split", "test"], ["split: got 'test'", "auto, heldout, train, all"]),
        (["--concurrency", "0"], ["concurrency: got 0, must be at least 1"]),
        (["--temperature", "-1"], ["temperature: got -1"]),
        (["--timeout", "nan"], ["timeout: got nan"]),
        (["--rubric", "/no/file"], ["rubric: /no/file cannot be read"]),
        (["--prompts", "/no/file.txt"], ["/no/file.txt cannot be read"]),
        (["--baseline", "a"], ["only for --judgements"]),
        (["--config", "/no/file.yaml"], ["/no/file.yaml cannot be read"]),
        (["--jugde", "x"], ["did you mean '--judge'"]),
    ],
)
def test_bad_input(foresighted, files, tmp_path, monkeypatch, flags, words):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    policies = [] if "--policies" in flags or not flags else ["--policies", files[0]]
    _refused(foresighted("evaluate", "--out", tmp_path / "out", *policies, *flags), *words)


def test_bad_input_of_a_table(foresighted, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a_vs_b\na\n")
    _refused(foresighted("evaluate", "--judgements", path, "--judge", "x"), "judge: has no meaning with --judgements")
    _refused(foresighted("evaluate", "--judgements", path, "--resume"), "resume: has no meaning")
    _refused(foresighted("evaluate", "--judgements", path, "--seed", "x"), "seed: got 'x'")
    _refused(foresighted("evaluate", "--judgements", tmp_path / "no.csv"), "no.csv cannot be read")
    _refused(foresighted("evaluate"), "out: needed")


def test_a_directory_is_not_read_as_what_it_is_not(foresighted, files, tmp_path):
    path, out = tmp_path / "t.csv", tmp_path / "table"
    path.write_text("a_vs_b\na\na\na\n")
    code, text, _ = foresighted("evaluate", "--judgements", path, "--out", out)
    assert code == 0
    assert "b over a: 0:3 (0 ties), p = .25. No clear difference (win rate 0.00 [0.00, 0.56])" in text
    assert "-1.95 [interval unknown]" in text
    _refused(foresighted("evaluate", "--policies", files[0], "--out", out, "--resume"), "result of a table")
    judged = tmp_path / "judged"
    assert foresighted("evaluate", "--policies", files[0], "--judge", files[1], "--out", judged)[0] == 0
    before = {file.name: file.read_bytes() for file in judged.iterdir()}
    _refused(
        foresighted("evaluate", "--judgements", path, "--out", judged), "holds an evaluation, and the result of a table"
    )
    assert {file.name: file.read_bytes() for file in judged.iterdir()} == before


def test_a_bad_judge_is_one_line(foresighted, files, tmp_path):
    path = tmp_path / "bad.py"
    for text, words in (("def f(:\n", "SyntaxError"), ("import nosuchmodule\n", "No module named 'nosuchmodule'")):
        path.write_text(text)
        out = tmp_path / "out"
        _refused(foresighted("evaluate", "--policies", files[0], "--judge", f"{path}:f", "--out", out), words)
        assert not out.exists()


@pytest.mark.processes
def test_files_are_utf_8_whatever_the_locale(tmp_path):
    for name, text in (("base", "so"), ("new", "größer 大")):
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"prompt": "Wie groß?", "text": text, "kind": "größer"}) + "\n"
        )
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "c.yaml").write_text("system_prompt: größer\njudge: judge.py:longer\n", encoding="utf-8")
    flags = ["--policies", "base=base.jsonl,new=new.jsonl", "--config", "c.yaml", "--out", "out"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "foresighted", "evaluate"]
    for arguments in (flags, ["--out", "out", "--resume"]):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=os.environ | plain, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert read_evaluation(tmp_path / "out").pairs[0].categories[0].name == "größer"


def test_other_directories_are_left_alone(foresighted, files, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    _refused(foresighted("evaluate", "--policies", files[0], "--out", taken), "not empty and holds no evaluation")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "candidates.jsonl"):
        (run / name).write_text("")
    _refused(
        foresighted("evaluate", "--policies", files[0], "--out", run), "holds a run, and an evaluation was to go there"
    )
    assert (run / "config.yaml").read_text() == ""
