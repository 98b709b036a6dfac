"""Shapes and small results, named once for the whole package.

Shape letters: B prompts, N candidates a prompt, T tokens, D features of the reward model's head, P parameters.
A flat batch of candidates has B*N rows, prompt-major: row b*N + n is candidate n of prompt b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

Text = str | list[dict[str, Any]]
"""A prompt or a response: text, or the messages of a conversation."""


class Prompt(NamedTuple):
    """One prompt: a stable id, its text and its kind (factual, deceptive, sycophancy, or the user's own)."""

    id: str
    text: str
    kind: str


@runtime_checkable
class Labeller(Protocol):
    """Somebody or something that compares two responses to the same prompt.

    Nothing here needs to be differentiable, smooth or even a probability: a label enters the loop as data only.
    """

    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Sequence[float]:
        """Return, for each row, the preference for `first` over `second`, in [0, 1]."""
        ...


@runtime_checkable
class Utility(Protocol):
    """A known true utility U(x, y). A labeller that has one also lets the loop show what really happened."""

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[float]:
        """Return the true utility of each response to its prompt (any real unit; higher is better)."""
        ...
