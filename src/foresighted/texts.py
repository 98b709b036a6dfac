"""A text as people read it, its words, and how much it repeats itself: in one way wherever it is read or counted."""

from __future__ import annotations

import itertools
import re
import sys
from typing import Any

from foresighted.types import Text


def printable(text: str) -> str:
    r"""Return a text that can be printed: what a file, a model or an endpoint says must not steer a terminal.

    Control and direction characters become spaces, line ends aside; what the encoding of standard output does not have
    becomes a question mark.

    Example:
        >>> printable("a\x1b[31m\u202eb\n")
        'a [31m b\n'
    """
    plain = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return plain.encode(encoding, "replace").decode(encoding)


def words(text: str) -> list[str]:
    """Return the words of a text, lower case, punctuation dropped."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def repetition(text: str) -> float:
    """Return the share of the text's word pairs that stood in it before, in [0, 1)."""
    pairs = list(itertools.pairwise(words(text)))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def distinct(text: str, n: int, *, first: int | None = None, without: float = 1.0) -> float:
    """Return the share of a text's word n-grams that are distinct.

    Args:
        text: a text.
        n: words of an n-gram.
        first: words that are read; all by default. Longer texts repeat more by length alone.
        without: what a text of fewer than n words has.

    Example:
        >>> distinct("Yes, yes! Yes. yes", 2) == 1 / 3
        True
    """
    sequence = words(text)[:first]
    grams = list(zip(*(sequence[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else without


def text_of(prompt: Text) -> str:
    """Return a prompt or response as people read it: the text, one message's content, or `role: content` lines."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return _content(prompt[0])
    return "\n".join(f"{message['role']}: {_content(message)}" for message in prompt)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content if part.get("type", "text") == "text")
