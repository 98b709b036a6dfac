"""What two processes do in test_processes.py: `torchrun distributed.py MODELS OUT SCENARIO`, or the like."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from foresighted.errors import ForesightedError
from foresighted.integrations.trl import FPOConfig, FPOReward

ARMS = {
    "head": {"steering": "proximal"},
    "winner": {"steering": "practical", "update_every": 2},
    "batch": {"steering": "relaxed", "influence": "batch", "gamma_unit": "share"},
    "column": {"steering": "relaxed", "reference": "column"},
    "all": {"steering": "relaxed", "scope": "last:1", "reward_model_train": "all"},
    "all-batch": {"steering": "exact", "scope": "last:1", "reward_model_train": "all", "influence": "batch"},
    "lora": {"steering": "proximal", "scope": "lora", "reward_model_train": "lora", "reward_model_lora_rank": 2},
    "one-model": {"steering": "proximal", "placement": "first-rank"},
    "policy": {"steering": "practical", "reference": "policy", "references": 2, "reference_max_new_tokens": 6},
    "policy-one-model": {
        "steering": "relaxed",
        "reference": "policy",
        "scope": "last:1",
        "reward_model_train": "all",
        "reference_max_new_tokens": 4,
        "placement": "first-rank",
    },
}


class Labels:
    """Prefers the longer response; counts how often it is asked, which only the first process is."""

    def __init__(self):
        self.calls = 0

    def utility(self, prompts, responses):
        return [len(response) / 10 for response in responses]

    def __call__(self, prompts, first, second):
        self.calls += 1
        return [1 / (1 + 2.7 ** ((len(b) - len(a)) / 10)) for a, b in zip(first, second, strict=True)]


def rows(call: int, groups: int) -> tuple[list[str], list[str]]:
    """Return prompts and responses of a call: groups of four."""
    prompts = [f"Question {call} {g}?" for g in range(groups) for _ in range(4)]
    return prompts, [f"answer {'so ' * ((7 * i + call) % 5)}{i}" for i in range(len(prompts))]


def trainer(out: Path):
    """Return what `on_train_begin` gets from a trainer."""
    args = SimpleNamespace(device=torch.device("cpu"), output_dir=str(out), num_generations=4, should_save=True)
    state = SimpleNamespace(global_step=0, log_history=[])
    return args, state, torch.nn.Identity()


def adapted(models: Path) -> tuple[Any, Any]:
    """Return a policy with an adapter that has moved, and its tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(models / "llama")
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")), AutoTokenizer.from_pretrained(models / "llama")


def replay(models: Path, out: Path) -> None:
    """Hand the same rows to every arm: split over the processes so that groups straddle them, and unevenly."""
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for name, arm in ARMS.items():
        config = FPOConfig(gamma=0.5, reward_model_learning_rate=1e-2, **arm)
        labels = Labels()
        fpo = FPOReward(str(models / "deberta"), config, labels)
        args, state, model = trainer(out / name)
        tokenizer = None
        if "policy" in name:
            model, tokenizer = adapted(models)
        fpo.on_train_begin(args, state, None, model=model.train(), processing_class=tokenizer)
        for parameter in (p for key, p in model.named_parameters() if "lora_B" in key):
            torch.nn.init.constant_(parameter, 0.02)
        for call, groups in enumerate((3, 1, 2)):
            prompts, responses = rows(call, groups)
            cut = [0, len(prompts)] if count == 1 else [0, 4 * groups // 2 + 1 - 2 * (call % 2), len(prompts)]
            mine = slice(cut[rank], cut[rank + 1])
            ids = [[1] * len(text.split()) for text in responses[mine]]
            scores = fpo(prompts[mine], responses[mine], completion_ids=ids, reference=["It is so."] * len(ids))
            assert len(scores) == len(ids)
        assert labels.calls == (3 if rank == 0 else 0)


def different(models: Path, out: Path) -> None:
    """One replica was loaded with other weights."""
    fpo = FPOReward(str(models / "deberta"), FPOConfig(), Labels())
    if dist.get_rank() == 1:
        with torch.no_grad():
            next(fpo._reward_model.body.parameters()).add_(1e-3)  # of the frozen body: the head is the same
    args, state, model = trainer(out)
    fpo.on_train_begin(args, state, None, model=model, processing_class=None)


def refused(models: Path, out: Path) -> None:
    """The labeller, which only the first process asks, gives labels that are none."""
    fpo = FPOReward(str(models / "deberta"), FPOConfig(), lambda prompts, first, second: [1.5] * len(prompts))
    args, state, model = trainer(out)
    fpo.on_train_begin(args, state, None, model=model, processing_class=None)
    prompts, responses = rows(0, 1)
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    fpo(prompts[mine], responses[mine])


def away(models: Path, out: Path) -> None:
    """Records cannot be written on the first process, with an error that is none of ours."""
    fpo = FPOReward(str(models / "deberta"), FPOConfig(), Labels())
    args, state, model = trainer(out)
    fpo.on_train_begin(args, state, None, model=model, processing_class=None)
    if fpo._journal is not None:

        def full(_):
            raise ConnectionError("the disk is away")

        fpo._journal.add_round = full
    prompts, responses = rows(0, 1)
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    fpo(prompts[mine], responses[mine])


def grpo(models: Path, out: Path, resume: bool = False) -> None:
    """Train for real, four generations of a prompt straddling two processes; keep what a kill in step 5 would leave."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5 and not resume and args.should_save:
                shutil.copytree(out, out.with_name("killed"))

    count = int(os.environ.get("WORLD_SIZE", "1"))
    config = FPOConfig(steering="proximal", gamma=0.5, reward_model_learning_rate=1e-2, update_every=2)
    fpo = FPOReward(str(models / "deberta"), config, Labels())
    args = GRPOConfig(
        output_dir=str(out), per_device_train_batch_size=4 // count, num_generations=4, max_completion_length=6,
        max_steps=6, save_steps=3, logging_steps=1, report_to="none", use_cpu=True, bf16=False, learning_rate=1e-3,
        disable_tqdm=True, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": [f"Question {i}?" for i in range(8)]})
    trainer = GRPOTrainer(
        model=str(models / "llama"), reward_funcs=fpo, callbacks=[fpo, Kill()], args=args, train_dataset=data,
        eval_dataset=data.select(range(2)),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True if resume else None)
    assert fpo.follower is not None
    weights = {name: p.detach().double().sum().item() for name, p in fpo.follower.learner.parameters.items()}
    (out / f"weights-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(weights))


def killed_and_resumed(models: Path, out: Path) -> None:
    """Train, then go on from what a kill left, with everything made anew."""
    grpo(models, out / "whole")
    grpo(models, out / "killed", resume=True)


def failures(models: Path, out: Path) -> None:
    """Two mistakes, each said on every process."""
    for scenario in (different, refused, away):
        try:
            scenario(models, out / scenario.__name__)
        except (ForesightedError, ConnectionError) as error:
            (out / f"{scenario.__name__}-{dist.get_rank()}.txt").write_text(f"{type(error).__name__}: {error}")


def main() -> None:
    """Run a scenario."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    models, out, scenario = sys.argv[1:]
    dist.init_process_group("gloo")
    Path(out).mkdir(parents=True, exist_ok=True)
    scenarios = {"replay": replay, "failures": failures, "killed_and_resumed": killed_and_resumed}
    scenarios[scenario](Path(models), Path(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
