"""Which candidates are worth a label: drawn, nearest to even, of the largest expected influence, or in dispute."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from foresighted.alignment.foresight import Scores
from foresighted.errors import DataError
from foresighted.models import noise
from foresighted.models.rollout import Rollout
from foresighted.settings import TrainConfig
from foresighted.store.records import ReferenceRow

_log = logging.getLogger(__name__)


def to_label(
    config: TrainConfig, scores: Scores, candidates: Rollout, references: Sequence[ReferenceRow],
    winners: Sequence[int] = (), disputed: Tensor | None = None,
) -> list[int]:  # fmt: skip  # one argument a line says no more
    """Return the flat indices of the candidates whose pairs are labelled, one of each of B prompts or all B N.

    Args:
        config: `reward_model_pairs`, and for which share of prompts one is drawn at random in its place.
        scores: of the round.
        candidates: B N.
        references: the first of each prompt.
        winners: flat index of each prompt's winner.
        disputed: standard deviation of the margin over an ensemble, shape B N, where there is one.

    Raises:
        DataError: see `choose`.
    """
    if config.reward_model_pairs == "all":
        return list(range(scores.margin.numel()))
    names = [(r.round, r.prompt_id, n) for r in references for n in range(config.candidates)]
    drawn = torch.tensor([noise.uniform(config.seed, "to label", *name) for name in names], device=scores.margin.device)
    by_chance = drawn.view_as(scores.margin)
    if config.reward_model_pairs == "random":
        return choose(by_chance, candidates, references)
    if config.reward_model_pairs == "winner":
        found = list(winners)
    else:
        found = choose(_worth(config, scores, disputed), candidates, references)
    if not config.reward_model_pairs_random:
        return found
    coins = [noise.uniform(config.seed, "asked at random", r.round, r.prompt_id) for r in references]
    others = choose(by_chance, candidates, references)
    mixed = zip(coins, found, others, strict=True)
    return [other if coin < config.reward_model_pairs_random else own for coin, own, other in mixed]


def _worth(config: TrainConfig, scores: Scores, disputed: Tensor | None) -> Tensor:
    """Return what a label of each candidate is worth by a policy of questions, shape B N."""
    if config.reward_model_pairs == "disagreement" and disputed is not None:
        return disputed
    if config.reward_model_pairs == "influence":
        return expected_influence(scores.margin, scores.products.gram)
    return -scores.margin.abs()


def expected_influence(margin: Tensor, gram: Tensor) -> Tensor:
    """Return the expected size of what a label changes of what the policy is paid, in steps of the reward model.

        E |L - p| |S| = 2 p (1 - p) |S|,    L ~ Bernoulli(p),  p = s(margin)

    A step on the label L moves the reward of the test response by -(p - L) S: the steering term before its label is
    known (docs/loop.md).

    Args:
        margin: r(y) - r(y'), any shape.
        gram: S, the test response's gradient times g - g', of that shape.
    """
    believed = margin.sigmoid()
    return 2 * believed * (1 - believed) * gram.abs()


def choose(by: Tensor, candidates: Rollout, references: Sequence[ReferenceRow]) -> list[int]:
    """Return the flat index of each prompt's winner: the largest value of `by`, B N, never a response without text.

    Raises:
        DataError: every candidate of a prompt is empty.
    """
    empty = torch.tensor([not text for text in candidates.texts], device=by.device).view_as(by)
    for row, reference in zip(empty, references, strict=True):
        if bool(row.all()):
            raise DataError(
                f"round {reference.round}: all {len(row)} candidates of prompt {reference.prompt_id!r} are empty;"
                " raise min_new_tokens, or check the policy"
            )
    if bool(empty.any()):
        _log.warning("round %d: %d empty candidates, never chosen", references[0].round, int(empty.sum()))
    best = by.masked_fill(empty, -torch.inf).argmax(-1)
    return [b * by.shape[1] + int(n) for b, n in enumerate(best)]
