"""The commands of docs/evaluate.md, run with tiny models, a local endpoint and small files."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from foresighted.cli.main import main
from foresighted.judging.result import read_evaluation

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"


def _commands() -> list[list[str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
    return [shlex.split(line)[2:] for line in lines]


@pytest.fixture
def place(tmp_path, monkeypatch, tiny, tiny_llama, server):
    """A folder in which every file exists that the page speaks of."""
    from foresighted.alignment.run import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name, text in (("before", "bad"), ("after", "good")):
        rows = [{"prompt_id": str(i), "prompt": f"Question {i}?", "kind": "factual", "text": text} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "rubric.yaml").write_text(yaml)
    (tmp_path / "pairwise_judgements.csv").write_text("prompt_id,a_vs_b\n1,a\n2,tie\n")
    tasks = tmp_path / "my-tasks"
    tasks.mkdir()
    (tasks / "data.jsonl").write_text('{"question": "Sky?", "choices": [" blue", " mud"], "answer": 0}\n' * 4)
    (tasks / "colours.yaml").write_text(
        f"task: colours\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tasks / 'data.jsonl'}}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: answer\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    train(replace(tiny, rounds=1), tmp_path / "runs" / "first")
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # of lm-evaluation-harness
@pytest.mark.parametrize("harness", [False, pytest.param(True, marks=pytest.mark.capabilities)])
def test_the_commands_of_the_page_run(place, server, tiny_llama, prompt_file, capsys, harness):
    if harness:
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: make test-capabilities")
    ran = 0
    for words in _commands():
        if "mmlu,arc_challenge" in words:
            continue  # their data lie on the hub
        if ("--capabilities" in words) != harness:
            continue
        small = {"http://localhost:8000/v1": server.url, "likelihood": f"likelihood:{tiny_llama}"}
        given = [small.get(word, word.replace("=embedded", f"={tiny_llama}")) for word in words]
        if any("embedded" in word for word in words):
            given += ["--prompts", str(prompt_file), "--max-new-tokens", "4", "--device", "cpu", "--threads", "1"]
        assert main(given) == 0, (words, capsys.readouterr().err)
        ran += 1
    assert ran == (1 if harness else 6)
    if harness:
        assert read_evaluation(place / "runs" / "own-task").capabilities[0].task == "colours"
        return
    assert read_evaluation(place / "runs" / "asked").pairs[0].counts.wins == 3
    assert {g.name for g in read_evaluation(place / "runs" / "rubric").pairs[0].categories} == {"dosage"}
