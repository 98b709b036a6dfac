"""Evaluations that go on: after a kill, with answers, prompts and judges that changed, with one policy more."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.judging.plan import estimated
from foresighted.judging.result import Counts
from foresighted.judging.rows import AnswerRow, read_rows
from foresighted.judging.run import evaluate, evaluate_table
from foresighted.judging.settings import EvaluateConfig
from foresighted.store.directory import ANSWERS, JUDGEMENTS


@pytest.fixture
def config(prompt_file) -> EvaluateConfig:
    return EvaluateConfig(
        policies=("a=x",), prompts=str(prompt_file), split="heldout", max_new_tokens=6, batch=3, device="cpu", threads=1
    )


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed(config, tiny_llama, judge_file, tmp_path, monkeypatch):
    config = replace(config, policies=(f"a={tiny_llama}", f"b={tiny_llama}"), system_prompt="x", temperature=1.0)
    whole = tmp_path / "whole"
    expected = evaluate(replace(config, judge=f"{judge_file}:longer"), whole)
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text((whole / "config.yaml").read_text())
    answers = (whole / ANSWERS).read_text()
    (out / ANSWERS).write_text(answers[: len(answers) * 2 // 3])  # torn within a line
    (out / JUDGEMENTS).write_text((whole / JUDGEMENTS).read_text()[:300])
    with pytest.raises(RunError, match="holds an evaluation already; go on with --resume"):
        evaluate(replace(config, judge=f"{judge_file}:longer"), out)
    assert evaluate(replace(config, judge=f"{judge_file}:longer"), out, resume=True) == expected
    assert (out / ANSWERS).read_text() == answers
    import foresighted.judging.policies as policies

    monkeypatch.setattr(policies, "load", lambda *_: pytest.fail("nothing is generated twice"))
    assert evaluate(replace(config, judge=f"{judge_file}:longer"), out, resume=True) == expected
    with pytest.raises(RunError, match=r"temperature was 1.0, now 0.5"):
        evaluate(replace(config, judge=f"{judge_file}:longer", temperature=0.5), out, resume=True)
    with pytest.raises(RunError, match="has answers of b="):
        evaluate(replace(config, policies=config.policies[:1]), out, resume=True)


def _written(path, **texts):
    path.write_text(
        "".join(json.dumps({"prompt_id": k, "prompt": f"Q {k}?", "text": v}) + "\n" for k, v in texts.items())
    )


def test_answers_that_changed_are_judged_anew_and_no_others(config, judge_file, tmp_path):
    a, b, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "out"
    _written(a, p="long answer", q="x", r="same")
    _written(b, p="short", q="xx", r="same")
    config = replace(config, prompts=None, split="auto", policies=(f"a={a}", f"b={b}"), judge=f"{judge_file}:longer")
    assert evaluate(config, out).pairs[0].counts == Counts(1, 1, 1, 0, 0)
    _written(b, p="a much longer answer", q="xx", r="same")
    assert evaluate(config, out, resume=True).pairs[0].counts == Counts(2, 1, 0, 0, 0)
    lines = [json.loads(line)["prompt_id"] for line in (out / JUDGEMENTS).read_text().splitlines()]
    assert lines == ["p", "q", "r", "p"]
    _written(b, p="short", q="xx")  # back again, and one answer less
    again = evaluate(config, out, resume=True)
    assert again.pairs[0].counts == Counts(1, 0, 1, 0, 0)
    assert again.missing == 1
    answers = {(row.policy, row.prompt_id): row.text for row in read_rows(out / ANSWERS, AnswerRow)}
    assert answers["b", "p"] == "short"


@pytest.mark.slow
def test_a_prompt_that_reads_otherwise_is_answered_anew(config, tiny_llama, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "p", "prompt": "One?"}\n{"id": "q", "prompt": "Two?"}\n')
    config = replace(config, policies=(f"a={tiny_llama}",), prompts=str(prompts), split="all")
    evaluate(config, tmp_path / "out")
    prompts.write_text('{"id": "p", "prompt": "Another?"}\n{"id": "q", "prompt": "Two?"}\n')
    evaluate(config, tmp_path / "out", resume=True)
    lines = [json.loads(line)["prompt"] for line in (tmp_path / "out" / ANSWERS).read_text().splitlines()]
    assert lines == ["One?", "Two?", "Another?"]


def test_a_judge_whose_file_changed_does_not_go_on(config, files, judge_file, tmp_path):
    config = replace(files(config, a=["x"], b=["yy"]), judge=f"{judge_file}:longer")
    out = tmp_path / "out"
    assert evaluate(config, out).pairs[0].counts.wins == 1
    judge_file.write_text(judge_file.read_text().replace("0.9", "0.3").replace("0.1", "0.7"))  # the other way round
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(RunError, match=r"^judge: .*judge.py is not as it was .*judgements.jsonl"):
        evaluate(config, out, resume=True)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    (out / JUDGEMENTS).unlink()  # as the message says
    assert evaluate(config, out, resume=True).pairs[0].counts.losses == 1
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Be kind.")
    config = replace(config, rubric=str(rubric))
    evaluate(config, tmp_path / "ruled")
    rubric.write_text("Be stern.")
    with pytest.raises(RunError, match=r"^rubric: "):
        evaluate(config, tmp_path / "ruled", resume=True)


def test_a_judge_that_cannot_be_loaded_shows_before_anything_is_written(config, tmp_path, monkeypatch):
    import foresighted.judging.policies as policies

    monkeypatch.setattr(policies, "load", lambda *_: pytest.fail("nothing is generated"))
    path = tmp_path / "bad.py"
    path.write_text("import nosuchmodule\n")
    config = replace(config, policies=("a=embedded", "b=embedded"), judge=f"{path}:f")
    for begin in (evaluate, estimated):
        with pytest.raises(ConfigError, match=r"^judge: .*bad.py fails with ModuleNotFoundError"):
            begin(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_judge_that_exits_is_a_failure(config, files, tmp_path):
    path = tmp_path / "exits.py"
    path.write_text("def f(prompt, first, second):\n    raise SystemExit(3)\n")
    config = replace(files(config, a=["x"], b=["yy"]), judge=f"{path}:f")
    with pytest.raises(RunError, match=r"failed \(error 1\)"):
        evaluate(config, tmp_path / "out")


def test_a_table_is_no_evaluation_to_go_on_with(config, files, judge_file, tmp_path):
    (tmp_path / "t.csv").write_text("a_vs_b\na\nb\n")
    evaluate_table(tmp_path / "t.csv", baseline=None, seed=0, out=tmp_path / "out")
    config = replace(files(config, a=["x"], b=["yy"]), judge=f"{judge_file}:longer")
    with pytest.raises(RunError, match="holds the result of a table of judgements"):
        evaluate(config, tmp_path / "out", resume=True)


def test_the_last_line_of_a_file_of_answers_needs_no_newline(config, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q", "text": "one"}\n{"prompt": "r", "text": "two"}')
    config = replace(config, prompts=None, split="auto", policies=(f"a={path}",))
    assert evaluate(config, tmp_path / "out").policies[0].answers == 2
    path.write_text('{"prompt": "q", "text": "one"}\n{"prompt": "r", "te')
    with pytest.raises(DataError, match="line 2: not a JSON object"):
        evaluate(config, tmp_path / "out2")


def test_a_policy_can_be_added(config, files, judge_file, tmp_path):
    config = files(config, a=["x"] * 3, b=["xx"] * 3, c=["xxx"] * 3)
    config = replace(config, judge=f"{judge_file}:longer")
    evaluate(replace(config, policies=config.policies[:2]), tmp_path / "out")
    before = (tmp_path / "out" / JUDGEMENTS).read_text()
    result = evaluate(config, tmp_path / "out", resume=True)
    assert len(result.pairs) == 3
    assert (tmp_path / "out" / JUDGEMENTS).read_text().startswith(before)
