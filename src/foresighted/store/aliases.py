"""What others call our columns: one table for everything that reads files which are not ours."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from foresighted.errors import nearest
from foresighted.inputs import shown

ALIASES: Mapping[str, tuple[str, ...]] = {
    "round": ("round", "step", "global_step", "training_step", "train_step", "iteration", "iter", "update"),
    "prompt": ("prompt", "question", "instruction", "query", "input", "problem", "prompts", "turns"),
    "prompt_id": ("prompt_id", "question_id", "query_id"),
    "response": (
        "response", "completion", "output", "generation", "generated_text", "model_output", "text", "answer",
    ),
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
alike. `answer` stands last: where a log also has a response, it is the right answer."""
CONVERSATIONS = ("messages", "conversations", "conversation", "dialog", "dialogue")
"""Keys of a whole exchange, its last answer included: chat messages, or ShareGPT's `from` and `value`."""
CHOSEN, REJECTED = "chosen", "rejected"
"""Keys of a pair of exchanges that share their prompt: HH transcripts, or chat messages."""
KNOWN = frozenset(name for names in ALIASES.values() for name in names) | {*CONVERSATIONS, CHOSEN, "id", "winner"}
"""Names by which the header of a table is known."""


def key_of(ours: str, row: Iterable[str]) -> str | None:
    """Return the key under which a row has one of our columns, or None.

    Example:
        >>> key_of("response", ("id", "Completion"))
        'Completion'
    """
    return next(iter(keys_of(ours, row)), None)


def keys_of(ours: str, row: Iterable[str]) -> list[str]:
    """Return all keys under which a row may have one of our columns, best first."""
    lower = {key.strip().lower(): key for key in reversed(list(row))}
    return [lower[name] for name in ALIASES[ours] if name in lower]


def listed(names: Iterable[str], most: int = 12) -> str:
    """Return names as a message shows them."""
    every = [shown(name) for name in names]
    return (", ".join(every[:most]) or "nothing") + (f" and {len(every) - most} more" if len(every) > most else "")


def written(name: str) -> str:
    """Return a name as it is written after `--column`: in quotes where a shell or a terminal would not take it."""
    return name if re.fullmatch(r"[\w./+:@-]+", name) else shown(name)


def not_there(ours: str, names: Collection[str]) -> str:
    """Return, in words, which keys there are in place of one of our columns, and the nearest that would do."""
    others = [name for name in names if name.strip().lower() not in KNOWN]
    close = next(filter(None, (nearest(alias, others) for alias in ALIASES[ours])), "")
    return f"no {ours} under any name that is known ({', '.join(ALIASES[ours])}); it has {listed(names)}{close}"
