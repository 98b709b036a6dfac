"""Which responses of a group are compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from foresighted.integrations.trl.groups import Batch
from foresighted.labels.pair import Pair, Place, pair_id


def make_pairs(
    number: int, batch: Batch, rows: list[list[int]], features: Tensor | None, places: Sequence[Place]
) -> list[Pair]:
    """Return the pairs at some places of a round.

    Args:
        number: of the round.
        batch: rows of all processes.
        rows: of each group.
        features: the head's inputs of each group, its reference last, where they never change; shape B responses D.
        places: of the pairs.
    """
    pairs, references = [], batch.references or []
    for place in places:
        group = rows[place.group]
        prompt, first = batch.prompts[group[0]], batch.responses[group[place.first]]
        second = references[group[0]] if place.second is None else batch.responses[group[place.second]]
        pair = Pair(pair_id(number, prompt, first, second), prompt, first, second, place=place)
        if features is not None:
            pair.features = features[place.group, [place.first, -1 if place.second is None else place.second]]
        pairs.append(pair)
    return pairs


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
