"""Prompts: the bundled set, the user's files, the split into train and held-out, and the order of a run."""

from foresighted.prompts.load import PromptSet, load_prompts, order, read_prompts, text_id

__all__ = ["PromptSet", "load_prompts", "order", "read_prompts", "text_id"]
