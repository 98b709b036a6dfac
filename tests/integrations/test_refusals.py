"""What FPOReward refuses: one line that says what, where and what to do."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")

from foresighted.errors import ConfigError, DataError, ModelError, RunError
from foresighted.integrations.trl import FileQueue, FPOConfig, FPOReward
from foresighted.integrations.trl.groups import gather
from foresighted.integrations.trl.processes import Processes

PROMPTS, RESPONSES = ["Why?"] * 3 + ["What?"] * 3, ["Light.", "Air", "Blue.", "Water", "Clouds", "rain"]


def prefer(prompts, first, second):
    return [0.5] * len(prompts)


def begun(fpo, out, size=3):
    args = SimpleNamespace(device=torch.device("cpu"), output_dir=str(out), num_generations=size, should_save=True)
    state = SimpleNamespace(global_step=0, log_history=[])
    fpo.on_train_begin(args, state, None, model=SimpleNamespace(training=True), processing_class=None)
    return fpo


def test_a_reward_model_with_two_labels_is_refused(tiny_deberta):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny_deberta, num_labels=2, ignore_mismatched_sizes=True)
    with pytest.raises(ModelError, match=r"has 2 labels; a reward model has one"):
        FPOReward(model)


@pytest.mark.slow
def test_a_policy_for_a_reward_model_is_refused(tiny_llama):
    from transformers import AutoModelForCausalLM

    for policy in (str(tiny_llama), AutoModelForCausalLM.from_pretrained(tiny_llama)):
        with pytest.raises(ModelError, match="is a LlamaForCausalLM; give a sequence classifier"):
            FPOReward(policy)
    with pytest.raises(ModelError, match="got function; give a sequence classifier"):
        FPOReward(prefer)
    with pytest.raises(ModelError, match=r"reward_model: no folder \./nowhere; give a model folder"):
        FPOReward("./nowhere")


def test_a_tokenizer_of_another_model_is_refused(tiny_deberta, tokenizer):
    import copy

    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([f"word{i}" for i in range(30)])
    with pytest.raises(ModelError, match="give the reward model's own tokenizer, not the policy's"):
        FPOReward(str(tiny_deberta), tokenizer=larger)
    other = copy.deepcopy(tokenizer)
    other.pad_token = "<|end|>"
    with pytest.raises(ModelError, match=r"pads with token 1, .* expects 0"):
        FPOReward(str(tiny_deberta), tokenizer=other)


def test_one_generation_a_group_is_refused(tmp_path, tiny_deberta):
    with pytest.raises(ConfigError, match="set num_generations to at least 2"):
        begun(FPOReward(str(tiny_deberta), FPOConfig(), prefer), tmp_path, None)(["a", "b"], ["x", "y"])


def test_a_missing_reference_column_is_named(tmp_path, tiny_deberta):
    config = FPOConfig(reference="column", reference_column="answer")
    fpo = begun(FPOReward(str(tiny_deberta), config, prefer), tmp_path)
    with pytest.raises(DataError, match=r"no column 'answer' \(did you mean 'answers'\?\); it has answers"):
        fpo(PROMPTS, RESPONSES, answers=["x"] * 6)
    with pytest.raises(DataError, match="neither a text nor messages"):
        fpo(PROMPTS, RESPONSES, answer=[None] * 6)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (lambda p, a, b: [1.5] * len(p), "got 1.5; a preference lies in"),
        (lambda p, a, b: [float("nan")] * len(p), "got nan; a preference lies in"),
        (lambda p, a, b: [0.5], r"got \[0.5\] for 6 pairs; return one number a pair"),
        (lambda p, a, b: ["first"] * len(p), "for 6 pairs; return one number a pair"),
        (lambda p, a, b: 0.5, "got 0.5 for 6 pairs"),
    ],
)
def test_labels_that_are_none_are_refused(labels, said, tmp_path, tiny_deberta):
    fpo = begun(FPOReward(str(tiny_deberta), FPOConfig(steering="proximal"), labels), tmp_path)
    with pytest.raises(DataError, match=said):
        fpo(PROMPTS, RESPONSES)


def test_forms_that_read_labels_need_somebody_who_gives_them_at_once(tmp_path, tiny_deberta):
    for labels, said in ((None, "labels: got none"), (FileQueue(tmp_path), "a queue answers rounds later")):
        with pytest.raises(ConfigError, match=said):
            FPOReward(str(tiny_deberta), FPOConfig(steering="relaxed"), labels)
        FPOReward(str(tiny_deberta), FPOConfig(steering="relaxed", steering_labels="baseline"), labels)
    with pytest.raises(ConfigError, match="steering_labels: group is of foresighted train alone; use candidate"):
        FPOConfig(steering="relaxed", steering_labels="group")


def test_what_cannot_be_a_labeller_or_settings_is_refused(tmp_path, tiny_deberta):
    for arguments, said in (
        ({"args": prefer}, "args: got function, expected FPOConfig"),
        ({"labels": "judge"}, "labels: got 'judge'; give a function"),
        ({"labels": lambda text: 1.0}, r"cannot be called with \(prompts, first, second\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            FPOReward(str(tiny_deberta), **arguments)
    with pytest.raises(RunError, match="but the trainer begins anew"):
        begun(FPOReward(str(tiny_deberta), FPOConfig(), prefer, resume_from=tmp_path), tmp_path)


def test_a_prompt_with_an_image_is_refused():
    batch = [[{"role": "user", "content": [{"type": "image", "image": object()}]}]]

    class Two(Processes):
        def gather(self, value):
            return [json.loads(json.dumps(value))] * 2

    with pytest.raises(DataError, match="FPOReward reads text alone"):
        gather(Two(torch.device("cpu")), batch, ["a"], [1], None)


def test_settings_are_checked_all_at_once():
    with pytest.raises(ConfigError) as caught:
        FPOConfig(steering="practicl", update_every="2")
    assert "did you mean 'practical'" in str(caught.value)
    assert "update_every: got '2', expected a whole number" in str(caught.value)
    with pytest.raises(ConfigError, match="update_every: got 0, must be at least 1; reward_model_learning_rate"):
        FPOConfig(update_every=0, reward_model_learning_rate=0.0)
