"""What share of a GRPO step the steering costs, in scope head, lora and all.

The embedded policy (135 million parameters) writes 8 responses of 64 tokens to a prompt; a reward model of the size of
DeBERTa-v3-base with random weights scores them, prices them (`proximal`, leave-one-out) and is retrained on 8 pairs.

    steering  =  time of scoring with gradient products and penalty  -  time of scoring the same rows without
    share     =  steering / (time of the step - time of the extra scoring)

Both are taken in every step, in turns of either order; a share is the median over the steps after the first two.

    python benchmarks/trl_speed.py [--steps 8] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
from datasets import Dataset
from influence_speed import reward_model
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from foresighted.integrations.trl import FPOConfig, FPOReward
from foresighted.integrations.trl import reward as module
from foresighted.models.embedded import encoder_source, policy_source
from foresighted.prompts import load_prompts
from foresighted.store.environment import processor

GENERATIONS, TOKENS = 8, 64
WARM = 2


class Clock(TrainerCallback):
    """Takes the times of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._now: dict[str, float] = {}
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start a step."""
        self._now = {"steering": 0.0, "scoring": 0.0}
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """End it."""
        whole = time.perf_counter() - self._began
        self.steps.append({**self._now, "step": whole - self._now["scoring"]})

    def add(self, name: str, since: float) -> None:
        """Add a time to the step."""
        self._now[name] += time.perf_counter() - since


def prefer(prompts: list[str], first: list[str], second: list[str]) -> list[float]:
    """Return labels that cost nothing."""
    return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


def measure(scope: str, steps: int) -> dict[str, float]:
    """Train a few steps and return the median shares."""
    clock = Clock()
    score, penalty = module.score, module.Foresight.penalty

    def timed_score(groups: Any, foresight: Any, classifier: Any, *rest: Any) -> Any:
        def plain() -> None:
            began = time.perf_counter()
            with torch.no_grad():
                classifier.rewards(classifier.features(*groups.rows()))
            clock.add("scoring", began)

        if len(clock.steps) % 2:
            plain()
        began = time.perf_counter()
        found = score(groups, foresight, classifier, *rest)
        clock.add("steering", began)
        if not len(clock.steps) % 2:
            plain()
        return found

    def timed_penalty(self: Any, *args: Any) -> Any:
        began = time.perf_counter()
        found = penalty(self, *args)
        clock.add("steering", began)
        return found

    module.score, module.Foresight.penalty = timed_score, timed_penalty  # type: ignore[assignment,method-assign]
    try:
        config = FPOConfig(steering="proximal", gamma=1.0, gamma_unit="share", scope=scope, reward_model_train=scope)
        tokenizer = AutoTokenizer.from_pretrained(encoder_source())
        fpo = FPOReward(reward_model(scope), config, prefer, tokenizer=tokenizer)
        prompts = [{"prompt": [{"role": "user", "content": p.text}]} for p in load_prompts("bundled").train]
        with tempfile.TemporaryDirectory() as folder:
            args = GRPOConfig(
                output_dir=folder, per_device_train_batch_size=GENERATIONS, num_generations=GENERATIONS,
                max_completion_length=TOKENS, max_steps=steps + WARM, report_to="none", save_strategy="no",
                use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False, disable_tqdm=True,
            )  # fmt: skip
            GRPOTrainer(
                model=policy_source(), reward_funcs=fpo, callbacks=[fpo, clock], args=args,
                train_dataset=Dataset.from_list(prompts),
            ).train()  # fmt: skip
    finally:
        module.score, module.Foresight.penalty = score, penalty  # type: ignore[method-assign]
    kept = clock.steps[WARM:]
    shares = [(s["steering"] - s["scoring"]) / s["step"] for s in kept]
    return {
        "share of the step": round(statistics.median(shares), 4),
        "lowest": round(min(shares), 4),
        "highest": round(max(shares), 4),
        "scoring alone, share of the step": round(statistics.median(s["scoring"] / s["step"] for s in kept), 4),
        "seconds a step": round(statistics.median(s["step"] for s in kept), 2),
    }


def main() -> None:
    """Measure the three scopes and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "processor": processor(), "python": platform.python_version(), "torch": torch.__version__,
        "threads": args.threads, "steps": args.steps, "generations": GENERATIONS, "tokens": TOKENS,
    }  # fmt: skip
    for scope in ("head", "lora", "all"):
        result[scope] = measure(scope, args.steps)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
