"""Named starting points of `foresighted train` and `compare`."""

from __future__ import annotations

from typing import Any

from foresighted.settings.fields import settings
from foresighted.settings.files import inner

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {  # a judge that knows something, has a blind spot and learns slowly; the rest is as usual
        "arms": ("rlhf:kl_coefficient=0", "rlhf:kl_coefficient=0.1", "practical:kl_coefficient=0.1"),
        "seeds": (0,),
        "rounds": 40,
        "system_prompt": "",
        "policy_learning_rate": 2e-3,
        "lora_layers": "last:10",
        "max_new_tokens": 16,
        "reward_model": "embedded:relevance",
        "reward_model_learning_rate": 2e-4,
        "reward_model_steps": 1,
        "initial_pairs": 8,
        "initial_steps": 0,
        "heldout_every": 10,
        "heldout_prompts": 24,
    },
    "paper": {
        "rounds": 125,
        "prompts": "hub:HuggingFaceH4/ultrafeedback_binarized:train_prefs:prompt",
        "prompt_limit": 500,
        "prompts_per_round": 4,
        "policy": "meta-llama/Llama-3.2-1B-Instruct",
        "quantization": "4bit",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "policy_learning_rate": 2e-5,
        "policy_update": "best-of-n",
        "accumulation_steps": 4,
        "optimizer": "paged_adamw_8bit",
        "references": 1,
        "candidates": 8,
        "max_new_tokens": 32,
        "min_new_tokens": 5,
        "temperature": 0.8,
        "top_p": 0.9,
        "reward_model": "OpenAssistant/reward-model-deberta-v3-base",
        "reward_model_train": "head",
        "reward_model_input": "response",
        "reward_model_learning_rate": 5e-5,
        "reward_model_steps": 1,
        "reward_model_buffer": 0,
        "reward_model_l2": 0.0,
        "reward_model_pairs": "winner",
        "initial_pairs": 0,
        "labels": "likelihood",
        "steering": "relaxed",
        "gamma": 10.0,
        "gamma_unit": "raw",
        "kl_coefficient": 0.0,
    },
}
"""Named starting points; `--preset NAME`, then the file of `--config`, then flags."""


def preset(name: str, kind: type) -> dict[str, Any]:
    """Return what a preset sets of a configuration class and of those inside it."""
    known = {item for one in (kind, *inner(kind).values()) for item in settings(one)}
    return {item: value for item, value in PRESETS[name].items() if item in known}
