"""Capability checks: the harness on a task made of local files, with a tiny model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.judging import capabilities as capabilities_module
from foresighted.judging.capabilities import TaskScores, capabilities
from foresighted.judging.run import evaluate
from foresighted.judging.settings import EvaluateConfig

pytestmark = [
    pytest.mark.slow, pytest.mark.capabilities, pytest.mark.filterwarnings("ignore"),  # of the harness
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-evaluation-harness: make test-capabilities"),
]  # fmt: skip

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "colours.jsonl"
    items = [{"question": f"Item {i}: sky?", "choices": [" blue", " mud", " tin"], "answer": i % 3} for i in range(12)]
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "colours.yaml").write_text(TASK.format(name="colours", data=data))
    (folder / "gone.yaml").write_text(TASK.format(name="gone", data=folder / "none.jsonl"))
    return folder


@pytest.fixture
def config(tiny_llama, prompt_file, tasks) -> EvaluateConfig:
    return EvaluateConfig(
        policies=(f"a={tiny_llama}", f"b={tiny_llama}"), prompts=str(prompt_file), split="heldout", max_new_tokens=2,
        device="cpu", threads=1, capabilities=("colours",), capability_limit=9, capability_tasks=str(tasks),
    )  # fmt: skip


def test_a_task_from_local_files(config, tiny_llama, tmp_path):
    result = evaluate(config, tmp_path / "out")
    first, second = result.capabilities
    assert (first.policy, first.task, first.metric) == ("a", "colours", "acc")
    assert (first.items, first.available) == (9, 12)
    assert first.difference is None
    assert second.difference is not None
    assert (second.difference.mean, second.difference.low, second.difference.high) == (0, 0, 0)
    assert first.score.mean == second.score.mean == pytest.approx(_naive_accuracy(tiny_llama, 9))
    assert any(s.startswith("colours (acc, 9 of 12 items): a ") for s in result.sentences)


def test_no_task_is_measured_twice(config, tmp_path, monkeypatch):
    result = evaluate(config, tmp_path / "out")
    monkeypatch.setattr(capabilities_module, "measure", lambda *_: pytest.fail("measured twice"))
    assert evaluate(config, tmp_path / "out", resume=True) == result
    with pytest.raises(pytest.fail.Exception, match="measured twice"):
        evaluate(replace(config, capability_limit=3), tmp_path / "out", resume=True)
    (tmp_path / "out" / "capabilities.jsonl").write_text('{"policy": "a"}\n')
    with pytest.raises(RunError, match=r"capabilities.jsonl: has 16 bytes"):
        evaluate(config, tmp_path / "out", resume=True)


def _naive_accuracy(folder, items: int) -> float:
    """Choose the continuation of largest log-likelihood, one at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    hits = 0
    for i in range(items):
        scores = []
        for choice in (" blue", " mud", " tin"):
            context = tokenizer(f"Item {i}: sky?", add_special_tokens=False)["input_ids"]
            whole = tokenizer(f"Item {i}: sky?{choice}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                log_p = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(log_p[at - 1, whole[at]]) for at in range(len(context), len(whole))))
        hits += max(range(3), key=scores.__getitem__) == i % 3
    return hits / items


def test_what_cannot_be_run_is_one_line(config, tmp_path, monkeypatch):
    read = capabilities_module.tasks
    monkeypatch.setattr(capabilities_module, "tasks", lambda folder, defaults: read(folder, defaults=False))
    with pytest.raises(ConfigError, match=r"no task 'colour' \(did you mean 'colours'\?\)"):
        evaluate(replace(config, capabilities=("colour",)), tmp_path / "out")
    with pytest.raises(ConfigError, match="capability_tasks: no folder /no/where"):
        evaluate(replace(config, capability_tasks="/no/where"), tmp_path / "out")
    with pytest.raises(DataError, match="capabilities: gone cannot be run") as caught:
        evaluate(replace(config, capabilities=("gone",)), tmp_path / "out")
    assert "\n" not in str(caught.value)
    answers = tmp_path / "a.jsonl"
    answers.write_text('{"prompt": "a", "text": "b"}\n')
    with pytest.raises(ConfigError, match="a file of answers; a capability check needs its model"):
        evaluate(replace(config, policies=(f"a={answers}",), prompts=None, split="auto"), tmp_path / "out2")
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    read.cache_clear()
    with pytest.raises(ConfigError, match="capabilities: need lm-evaluation-harness; pip install"):
        evaluate(config, tmp_path / "out3")


def test_differences_are_paired_by_item_and_seed():
    def scores(name: str, seed: int, *values: float) -> TaskScores:
        own = {f"t/{i}": value for i, value in enumerate(values)}
        return TaskScores(name, seed, None, "t", "acc", own, len(values))

    measured = [scores("base", 0, 1, 0, 1, 0), scores("new", 0, 1, 1, 1, 0), scores("new", 1, 1, 1, 1, 1)]
    base, new = capabilities(measured, "base", seed=0, level=0.95)
    assert base.score.mean == 0.5
    assert (new.score.mean, new.seeds) == (7 / 8, (0, 1))
    assert new.difference is not None
    assert new.difference.mean == pytest.approx(3 / 8)
