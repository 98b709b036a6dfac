"""Which responses of a group are compared."""

from __future__ import annotations

from torch import Tensor

from foresighted.labels.pair import Place


def every_pair(groups: int, size: int, with_reference: bool) -> list[Place]:
    """Return pairs that hold every response: each with its reference, or each with its neighbour in a ring.

    A ring asks for one label a response, holds each response twice, and its mean over a response's two pairs estimates
    without bias the preference over a random sibling.
    """
    if with_reference:
        return [Place(g, i, None) for g in range(groups) for i in range(size)]
    ring = size if size > 2 else size - 1
    return [Place(g, i, (i + 1) % size) for g in range(groups) for i in range(ring)]


def best_pairs(score: Tensor, with_reference: bool) -> list[Place]:
    """Return one pair a group: the best-scored response with its reference, or with the worst-scored one.

    Args:
        score: shape groups size.
        with_reference: whether groups have a reference response.
    """
    best, worst = score.argmax(-1).tolist(), score.argmin(-1).tolist()
    if with_reference:
        return [Place(g, i, None) for g, i in enumerate(best)]
    return [Place(g, i, j) for g, (i, j) in enumerate(zip(best, worst, strict=True)) if i != j]
