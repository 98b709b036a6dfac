"""Prompts: the bundled set, the user's files, the split into train and held-out, and the order of a run."""

from foresighted.prompts.load import PromptSet, id_of, kind_of, load_prompts, order, read_prompts, split_of, text_id

__all__ = ["PromptSet", "id_of", "kind_of", "load_prompts", "order", "read_prompts", "split_of", "text_id"]
