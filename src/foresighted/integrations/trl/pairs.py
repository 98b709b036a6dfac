"""Which responses of a group are compared, and what their labels say of each response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from foresighted.texts import text_of
from foresighted.types import Text


class Pair(NamedTuple):
    """Two responses of a group by their places in it; `second` is None for the group's reference response."""

    group: int
    first: int
    second: int | None


@dataclass
class Labelled:
    """A pair that the reward model learns from, or will when its label comes."""

    id: str
    prompt: Text
    first: Text
    second: Text
    label: float | None
    features: Tensor | None
    """The head's inputs of both, shape 2 D, where the body is frozen."""


def every_pair(groups: int, size: int, with_reference: bool) -> list[Pair]:
    """Return pairs that hold every response: each with its reference, or each with its neighbour in a ring.

    A ring asks for one label a response, holds each response twice, and its mean over a response's two pairs estimates
    without bias the preference over a random sibling.
    """
    if with_reference:
        return [Pair(g, i, None) for g in range(groups) for i in range(size)]
    ring = size if size > 2 else size - 1
    return [Pair(g, i, (i + 1) % size) for g in range(groups) for i in range(ring)]


def best_pairs(score: Tensor, with_reference: bool) -> list[Pair]:
    """Return one pair a group: the best-scored response with its reference, or with the worst-scored one.

    Args:
        score: shape groups size.
        with_reference: whether groups have a reference response.
    """
    best, worst = score.argmax(-1).tolist(), score.argmin(-1).tolist()
    if with_reference:
        return [Pair(g, i, None) for g, i in enumerate(best)]
    return [Pair(g, i, j) for g, (i, j) in enumerate(zip(best, worst, strict=True)) if i != j]


def preferences(pairs: Sequence[Pair], labels: Sequence[float], groups: int, size: int) -> list[list[float | None]]:
    """Return for each response the mean preference over what it was compared with, None where it was in no pair."""
    sums = [[0.0] * size for _ in range(groups)]
    counts = [[0] * size for _ in range(groups)]
    for pair, label in zip(pairs, labels, strict=True):
        sums[pair.group][pair.first] += label
        counts[pair.group][pair.first] += 1
        if pair.second is not None:
            sums[pair.group][pair.second] += 1 - label
            counts[pair.group][pair.second] += 1
    return [
        [total / count if count else None for total, count in zip(*rows, strict=True)]
        for rows in zip(sums, counts, strict=True)
    ]


def same(first: Text, second: Text) -> bool:
    """Return whether two responses are the same text: neither is preferred, and nothing is learnt from them."""
    return text_of(first) == text_of(second)
