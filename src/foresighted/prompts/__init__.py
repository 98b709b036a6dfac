"""Prompts: the bundled set, the user's files, the split into train and held-out, and the order of a run."""

from foresighted.prompts.load import (
    INITIAL_EPOCH,
    PromptSet,
    id_of,
    kind_of,
    load_prompts,
    order,
    prompt_id,
    read_prompts,
    split_of,
    text_id,
)

__all__ = [
    "INITIAL_EPOCH",
    "PromptSet",
    "id_of",
    "kind_of",
    "load_prompts",
    "order",
    "prompt_id",
    "read_prompts",
    "split_of",
    "text_id",
]
