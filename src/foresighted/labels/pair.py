"""The texts of a round, and the pairs among them: two responses to a prompt, and what is known of which is better."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from foresighted.texts import text_of
from foresighted.types import Text

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # rows are decoded by their annotations, and a labeller of one's own needs no torch


class Place(NamedTuple):
    """Where a pair's responses stand in a round: of prompt `group`, candidates `first` and `second`; None for the
    prompt's first reference response."""

    group: int
    first: int
    second: int | None


@dataclass
class Pair:
    """Two responses to a prompt, and what is known of them so far."""

    id: str
    prompt: Text
    first: Text
    second: Text
    label: float | None = None
    """Preference for `first` over `second`, in [0, 1]; None until somebody has said."""
    asked: bool = True
    """False for two equal texts of a group, whose label is one half without asking."""
    place: Place | None = None
    """None for a pair of an earlier round, or of none."""
    features: Tensor | None = None
    """The head's inputs of both responses, shape 2 D, where they are known and will not change."""
    first_utility: float | None = None
    second_utility: float | None = None
    """True utilities, where they were read."""


class Groups(NamedTuple):
    """The texts of a round: B prompts, N candidates of each, and M reference responses of each where there are any."""

    prompts: Sequence[Text]
    candidates: Sequence[Sequence[Text]]
    references: Sequence[Sequence[Text]] | None

    def rows(self, which: range | None = None) -> tuple[list[Text], list[Text]]:
        """Return prompt and text of every response of some prompts (None: all), a prompt's references last."""
        prompts, texts = [], []
        for group in range(len(self.prompts)) if which is None else which:
            own = [*self.candidates[group], *(self.references[group] if self.references else ())]
            prompts += [self.prompts[group]] * len(own)
            texts += own
        return prompts, texts

    def pairs(self, number: int, places: Sequence[Place], features: Tensor | None = None) -> list[Pair]:
        """Return the pairs at some places of round `number`, nobody's label read yet.

        Args:
            number: of the round.
            places: of the pairs.
            features: the head's inputs of every response of each prompt, its references last, where they never change.
        """
        made = []
        for place in places:
            group, one, other = place
            references = self.references[group] if self.references else ()
            second = references[0] if other is None else self.candidates[group][other]
            texts = self.prompts[group], self.candidates[group][one], second
            pair = Pair(pair_id(number, *texts), *texts, place=place)
            if features is not None:
                place_of_other = len(self.candidates[group]) if other is None else other
                pair.features = features[group, [one, place_of_other]]
            made.append(pair)
        return made


def pair_id(number: int, prompt: Text, first: Text, second: Text) -> str:
    """Return a name that another run's pair, or the same place's pair with other words, does not have."""
    texts = json.dumps([text_of(text) for text in (prompt, first, second)])
    return f"{number}-{hashlib.sha256(texts.encode()).hexdigest()[:12]}"


def every_place(groups: int, size: int, *, with_reference: bool) -> list[Place]:
    """Return pairs that hold every response: each with its reference, or each with its neighbour in a ring.

    A ring asks for one label a response, holds each response twice, and its mean over a response's two pairs estimates
    without bias the preference over a random sibling.
    """
    if with_reference:
        return [Place(g, i, None) for g in range(groups) for i in range(size)]
    ring = size if size > 2 else size - 1
    return [Place(g, i, (i + 1) % size) for g in range(groups) for i in range(ring)]


def best_places(score: Tensor, *, with_reference: bool) -> list[Place]:
    """Return one pair a group: the best-scored response with its reference, or with the worst-scored one.

    Args:
        score: shape groups size.
        with_reference: whether groups have a reference response.
    """
    best, worst = score.argmax(-1).tolist(), score.argmin(-1).tolist()
    if with_reference:
        return [Place(g, i, None) for g, i in enumerate(best)]
    return [Place(g, i, j) for g, (i, j) in enumerate(zip(best, worst, strict=True)) if i != j]


def unequal(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that somebody has to be asked about: neither of two equal texts is preferred, so that is their
    label."""
    for pair in pairs:
        pair.asked = text_of(pair.first) != text_of(pair.second)
        pair.label = None if pair.asked else 0.5
    return [pair for pair in pairs if pair.asked]


def sides(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, int, int, bool]]:
    """Yield each candidate that pairs of a round hold: the pair, its prompt, its place, whether it stands first."""
    for pair in pairs:
        if pair.place is not None:
            group, first, second = pair.place
            yield pair, group, first, True
            if second is not None:
                yield pair, group, second, False


def label_means(pairs: Sequence[Pair], groups: int, size: int) -> list[list[float | None]]:
    """Return the mean preference for each candidate over what it was compared with, None where no pair has a label.

    Args:
        pairs: of one round.
        groups: B, prompts.
        size: N, candidates a prompt.
    """
    found: dict[tuple[int, int], list[float]] = {}
    for pair, group, n, first in sides(pairs):
        if pair.label is not None:
            found.setdefault((group, n), []).append(pair.label if first else 1 - pair.label)
    means = {place: sum(labels) / len(labels) for place, labels in found.items()}
    return [[means.get((group, n)) for n in range(size)] for group in range(groups)]


def utilities(pairs: Sequence[Pair], groups: int, size: int) -> list[list[float | None]]:
    """Return the true utility of each candidate of a round, None where it was not read."""
    known = {(group, n): p.first_utility if first else p.second_utility for p, group, n, first in sides(pairs)}
    return [[known.get((group, n)) for n in range(size)] for group in range(groups)]
