"""Unchanged trainers of TRL with an FPOReward in `reward_funcs` and `callbacks`, on tiny models."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

pytest.importorskip("trl")

from foresighted.errors import ConfigError, RunError
from foresighted.integrations.trl import FPOConfig, FPOReward
from foresighted.store.records import CandidateRow, HeldoutRow, RoundRow
from foresighted.store.rows import read

pytestmark = pytest.mark.slow

COMMON = {
    "per_device_train_batch_size": 8, "max_completion_length": 6, "logging_steps": 1, "report_to": "none",
    "use_cpu": True, "bf16": False, "learning_rate": 1e-3, "disable_tqdm": True, "save_strategy": "no",
    "gradient_checkpointing": False,
}  # fmt: skip


def _trainer(kind, out, policy, fpo, data, rewards=None, peft_config=None, **settings):
    import trl

    arguments = {**COMMON, "num_generations": 4, "output_dir": str(out), **settings}
    args = getattr(trl, f"{kind}Config")(**arguments)
    return getattr(trl, f"{kind}Trainer")(
        model=str(policy), reward_funcs=rewards or fpo, callbacks=fpo if isinstance(fpo, list) else [fpo], args=args,
        train_dataset=data,
        eval_dataset=data.select(range(2)), peft_config=peft_config,
    )  # fmt: skip


def _records(out, name="foresighted"):
    folder = out / name
    return read(folder / "rounds.jsonl", RoundRow), read(folder / "candidates.jsonl", CandidateRow)


@pytest.mark.parametrize(
    ("kind", "text"), [("GRPO", "standard"), ("GRPO", "conversational"), ("RLOO", "conversational")]
)
def test_a_trainer_runs_unchanged(kind, text, tmp_path, tiny_llama, tiny_deberta, prompts, labels):
    fpo = FPOReward(str(tiny_deberta), FPOConfig(steering="proximal", gamma=0.5), labels)
    trainer = _trainer(kind, tmp_path, tiny_llama, fpo, prompts(text), max_steps=3)
    before = {name: p.detach().clone() for name, p in fpo.follower.learner.parameters.items()}
    trainer.train()
    rounds, candidates = _records(tmp_path)
    assert [row.round for row in rounds] == [1, 2, 3]
    assert [row.labels for row in rounds] == [8, 8, 8]
    assert labels.asked == 24
    assert len(candidates) == 24
    assert all(row.score == pytest.approx(row.reward - row.penalty, abs=1e-6) for row in candidates)
    assert all(0 <= row.label <= 1 and row.utility is not None for row in candidates)
    assert {row.prompt for row in candidates} <= set(prompts("standard")["prompt"])
    assert any(not torch.equal(before[name], p) for name, p in fpo.follower.learner.parameters.items())
    logged = [entry for entry in trainer.state.log_history if "fpo/penalty" in entry]
    assert len(logged) == 3
    names = {"fpo/reward_model", "fpo/influence", "fpo/overconfidence", "fpo/reward_model_loss",
             "fpo/reward_model_accuracy", "fpo/reward_model_drift", "fpo/labels_total"}  # fmt: skip
    assert names <= set().union(*logged)
    for entry, row in zip(logged, rounds, strict=True):
        assert entry["reward"] == pytest.approx(row.reward - row.penalty, abs=1e-4)
        assert entry["fpo/overconfidence"] == pytest.approx(row.overconfidence, abs=1e-4)
    assert rounds[-1].reward_model_drift > 0


def test_online_dpo_hands_over_all_prompts_twice(tmp_path, tiny_llama, tiny_deberta, prompts, labels, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    fpo = FPOReward(str(tiny_deberta), FPOConfig(steering="relaxed", gamma=0.5), labels)
    settings = {key: value for key, value in COMMON.items() if key != "max_completion_length"}
    args = OnlineDPOConfig(output_dir=str(tmp_path), max_steps=2, max_new_tokens=6, max_length=64, **settings)
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_llama), reward_funcs=fpo, callbacks=[fpo], args=args,
        train_dataset=prompts("standard", 8), processing_class=AutoTokenizer.from_pretrained(tiny_llama),
    )  # fmt: skip
    trainer.train()
    rounds, candidates = _records(tmp_path)
    assert [row.labels for row in rounds] == [8, 8]
    assert len(candidates) == 32
    for one, two in zip(candidates[::2], candidates[1::2], strict=True):
        assert (one.prompt_id, one.candidate, two.candidate) == (two.prompt_id, 0, 1)
        assert one.label + two.label == pytest.approx(1)
    assert any("fpo/penalty" in entry for entry in trainer.state.log_history)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_llama, tiny_deberta, prompts, length_labels):
    """A trainer that was evaluated after each of two steps, its reward, labels, directory and held-out rows; and then
    once more."""
    out, labels = tmp_path_factory.mktemp("evaluated"), length_labels()
    fpo = FPOReward(str(tiny_deberta), FPOConfig(steering="proximal", gamma=5.0, update_every=3), labels)
    trainer = _trainer(
        "GRPO", out, tiny_llama, fpo, prompts(), max_steps=2, eval_strategy="steps", eval_steps=1,
        per_device_eval_batch_size=4, log_completions=True, num_completions_to_print=0,
    )  # fmt: skip
    trainer.train()
    heldout = read(out / "foresighted" / "heldout.jsonl", HeldoutRow)
    trainer.evaluate()
    return trainer, fpo, labels, out, heldout


def test_evaluation_gets_the_bare_reward_and_trains_nothing(evaluated):
    trainer, fpo, labels, _, heldout = evaluated
    assert fpo.follower.buffer.counts.rounds == 2
    assert fpo.follower.buffer.counts.updates == 0
    assert len(fpo.follower.buffer.ready) == 16
    assert labels.asked == 16
    assert [row.round for row in heldout] == [1, 1, 2, 2]
    assert all(row.utility is not None and row.kl is None for row in heldout)
    evaluations = [entry for entry in trainer.state.log_history if "eval_reward" in entry]
    mean = sum(row.reward for row in heldout[2:]) / 2
    assert evaluations[1]["eval_reward"] == pytest.approx(mean, abs=1e-4)


def test_the_table_of_completions_holds_the_rewards_of_evaluation(evaluated):
    logs = evaluated[0]._logs
    last = 4  # rows of an evaluation batch
    rewards = list(logs["rewards"]["fpo"])[-last:]
    assert list(logs["extra"]["reward_model"])[-last:] == pytest.approx(rewards, abs=1e-5)
    assert list(logs["extra"]["penalty"])[-last:] == [0.0] * last


def test_report_and_audit_read_a_trl_run(evaluated, capsys):
    from foresighted.cli.main import main

    out = evaluated[3]
    assert main(["report", str(out / "foresighted")]) == 0
    assert "proximal" in capsys.readouterr().out
    assert (out / "foresighted" / "report.html").stat().st_size > 10_000
    assert main(["audit", str(out / "foresighted")]) == 0
    assert "CANNOT TELL" in capsys.readouterr().out  # two prompts, two rounds
    assert main(["audit", str(out / "completions")]) == 0  # TRL's own table of the same
    assert "response = completion, reward = reward_model. Wrong?" in capsys.readouterr().out


def test_several_rewards_and_a_gold_reward_of_weight_0(tmp_path, tiny_llama, tiny_deberta, prompts, labels):
    def gold(completions, **_):
        return [float(len(text)) for text in completions]

    def short(completions, **_):
        return [-float(len(text)) for text in completions]

    fpo = FPOReward(str(tiny_deberta), FPOConfig(steering="practical", gamma=0.1), labels)
    trainer = _trainer(
        "GRPO", tmp_path, tiny_llama, fpo, prompts(), rewards=[fpo, short, gold], max_steps=2,
        reward_weights=[1.0, 0.5, 0.0],
    )  # fmt: skip
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["reward"] == pytest.approx(entry["rewards/fpo/mean"] + 0.5 * entry["rewards/short/mean"], abs=1e-3)
    assert entry["rewards/gold/mean"] > 0
    assert len(_records(tmp_path)[0]) == 2


ARMS = [
    {"steering": "rlhf"},
    {"steering": "practical", "gamma_unit": "share"},
    {"steering": "relaxed", "influence": "batch", "paid": "margin"},
    {"steering": "relaxed", "steering_labels": "baseline", "reward_model_pairs": "all"},
    {"steering": "exact"},
    {"steering": "exact", "curvature": "hessian", "scope": "head:2", "reward_model_train": "all", "damping": 20.0},
    {"steering": "exact", "curvature": "adamw"},
    {"steering": "unrolled", "unrolled_steps": 2},
    {"steering": "proximal", "scope": "all", "reward_model_train": "all"},
    {"steering": "proximal", "scope": "last:1", "influence": "batch", "reward_model_train": "all"},
    {"steering": "relaxed", "scope": "lora", "reward_model_train": "lora", "reward_model_lora_rank": 2},
    {"steering": "proximal", "reference": "column"},
    {"steering": "practical", "reference": "column", "scope": "all", "reward_model_train": "all"},
]


def test_every_form_and_scope(tmp_path, tiny_llama, tiny_deberta, prompts, labels):
    """One trainer with an object for each, which know nothing of each other."""
    every = {"-".join(map(str, arm.values())): arm for arm in ARMS}
    made = [
        FPOReward(str(tiny_deberta), FPOConfig(gamma=0.2, reward_model_learning_rate=1e-3, **arm), labels, name=name)
        for name, arm in every.items()
    ]
    _trainer("GRPO", tmp_path, tiny_llama, made, prompts(), max_steps=2).train()
    for fpo, (name, arm) in zip(made, every.items(), strict=True):
        rounds, candidates = _records(tmp_path, f"foresighted-{name}")
        assert all(math.isfinite(row.penalty) for row in candidates), name
        assert (arm["steering"] == "rlhf") == all(row.penalty == 0 for row in candidates), name
        assert [row.labels for row in rounds] == [8 if fpo.config.every_pair else 2] * 2, name
        assert rounds[-1].reward_model_loss > 0, name


def test_references_come_from_the_frozen_policy(tmp_path, tiny_llama, tiny_deberta, prompts, labels):
    from peft import LoraConfig

    fpo = FPOReward(str(tiny_deberta), FPOConfig(steering="practical", reference="policy"), labels)
    trainer = _trainer(
        "GRPO", tmp_path, tiny_llama, fpo, prompts(), max_steps=2, peft_config=LoraConfig(task_type="CAUSAL_LM")
    )
    trainer.train()
    first = fpo._frozen.write(["Why is the sky blue?"])
    assert first == fpo._frozen.write(["What is rain?", "Why is the sky blue?"])[1:]
    assert len(first[0]) == 4
    with pytest.raises(ConfigError, match="has no adapter to switch off"):
        _trainer("GRPO", tmp_path / "b", tiny_llama, FPOReward(str(tiny_deberta), fpo.config, labels), prompts(),
                 max_steps=2).train()  # fmt: skip


def test_an_own_reference_policy_is_read_as_it_is(tiny_llama, tokenizer):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from foresighted.integrations.trl.processes import Processes
    from foresighted.integrations.trl.references import FrozenPolicy

    def policy(**settings):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(tiny_llama)
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()

    trained = policy(init_lora_weights=False, lora_alpha=200)
    options = FPOConfig(reference_max_new_tokens=8), Processes(torch.device("cpu"))
    own = FrozenPolicy(policy(), tokenizer, trained, *options).write(["What is rain?"])
    base = FrozenPolicy(policy(), tokenizer, None, *options).write(["What is rain?"])
    assert own != base


def test_two_objects_in_one_trainer_need_two_names(tmp_path, tiny_llama, tiny_deberta, prompts, labels):
    def made(*names):
        return [FPOReward(str(tiny_deberta), FPOConfig(), labels, name=name) for name in names]

    def trainer(both):
        import trl

        args = trl.GRPOConfig(
            output_dir=str(tmp_path), num_generations=4, max_steps=2, **{**COMMON, "save_strategy": "steps"},
            save_steps=1,
        )  # fmt: skip
        return trl.GRPOTrainer(
            model=str(tiny_llama), reward_funcs=both, callbacks=both, args=args, train_dataset=prompts()
        )

    with pytest.raises(ConfigError, match="two FPOReward objects of one trainer are called 'fpo'"):
        trainer(made("fpo", "fpo")).train()
    one = trainer(made("helpful", "harmless"))
    one.train()
    assert {"helpful/penalty", "harmless/penalty"} <= set(one.state.log_history[0])
    for name in ("helpful", "harmless"):
        assert len(read(tmp_path / f"foresighted-{name}" / "rounds.jsonl", RoundRow)) == 2
        assert (tmp_path / "checkpoint-2" / f"foresighted-{name}" / "state.json").exists()


def test_the_command_line_of_trl(tmp_path, tiny_llama, tiny_deberta, prompts, monkeypatch):
    """`trl grpo --reward_funcs my_rewards.fpo`: no callbacks can be passed, the object attaches itself."""
    from transformers import trainer as transformers_trainer
    from trl.scripts import grpo

    monkeypatch.setattr(transformers_trainer, "DEFAULT_CALLBACKS", list(transformers_trainer.DEFAULT_CALLBACKS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_rewards.py").write_text(
        "from foresighted.integrations.trl import FPOConfig, FPOReward\n"
        "def prefer(prompts, first, second):\n"
        "    return [float(len(a) > len(b)) for a, b in zip(first, second)]\n"
        f"fpo = FPOReward({str(tiny_deberta)!r}, FPOConfig(steering='proximal'), prefer).attach_to_every_trainer()\n"
    )
    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in prompts()["prompt"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(rows)
    words = [
        "--model_name_or_path", str(tiny_llama), "--reward_funcs", "my_rewards.fpo", "--dataset_name", "data",
        "--output_dir", "out", "--max_steps", "2", "--per_device_train_batch_size", "8", "--num_generations", "4",
        "--max_completion_length", "6", "--report_to", "none", "--use_cpu", "--bf16", "false", "--save_steps", "1",
        "--gradient_checkpointing", "false", "--disable_tqdm", "true", "--dtype", "float32",
    ]  # fmt: skip
    script, training, model, data = grpo.make_parser().parse_args_and_config(words)[:4]
    grpo.main(script, training, model, data)
    assert len(read(tmp_path / "out" / "foresighted" / "rounds.jsonl", RoundRow)) == 2
    assert (tmp_path / "out" / "checkpoint-2" / "foresighted" / "state.json").exists()


def test_without_callbacks_training_is_refused(tmp_path, tiny_llama, tiny_deberta, prompts, labels):
    import trl

    fpo = FPOReward(str(tiny_deberta), FPOConfig(), labels)
    args = trl.GRPOConfig(output_dir=str(tmp_path), num_generations=4, max_steps=1, **COMMON)
    trainer = trl.GRPOTrainer(model=str(tiny_llama), reward_funcs=fpo, args=args, train_dataset=prompts())
    with pytest.raises(ConfigError, match=r"pass callbacks=\[fpo\]"):
        trainer.train()


def test_a_checkpoint_without_our_state_is_an_error(tmp_path, tiny_llama, tiny_deberta, prompts, labels):
    import shutil

    def trainer(**arguments):
        fpo = FPOReward(str(tiny_deberta), FPOConfig(**arguments), labels)
        return _trainer("GRPO", tmp_path, tiny_llama, fpo, prompts(), max_steps=2, save_strategy="steps", save_steps=1)

    trainer().train()
    with pytest.raises(RunError, match=r"belongs to another configuration \(update_every was 1, now 2\)"):
        trainer(update_every=2).train(resume_from_checkpoint=True)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    other = AutoModelForSequenceClassification.from_pretrained(tiny_deberta)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    fpo = FPOReward(other, FPOConfig(), labels, tokenizer=AutoTokenizer.from_pretrained(tiny_deberta))
    with pytest.raises(RunError, match="has another body than the one given"):
        _trainer("GRPO", tmp_path, tiny_llama, fpo, prompts(), max_steps=2).train(resume_from_checkpoint=True)
    state = tmp_path / "checkpoint-2" / "foresighted" / "reward_model.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"damaged; resume_from_checkpoint='.*checkpoint-1' has it"):
        trainer().train(resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "checkpoint-2" / "foresighted")
    with pytest.raises(RunError, match=r"the run's reward model is lost here; .*checkpoint-1' has it"):
        trainer().train(resume_from_checkpoint=True)
    elsewhere = tmp_path.with_name(tmp_path.name + "-moved")
    shutil.move(tmp_path / "checkpoint-1", elsewhere)
    shutil.rmtree(tmp_path / "checkpoint-2")
    fpo = FPOReward(str(tiny_deberta), FPOConfig(), labels, resume_from=elsewhere)
    _trainer("GRPO", tmp_path, tiny_llama, fpo, prompts(), max_steps=2).train(resume_from_checkpoint=str(elsewhere))
    assert [row.round for row in _records(tmp_path)[0]] == [1, 2]
    with pytest.raises(RunError, match="is no checkpoint of the trainer; give FPOReward"):
        trainer().train(resume_from_checkpoint=str(elsewhere))


def test_a_finished_run_plays_nothing_and_changed_records_are_refused(
    tmp_path, tiny_llama, tiny_deberta, prompts, labels
):
    def trainer(steps=2):
        fpo = FPOReward(str(tiny_deberta), FPOConfig(), labels)
        return _trainer(
            "GRPO", tmp_path, tiny_llama, fpo, prompts(), max_steps=steps, save_strategy="steps", save_steps=1
        )

    trainer().train()
    asked, folder = labels.asked, tmp_path / "foresighted"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        RunError, match=r"this run is finished, 2 of 2 steps: nothing is left to train; raise max_steps"
    ):
        trainer().train(resume_from_checkpoint=True)
    candidates = folder / "candidates.jsonl"
    candidates.write_bytes(before["candidates.jsonl"].replace(b"\n", b"\n\n", 1))
    with pytest.raises(RunError, match=r"candidates.jsonl: its first \d+ bytes are not those .* begin a new run"):
        trainer(3).train(resume_from_checkpoint=True)
    candidates.write_bytes(before["candidates.jsonl"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert labels.asked == asked
    trainer(3).train(resume_from_checkpoint=True)
    assert [row.round for row in _records(tmp_path)[0]] == [1, 2, 3]
