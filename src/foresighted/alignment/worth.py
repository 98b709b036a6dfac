"""What candidates are worth: what they are paid, less the penalty and what distance from the frozen policy costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from foresighted.alignment.foresight import Scores
from foresighted.alignment.rows import within_prompts
from foresighted.labels.pair import Pair, label_means
from foresighted.settings import TrainConfig
from foresighted.steering.pairwise import SURE


class Distance(Protocol):
    """Settings of what distance from the frozen policy costs."""

    @property
    def kl_coefficient(self) -> float:
        """In `kl_unit`, a nat."""

    @property
    def kl_unit(self) -> str:
        """Raw, in reward, or a share of the spread of rewards within a prompt."""


def paid(config: TrainConfig, scores: Scores, doubt: Tensor | None) -> Tensor:
    """Return what the policy is paid for each candidate, shape B N, before any correction.

        b(y)          r(y), or of an ensemble the lower bound mean_k r_k(y) - confidence * std_k r_k(y)
        none          b(y)
        par           scale * mean over m of s((b(y) - b(y'_m)) / scale), y'_1 ... y'_M the prompt's references
        correction    s(b(y) - b(y'_1)), what the reward model says of the preference that labels measure

    Args:
        config: shaping, its scale, confidence, and whether scores are corrected.
        scores: of the round.
        doubt: standard deviation of the rewards of an ensemble, candidates and then references, shape B (N + M).

    References:
        PAR: arXiv 2502.18770. The lower bound of an ensemble: arXiv 2310.02743.
    """
    reward, references = scores.reward, scores.each_reference
    if config.pays_reward:
        return reward
    if doubt is not None:
        size = reward.shape[1]
        reward = reward - config.confidence * doubt[:, :size]
        references = references - config.confidence * doubt[:, size:]
    if config.corrects:
        return (reward - references[:, :1]).sigmoid()
    if config.shaping == "par":
        scale = config.shaping_scale
        return scale * ((reward[:, :, None] - references[:, None]) / scale).sigmoid().mean(-1)
    return reward


def correction(
    config: TrainConfig, paid: Tensor, texts: Sequence[str], labelled: Sequence[int], pairs: Sequence[Pair]
) -> Tensor:
    """Return what labels of candidates drawn at random add to what all are paid, shape B N.

        c(y) = weight * (label - paid(y)) / P(y is labelled) for a labelled candidate, 0 for the others

    At weight 1 the mean of paid + c over draws and labels is the true preference, whatever is paid (docs/loop.md).

    Args:
        config: the weight.
        paid: an estimate of the preference over the first reference, shape B N.
        texts: of the candidates, B N: one without text is never drawn.
        labelled: flat index of each prompt's labelled candidate, drawn uniformly from those with text.
        pairs: of all candidates; those of the labelled ones have their labels.

    References:
        Horvitz and Thompson (1952); prediction-powered inference: arXiv 2301.09633.
    """
    drawn_from = torch.tensor([bool(text) for text in texts]).view(paid.shape).sum(1).tolist()
    added = torch.zeros_like(paid)
    for i in labelled:
        (group, n), label = divmod(i, paid.shape[1]), pairs[i].label
        if label is not None:
            added[group, n] = config.correction * drawn_from[group] * (label - paid[group, n])
    return added


def score(config: TrainConfig, worth: Tensor, penalty: Tensor, kl: Tensor | None, pairs: Sequence[Pair]) -> Tensor:
    """Return what candidates are chosen by and a policy gradient raises, shape B N.

        worth - penalty - what distance from the frozen policy costs

    With `selection` labels, log-odds of labels stand for the first two; with `control` penalty-alone, nothing for the
    first.

    Args:
        config: the selection, the control, the KL coefficient.
        worth: what candidates are paid, shape B N.
        penalty: of steering, shape B N.
        kl: log pi - log pi_ref in nats, shape B N; None where it costs nothing.
        pairs: of all candidates; labelled where candidates are chosen by labels.
    """
    found = -penalty if config.control == "penalty-alone" else worth - penalty
    if config.selection == "labels":
        found = worth = torch.tensor(label_means(pairs, *found.shape), device=found.device).logit(SURE)
    return found if kl is None else found - distance_cost(config, kl, worth)


def distance_cost(config: Distance, kl: Tensor, worth: Tensor) -> Tensor:
    """Return what the distance from the frozen policy takes off each candidate's score; all shapes B N.

    Args:
        config: the coefficient, and what it is in units of.
        kl: log pi - log pi_ref, in nats.
        worth: what candidates are paid by: rewards, or log-odds of labels.
    """
    unit = within_prompts(worth) if config.kl_unit == "share" else 1.0
    return config.kl_coefficient * unit * kl
