"""Whole evaluations with tiny models: every kind of policy, every judge in this process, resuming."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml

from foresighted.errors import ConfigError, DataError, ModelError, RunError
from foresighted.judging.plan import estimated, prompts_for
from foresighted.judging.policies import Source, answers_from_file, load, sources
from foresighted.judging.result import read_evaluation
from foresighted.judging.rows import AnswerRow, JudgementRow, read_rows
from foresighted.judging.run import evaluate
from foresighted.judging.settings import DIGESTS, EvaluateConfig
from foresighted.store.directory import ANSWERS, JUDGEMENTS
from foresighted.types import Prompt


@pytest.fixture
def config(prompt_file) -> EvaluateConfig:
    return EvaluateConfig(
        policies=("a=x",), prompts=str(prompt_file), split="heldout", max_new_tokens=6, batch=3, device="cpu", threads=1
    )


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run of two rounds of `foresighted train`."""
    from foresighted.alignment.run import train

    out = tmp_path_factory.mktemp("trained") / "run"
    train(replace(tiny, rounds=2), out)
    return out


@pytest.mark.slow
def test_a_run_its_adapter_and_its_base_are_three_ways_to_name_a_policy(config, trained, tiny_llama, tmp_path):
    named = (f"base={tiny_llama}", f"run={trained}", f"adapter={trained / 'policy'}")
    result = evaluate(replace(config, policies=named), tmp_path / "out")
    answers = read_rows(tmp_path / "out" / ANSWERS, AnswerRow)
    texts = {name: [row.text for row in answers if row.policy == name] for name in ("base", "run", "adapter")}
    assert texts["run"] == texts["adapter"]
    assert texts["run"] != texts["base"]
    assert all(1 <= row.tokens <= 6 for row in answers)
    assert [policy.answers for policy in result.policies] == [4, 4, 4]
    assert result.pairs == ()
    assert result.judge is None


def test_greedy_is_what_generate_gives(config, tiny_llama):
    import torch

    from foresighted.judging.policies import generate

    config = replace(config, policies=(f"base={tiny_llama}",))
    (source,) = sources(config.named())
    _, prompts = prompts_for(config, [source])
    policy = load(config, source)
    rows = [row for batch in generate(config, source, prompts, policy=policy) for row in batch]
    for row in rows:
        text = f"<|user|>{row.prompt}<|end|><|assistant|>"
        ids = policy.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            out = policy.model.generate(**ids, do_sample=False, max_new_tokens=6, min_new_tokens=1, pad_token_id=0)
        naive = policy.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert row.text == naive


@pytest.mark.slow
def test_sampled_answers_depend_on_the_seed_alone(config, tiny_llama, tmp_path):
    config = replace(config, policies=(f"a={tiny_llama}", f"b={tiny_llama}"), temperature=1.0, max_new_tokens=12)
    texts = []
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        evaluate(replace(config, seed=seed), tmp_path / name)
        texts.append([row.text for row in read_rows(tmp_path / name / ANSWERS, AnswerRow)])
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][:4] == texts[0][4:]  # common random numbers: one model under two names


@pytest.mark.slow
def test_an_arm_with_several_seeds_meets_a_base_without(config, trained, tiny_llama, tmp_path, judge_file):
    arm = tmp_path / "arm"
    for seed in (0, 1):
        (arm / f"seed-{seed}").parent.mkdir(exist_ok=True)
        (arm / f"seed-{seed}").symlink_to(trained)
    named = (f"base={tiny_llama}", f"arm={arm}")
    result = evaluate(replace(config, policies=named, judge=f"{judge_file}:longer"), tmp_path / "out")
    pair = result.pairs[0]
    assert (pair.first, pair.second, pair.seeds) == ("arm", "base", (0, 1))
    assert pair.counts.judged == 8
    assert pair.by_seed[0].counts == pair.by_seed[1].counts
    with pytest.raises(ConfigError, match="holds several seeds"):
        sources(replace(config, policies=(f"arm@1={arm}",)).named())


@pytest.mark.slow
def test_judges_in_this_process(config, files, judge_file, tiny_llama, tiny_deberta, tmp_path):
    config = files(config, a=["bad", "bad", "same", "good one"], b=["good one", "good", "same", "bad"])
    counts = {}
    for name in ("longer", "known", "always_first"):
        pair = evaluate(replace(config, judge=f"{judge_file}:{name}"), tmp_path / name).pairs[0]
        counts[name] = (pair.counts.wins, pair.counts.ties, pair.counts.losses, pair.counts.position_bias)
        assert pair.identical == 1
    assert counts == {"longer": (2, 1, 1, 0), "known": (2, 1, 1, 0), "always_first": (0, 1, 0, 3)}
    for judge in (f"likelihood:{tiny_llama}", f"reward:{tiny_deberta}"):
        pair = evaluate(replace(config, judge=judge), tmp_path / judge.partition(":")[0]).pairs[0]
        assert pair.counts.judged == 4
        assert pair.counts.position_bias == 0
        assert pair.counts.wins + pair.counts.losses == 3


def test_a_likelihood_judge_prefers_what_the_model_says(config, tiny_llama, files, tmp_path):
    from foresighted.judging.policies import plain_policy

    config = files(config, a=["one two", "a"], b=["three", "b"])
    policy = plain_policy(config, str(tiny_llama))
    evaluate(replace(config, judge=f"likelihood:{tiny_llama}"), tmp_path / "out")
    for row in read_rows(tmp_path / "out" / JUDGEMENTS, JudgementRow):
        own = {}
        for name, texts in (("a", ["one two", "a"]), ("b", ["three", "b"])):
            rollout = policy.encode_responses([texts[int(row.prompt_id[1:])]])
            total = policy.log_likelihood([f"Question {row.prompt_id[1:]}?"], rollout)
            own[name] = max(-10.0, float(total) / rollout.lengths()[0])
        expected = "tie" if own["a"] == own["b"] else max(own, key=own.get)
        assert row.forward == row.backward == expected


def test_a_judge_that_raises_is_a_failure_by_kind(config, files, judge_file, tmp_path):
    config = files(config, a=["bad", "bad"], b=["good", "worse"])
    with pytest.raises(RunError, match=r"every pair that was asked about failed \(malformed 1, error 1\)"):
        evaluate(replace(config, judge=f"{judge_file}:broken"), tmp_path / "out")
    rows = read_rows(tmp_path / "out" / JUDGEMENTS, JudgementRow)
    assert {row.failure for row in rows} == {"error", "malformed"}
    assert any("boom" in (row.failure_detail or "") for row in rows)


def test_a_tie_margin_makes_ties(config, files, judge_file, tmp_path):
    config = files(config, a=["bad", "b"], b=["good one", "a"])
    pair = evaluate(replace(config, judge=f"{judge_file}:longer", tie_margin=0.4), tmp_path / "out").pairs[0]
    assert pair.counts.ties == 2


def test_three_policies_are_rated_and_corrected_for(config, files, judge_file, tmp_path):
    config = files(config, a=["x"] * 8, b=["xx"] * 8, c=["xxx"] * 8)
    result = evaluate(replace(config, judge=f"{judge_file}:longer"), tmp_path / "out")
    assert [(p.first, p.second) for p in result.pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert all(p.holm == pytest.approx(3 * p.p) for p in result.pairs)
    ratings = [policy.rating for policy in result.policies]
    assert ratings[0].rating == 0 < ratings[1].rating < ratings[2].rating
    assert any(s.startswith("Bradley-Terry ratings") for s in result.sentences)
    assert read_evaluation(tmp_path / "out") == result


def test_prompts_that_some_policy_did_not_answer_are_left_out_and_said(config, files, judge_file, tmp_path):
    config = files(config, a=["x", "y", "z"], b=["xx", "yy"])
    result = evaluate(replace(config, judge=f"{judge_file}:longer"), tmp_path / "out")
    assert (result.prompts, result.missing) == (2, 1)
    assert "1 prompt left out: some policy has no answer to them." in result.sentences


def test_answers_of_other_engines_are_read_by_other_names(config, tmp_path, prompt_file):
    prompts = [json.loads(line) for line in prompt_file.read_text().splitlines()]
    path = tmp_path / "vllm.jsonl"
    path.write_text("".join(json.dumps({"prompt": p["prompt"], "response": "I cannot help."}) + "\n" for p in prompts))
    result = evaluate(replace(config, policies=(f"v={path}",)), tmp_path / "out")
    policy = result.policies[0]
    assert (policy.answers, policy.refusals.successes, policy.tokens) == (4, 4, None)
    assert policy.words.mean == 3


def test_a_dry_run_estimates_and_writes_nothing(config, tiny_llama, tmp_path):
    named = (f"a={tiny_llama}", f"b={tiny_llama}", f"c={tiny_llama}")
    asked = replace(config, policies=named, judge="openai:m", base_url="http://127.0.0.1:9/v1")
    estimate = estimated(asked, tmp_path / "out")
    assert (estimate.answers, estimate.pairs, estimate.requests) == (12, 12, 24)
    assert 24 * 300 < estimate.tokens < 24 * 700
    assert not (tmp_path / "out").exists()
    more = estimated(replace(asked, categories="judge"), tmp_path / "out")
    assert more.requests == 24 + 4
    assert more.tokens > estimate.tokens


def test_held_out_prompts_are_the_default_where_training_has_seen_the_rest(config, trained, tiny_llama, prompt_file):

    auto = replace(config, split="auto")
    for named, count in ((f"base={tiny_llama}", 11), (f"run={trained}", 4)):
        own = replace(auto, policies=(named,))
        assert len(prompts_for(own, sources(own.named()))[1]) == count
    bundled = replace(auto, prompts=None, policies=("base=embedded",))
    name, prompts = prompts_for(bundled, sources(bundled.named()))
    assert name == "bundled (heldout)"
    assert len(prompts) < 150


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a"}', "line 1: no response under any name that is known (response, completion,"),
        ('{"prompt": "a", "txet": "x"}', "did you mean 'txet'"),
        ('{"prompt": "a", "text": 5}', "line 1: text is 5; expected text"),
        ('{"text": "a"}', "line 1: neither prompt_id nor prompt"),
        ('{"text": "a", "prompt": ["x", "y"]}', "prompt is ['x', 'y']; expected text"),
        ('{"text": "a", "prompt": "q", "seed": "x"}', "seed is 'x'"),
        ("nonsense", "line 1: not a JSON object"),
        ('{"text": "a", "prompt": "q"}\n{"text": "b", "prompt": "q"}', "line 2: prompt"),
    ],
)
def test_bad_files_of_answers(config, tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        evaluate(replace(config, prompts=None, policies=(f"a={path}",)), tmp_path / "out")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [
        [{"dataset": "mine", "instruction": f"Q{n}", "output": f"A{n}", "generator": "m"} for n in range(3)],
        [{"prompt": [{"role": "user", "content": f"Q{n}"}], "completion": [{"role": "assistant", "content": f"A{n}"}]}
         for n in range(3)],
        [{"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": f"A{n}"}]}
         for n in range(3)],
        [{"question_id": f"q{n}", "model_id": "m", "choices": [{"index": 0, "turns": [f"A{n}", "more"]}]}
         for n in range(3)],
        [{"id": f"q{n}", "response": f"A{n}"} for n in range(3)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
def test_answers_under_the_names_of_others(tmp_path, rows, name):
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in rows))
    prompts = [Prompt(f"q{n}", f"Q{n}", "unspecified") for n in range(3)]
    found = answers_from_file(Source("m", 0, "file", str(path)), prompts)
    assert [(row.prompt_id, row.text) for row in found] == [(f"q{n}", f"A{n}") for n in range(3)]


def test_an_answer_to_another_prompt_of_that_id_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt_id": "0", "prompt": "Why?", "response": "So."}\n')
    with pytest.raises(DataError, match=r"line 1: answers 'Why\?', but among the prompts '0' is 'When\?'"):
        answers_from_file(Source("m", 0, "file", str(path)), [Prompt("0", "When?", "unspecified")])


def test_what_is_no_policy(config, tmp_path, tiny_deberta, trained):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("x")  # a file, so answers
    for source, words in (
        ("./nowhere", "no file or folder ./nowhere"),
        ("~nobody-of-this-name/x", "no file or folder ~nobody-of-this-name/x"),
        (tmp_path / "empty", "is none of a model folder"),
        ("x.csv", "no file or folder x.csv"),
        (tmp_path / "x.csv", "has no answer"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            evaluate(replace(config, policies=(f"a={source}",)), tmp_path / "out")
    with pytest.raises(ModelError, match=r"policies: .* is a DebertaV2"):
        evaluate(replace(config, policies=(f"a={tiny_deberta}",)), tmp_path / "out2")
    with pytest.raises(RunError, match="is not empty and holds no evaluation"):
        evaluate(replace(config, policies=("a=embedded",)), tmp_path)
    early = tmp_path / "early"
    early.mkdir()
    (early / "config.yaml").write_text((trained / "config.yaml").read_text())
    (early / "candidates.jsonl").write_text("")
    with pytest.raises(RunError, match="has no whole checkpoint"):
        evaluate(replace(config, policies=(f"a={early}",)), tmp_path / "out3")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_text("{}")
    (pickled / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"no adapter_model.safetensors; nothing else is read"):
        evaluate(replace(config, policies=(f"a={pickled}",)), tmp_path / "out4")


def test_the_configuration_can_be_run_again(config, files, judge_file, tmp_path):
    from foresighted.settings import from_mapping

    config = replace(files(config, a=["x"], b=["y"]), judge=f"{judge_file}:longer")
    evaluate(config, tmp_path / "out")
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert set(saved.pop(DIGESTS)) == {"judge"}
    assert from_mapping(EvaluateConfig, saved) == config


def test_a_base_is_asked_as_its_run_was_trained(config, trained, tiny_llama, caplog):
    from foresighted.judging.policies import with_shared_system_prompt

    named = sources(replace(config, policies=(f"base={tiny_llama}", f"run={trained}")).named())
    assert with_shared_system_prompt(config, named).system_prompt is None
    path = trained / "config.yaml"
    before = path.read_text()
    try:
        path.write_text(before.replace("system_prompt: null", "system_prompt: ''"))
        assert with_shared_system_prompt(config, named).system_prompt == ""
        assert with_shared_system_prompt(replace(config, system_prompt="x"), named).system_prompt == "x"
    finally:
        path.write_text(before)


def test_half_a_surrogate_pair_is_one_line_in_answers_and_replaced_in_reasons(config, files, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"prompt": "a", "text": "\\ud800"}\n')
    with pytest.raises(DataError, match="line 1: text holds half of a surrogate pair"):
        evaluate(replace(config, prompts=None, policies=(f"s={path}",)), tmp_path / "out")
    judge = tmp_path / "odd.py"
    judge.write_text("def odd(prompt, first, second):\n    raise ValueError('\\ud800' * 9999)\n")
    config = files(config, a=["x"], b=["y"])
    with pytest.raises(RunError, match="error 1"):
        evaluate(replace(config, judge=f"{judge}:odd"), tmp_path / "odd")
    (row,) = read_rows(tmp_path / "odd" / JUDGEMENTS, JudgementRow)
    assert "\ud800" not in row.failure_detail


def test_two_at_once_do_not_mix(config, files, judge_file, tmp_path):
    from filelock import FileLock

    config = replace(files(config, a=["x"], b=["y"]), judge=f"{judge_file}:longer")
    evaluate(config, tmp_path / "out")
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(RunError, match="another process is writing"):
        evaluate(config, tmp_path / "out", resume=True)


def test_a_policy_without_any_answer_to_the_prompts_stops_it(config, tmp_path, judge_file):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text('{"prompt": "q", "text": "one"}\n')
    b.write_text('{"prompt_id": "elsewhere", "text": "two"}\n')
    config = replace(config, prompts=None, split="auto", policies=(f"a={a}", f"b={b}"), judge=f"{judge_file}:longer")
    with pytest.raises(DataError, match="no prompt was answered by all of them"):
        evaluate(config, tmp_path / "out")
    assert estimated(config, tmp_path / "out").pairs == 0


def test_a_run_whose_settings_no_longer_fit_its_weights_is_one_line(config, trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    path = copy / "config.yaml"
    settings = path.read_text()
    path.write_text(re.sub(r"lora_rank: \d+", "lora_rank: 3", settings))
    with pytest.raises(RunError, match=r"has other parameters than .*config.yaml says"):
        evaluate(replace(config, policies=(f"a={copy}",)), tmp_path / "out")
    path.write_text(re.sub(r"policy: .*", "policy: object:LlamaForCausalLM:0", settings, count=1))
    with pytest.raises(RunError, match=r"was trained from a Python object; give .*policy"):
        evaluate(replace(config, policies=(f"a={copy}",)), tmp_path / "out2")


def test_only_numbered_folders_of_an_arm_are_its_seeds(config, trained, tmp_path):
    for name in ("seed-10", "seed-2", "seed-old"):
        shutil.copytree(trained, tmp_path / "arm" / name)
    found = sources(replace(config, policies=(f"a={tmp_path / 'arm'}",)).named())
    assert [(source.seed, source.place) for source in found] == [
        (2, str(tmp_path / "arm/seed-2")),
        (10, str(tmp_path / "arm/seed-10")),
    ]
