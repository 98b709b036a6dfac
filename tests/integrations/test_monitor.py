"""CollapseMonitor: what it calls a collapse and what not, and what it does then, in a real trainer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("trl")

import foresighted as fpo
from foresighted.auditing.audit import audit
from foresighted.errors import ConfigError, RunError
from foresighted.integrations.trl import CollapseMonitor
from foresighted.integrations.trl.monitor import load_weights
from foresighted.statistics.series import check_fall


def _run(seed, fall, proxy_slope=0.02, window=5, alpha=0.05, threshold=0.0):
    """Return the step of the first alarm of a noisy run, or None."""
    random = np.random.default_rng(seed)
    gold = random.normal(0, 0.2, 60)
    gold[30:] -= fall
    proxy = random.normal(0, 0.2, 60) + proxy_slope * np.arange(60)
    for step in range(1, 61):
        seen = check_fall(
            gold[:step], proxy[:step], window=window, alpha=alpha, threshold=threshold, proxy_threshold=0.5
        )
        if seen is not None and seen.collapsed:
            return step
    return None


@pytest.mark.slow
def test_false_alarms_keep_their_level_over_the_whole_run():
    alarms = sum(_run(seed, 0.0) is not None for seed in range(400))
    assert alarms <= 32  # 5 % of 400 is 20; more than 32 would happen in fewer than 1 of 200 tests


def test_a_fall_while_the_proxy_rises_is_found_soon():
    found = [_run(seed, 1.0, threshold=0.3) for seed in range(50)]
    assert all(step is not None and 30 < step <= 45 for step in found)


def test_a_fall_of_both_is_not_collapse_and_a_small_one_does_not_count():
    for settings in ({"fall": 1.0, "proxy_slope": -0.1}, {"fall": 0.25, "threshold": 0.3}):
        assert sum(_run(seed, **settings) is not None for seed in range(50)) <= 3


def _logged(monitor, out, rows, step=0):
    args = SimpleNamespace(output_dir=str(out))
    state = SimpleNamespace(global_step=step, log_history=[], is_world_process_zero=True)
    control = SimpleNamespace(should_training_stop=False)
    monitor.on_train_begin(args, state, control)
    for row in rows:
        state.global_step += 1
        monitor.on_log(args, state, control, logs=row, model=None)
    return control


def test_symptoms_are_named_once_and_never_stop_a_run(tmp_path, caplog):
    monitor = CollapseMonitor(window=3)
    lengths = [20, 21, 19, 20, 22, 50, 55, 60, 61, 62, 60]
    control = _logged(monitor, tmp_path, [{"completions/mean_length": n, "reward": 0.1} for n in lengths])
    said = [json.loads(line) for line in (tmp_path / "collapse.jsonl").read_text().splitlines()]
    assert [(row["verdict"], row["step"]) for row in said] == [("suspicious", 8)]
    assert "completions/mean_length went from 20 to 55" in said[0]["reason"]
    assert not control.should_training_stop
    assert monitor.verdict is None
    assert len(caplog.records) == 1


def test_metrics_that_are_missing_or_not_finite_are_passed_over(tmp_path):
    monitor = CollapseMonitor(gold="gold", window=3, action="stop")
    rows = [{"reward": 1.0}, {"gold": 1.0}, {"gold": float("nan"), "reward": 1.0}] * 4
    assert not _logged(monitor, tmp_path, rows).should_training_stop


def test_the_penalty_does_not_hide_a_collapse(tmp_path):
    """With FPO the score is the reward less the penalty; what is watched beside utility is the reward."""
    random = np.random.default_rng(0)
    rows = []
    for step in range(20):
        utility, reward = (1.0 if step < 10 else -7.0), 0.1 * step
        noise = random.normal(0, 0.1, 3)
        rows.append(
            {"fpo/utility": utility + noise[0], "fpo/reward_model": reward + noise[1], "fpo/utility_std": 2.0,
             "reward": reward - (0 if step < 10 else 5) + noise[2]}
        )  # fmt: skip
    assert _logged(CollapseMonitor(gold="fpo/utility", action="stop"), tmp_path, rows).should_training_stop
    small = [{**row, "fpo/utility": row["fpo/utility"] if i < 10 else 0.1} for i, row in enumerate(rows)]
    assert not _logged(CollapseMonitor(gold="fpo/utility", action="stop"), tmp_path, small).should_training_stop


@pytest.mark.parametrize("bad", [float("nan"), None, float("inf"), "n/a"])
@pytest.mark.parametrize("name", ["rewards/gold/std", "rewards/gold/mean", "reward", "reward_std"])
def test_a_value_that_is_no_finite_number_silences_nothing(tmp_path, bad, name):
    random = np.random.default_rng(0)
    rows = [
        {"reward": 1 + 0.01 * step, "reward_std": 0.3, "rewards/gold/std": 0.5,
         "rewards/gold/mean": 2 - max(0, step - 30) * 0.05 + random.normal(0, 0.1)}
        for step in range(80)
    ]  # fmt: skip
    for row in rows[2:60:7]:
        row[name] = bad
    monitor = CollapseMonitor(gold="rewards/gold/mean", action="stop")
    assert _logged(monitor, tmp_path, rows).should_training_stop
    assert monitor.verdict.verdict == "collapsed"


def test_a_metric_that_nobody_logs_is_named(tmp_path, caplog):
    _logged(CollapseMonitor(gold="fpo/utilty", window=3), tmp_path, [{"fpo/utility": 1.0, "reward": 1.0}] * 6)
    assert [r.message for r in caplog.records] == [
        "no log holds a number under 'fpo/utilty' (did you mean 'fpo/utility'?): nothing can be judged by it"
    ]


def test_settings_are_checked():
    for settings, said in (
        ({"action": "rolback"}, "did you mean 'rollback'"),
        ({"window": 2}, "must be at least 3"),
        ({"alpha": 1.0}, r"must be in \(0, 1\)"),
        ({"action": "stop"}, "gold: got none"),
    ):
        with pytest.raises(ConfigError, match=said):
            CollapseMonitor(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("peft", [False, True])
def test_a_trainer_stops_with_the_weights_from_before_the_fall(peft, tmp_path, tiny_llama, prompts):
    import trl
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    def reward(completions, trainer_state, **_):
        return [float(len(text)) + trainer_state.global_step for text in completions]

    def gold(completions, trainer_state, **_):
        fall = 30.0 if trainer_state.global_step >= 6 else 0.0
        return [0.1 * len(text) - fall for text in completions]

    settings = {"window": 3, "action": "rollback"}
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=6,
        max_steps=20, save_steps=3, logging_steps=1, report_to="none", use_cpu=True, bf16=False, learning_rate=1e-2,
        disable_tqdm=True, reward_weights=[1.0, 0.0], gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=str(tiny_llama), reward_funcs=[reward, gold], args=args, train_dataset=prompts(),
        peft_config=LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False) if peft else None,
    )  # fmt: skip
    if peft:
        monitor = fpo.watch(trainer, **settings)
    else:
        trainer.add_callback(monitor := CollapseMonitor(gold="rewards/gold/mean", **settings))
    trainer.train()
    assert monitor.verdict is not None
    assert (monitor.verdict.step, monitor.verdict.since) == (9, 6)
    assert trainer.state.global_step == 9
    trainer.save_state()  # trainer_state.json, as every script of TRL leaves it
    (arm,) = audit(tmp_path).arms
    assert (arm.verdict, arm.logs, arm.fall.last) == ("collapsed", 9, 9)
    trainer.save_model(tmp_path / "final")
    name = "adapter_model.safetensors" if peft else "model.safetensors"
    good, final, first = (
        (tmp_path / folder / name).read_bytes() for folder in ("checkpoint-6", "final", "checkpoint-3")
    )
    assert final == good
    assert final != first
    assert not (tmp_path / "checkpoint-9").exists()  # weights of step 6 with the optimiser of step 9
    if not peft:
        with pytest.raises(RunError, match="holds no safetensors that one process can load"):
            load_weights(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path)
        assert not torch.equal(
            AutoModelForCausalLM.from_pretrained(tmp_path / "final").lm_head.weight,
            AutoModelForCausalLM.from_pretrained(tiny_llama).lm_head.weight,
        )


def test_without_a_checkpoint_from_before_the_fall_it_stops_and_says_so(tmp_path, caplog):
    monitor = CollapseMonitor(gold="gold", window=3, action="rollback")
    rows = [{"gold": 1.0 + 0.01 * i, "reward": 1.0} for i in range(3)]
    rows += [{"gold": -1.0 + 0.01 * i, "reward": 2.0} for i in range(3)]
    assert _logged(monitor, tmp_path, rows).should_training_stop
    assert "no checkpoint up to step 3 is left" in caplog.text
