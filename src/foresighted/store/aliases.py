"""What others call our columns: one table for everything that reads files which are not ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ALIASES: Mapping[str, tuple[str, ...]] = {
    "round": ("round", "step", "global_step", "training_step", "train_step", "iteration", "iter", "update"),
    "prompt": ("prompt", "question", "instruction", "query", "input", "problem", "prompts"),
    "prompt_id": ("prompt_id", "question_id", "query_id"),
    "response": ("response", "completion", "output", "answer", "text", "generation", "generated_text"),
    "reward": (
        "reward", "score", "rm_score", "reward_score", "proxy_reward", "reward_model_score", "rewards", "scores",
    ),
    "utility": ("utility", "true_utility", "gold", "gold_reward", "gold_score", "true_reward", "human_score", "rating"),
    "label": ("label", "preference", "human_label", "human_preference"),
    "reference_reward": ("reference_reward", "baseline_reward"),
    "kl": ("kl", "kl_divergence", "kl_to_ref"),
    "tokens": ("tokens", "num_tokens", "completion_length", "response_length", "output_tokens"),
    "kind": ("kind", "category", "data_source", "domain", "topic"),
    "run": ("run", "arm", "run_name", "run_id", "experiment"),
    "seed": ("seed",),
}  # fmt: skip
"""Our name of a column -> names under which it is looked for in anybody's files, best first; upper and lower case count
alike."""


def key_of(ours: str, row: Iterable[str]) -> str | None:
    """Return the key under which a row has one of our columns, or None.

    Example:
        >>> key_of("response", ("id", "Completion"))
        'Completion'
    """
    lower = {key.lower(): key for key in reversed(list(row))}
    return next((lower[name] for name in ALIASES[ours] if name in lower), None)
