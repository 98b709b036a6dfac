"""Words of a text, and how much it repeats itself: counted in one way wherever it is counted."""

from __future__ import annotations

import itertools
import re


def words(text: str) -> list[str]:
    """Return the words of a text, lower case, punctuation dropped."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def repetition(text: str) -> float:
    """Return the share of the text's word pairs that stood in it before, in [0, 1)."""
    pairs = list(itertools.pairwise(words(text)))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def distinct(text: str, n: int) -> float:
    """Return the share of a text's word n-grams that are distinct (1 for a text of fewer than n words)."""
    sequence = words(text)
    grams = list(zip(*(sequence[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
