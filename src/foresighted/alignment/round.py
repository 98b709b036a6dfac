"""One round of iterative RLHF with foresight: write, score, choose, label, retrain the judge, move the policy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from foresighted.alignment.follower import Follower
from foresighted.alignment.foresight import Foresight, Penalty, Scores
from foresighted.alignment.requests import Features, Fit, Labels, LogLikelihood, Sample
from foresighted.alignment.rows import Round, recorded, within_prompts
from foresighted.alignment.start import Start
from foresighted.alignment.update import prompt_of_each, read_once, update_policy
from foresighted.errors import DataError, NumericalError
from foresighted.labels.asking import Asker
from foresighted.labels.pair import Groups, Pair, every_place, label_means
from foresighted.models import noise
from foresighted.models.learner import Learner
from foresighted.models.policy import Policy
from foresighted.models.rollout import Rollout
from foresighted.settings import TrainConfig
from foresighted.statistics.numbers import mean
from foresighted.store.records import CandidateRow, ReferenceRow, RoundRow

_log = logging.getLogger(__name__)
_SURE = 1e-6
"""How near to 0 and 1 a label counts that the policy is paid by, as log-odds."""


@dataclass(frozen=True)
class Loop:
    """The players of a run. Only weights, and the follower's buffer and counts, change from round to round."""

    config: TrainConfig
    policy: Policy
    policy_learner: Learner
    follower: Follower
    foresight: Foresight
    labels: Asker
    start: Start


class Distance(Protocol):
    """Settings of what distance from the frozen policy costs."""

    @property
    def kl_coefficient(self) -> float:
        """In `kl_unit`, a nat."""

    @property
    def kl_unit(self) -> str:
        """Raw, in reward, or a share of the spread of rewards within a prompt."""


async def play_round(loop: Loop, number: int) -> tuple[list[CandidateRow], RoundRow]:
    """Play one round and return its records.

    Raises:
        NumericalError: a reward or a loss that is not finite; names the round and the candidate.
        DataError: labels that cannot be used, or no candidate with any text.
        LabellerError: a labeller that fails.
    """
    config, policy, follower = loop.config, loop.policy, loop.follower

    # The policy writes N candidates; y' was written by the frozen initial policy. The reward model reads all of them.
    written = loop.start.references(number)
    references = [own[0] for own in written]
    prompts = [r.prompt for r in references]
    candidates = await Sample(prompts, config.candidates, _keys(config, references))
    groups = _groups(candidates, written)
    cut = follower.reward_model.reader.cut
    scores = await _scores(loop.foresight, groups)
    cut = follower.reward_model.reader.cut - cut
    _check_finite(scores.reward, references)

    # How far they are from the reference; the pass serves the policy's update, too.
    kl = log_p = None
    if config.kl_coefficient:
        log_p = await read_once(config, policy, prompts, candidates)
        kl = (await log_ratio(prompt_of_each(prompts, candidates), candidates, log_p)).view_as(scores.reward)

    # Where the form, the choice or the reward model needs labels of all candidates, they are read before the choice.
    pairs = _pairs(groups, references, scores)
    if every := config.reads_all_labels:
        await Labels(pairs)

    # Candidates are worth reward - penalty (the ceiling: their true labels) - what distance from the reference costs.
    penalty = loop.foresight.penalty(scores, follower.steering_label(config, pairs, scores.reward))
    penalty = controlled(config, penalty, references)
    worth = scores.reward
    score = -penalty.value if config.control == "penalty-alone" else worth - penalty.value
    if config.selection == "labels":
        score = worth = torch.tensor(label_means(pairs, *score.shape), device=score.device).logit(_SURE)
    if kl is not None:
        score = score - distance_cost(config, kl, worth)
    chosen = choose(score, candidates, references)
    asked = [pairs[i] for i in _to_label(config, chosen, scores.margin, candidates, references)]
    if not every:
        await Labels(asked)

    # The reward model learns from the new labels, then the policy from its winners or from all candidates.
    follower.buffer.add(asked, read=len(pairs) if every else len(asked))
    reward_model_loss = await Fit()
    learner = loop.policy_learner
    policy_loss = await update_policy(config, learner, number, prompts, candidates, score, chosen, log_p)

    played = Round(
        number=number, prompts=[(r.prompt_id, r.prompt) for r in references], texts=candidates.texts,
        tokens=candidates.lengths(), scores=scores, penalty=penalty, kl=kl, score=score, chosen=chosen, pairs=pairs,
        counts=follower.buffer.counts, utility_reference=mean(r.utility for r in references),
        reward_model_loss=reward_model_loss, policy_loss=policy_loss, prompts_cut=cut,
    )  # fmt: skip  # one field a line hides the algorithm
    return recorded(played)


def controlled(config: TrainConfig, penalty: Penalty, references: Sequence[ReferenceRow]) -> Penalty:
    """Return the penalty, or for the control `shuffled` the same values permuted among all candidates of the round."""
    if config.control != "shuffled":
        return penalty
    drawn = torch.tensor([noise.uniform(config.seed, "shuffle", *name) for name in _names(config, references)])
    value = penalty.value.flatten()[drawn.argsort().to(penalty.value.device)].view_as(penalty.value)
    return penalty._replace(value=value)


async def log_ratio(prompts: Sequence[str], responses: Rollout, log_p: Tensor | None = None) -> Tensor:
    """Return log pi(y | x) - log pi_ref(y | x) of each row, in nats; `log_p`: of each token under pi, where known."""
    now = await LogLikelihood(prompts, responses, frozen=False) if log_p is None else log_p.detach().sum(-1)
    return now - await LogLikelihood(prompts, responses, frozen=True)


async def _scores(foresight: Foresight, groups: Groups) -> Scores:
    """Return what the reward model says of all responses of a round."""
    prompts, texts = groups.rows()
    if foresight.from_features:
        return foresight.score_features(await Features(prompts, texts), groups=len(groups.prompts))
    return foresight.score(prompts, texts, groups=len(groups.prompts))


def distance_cost(config: Distance, kl: Tensor, worth: Tensor) -> Tensor:
    """Return what the distance from the frozen policy takes off each candidate's score; all shapes B N.

    Args:
        config: the coefficient, and what it is in units of.
        kl: log pi - log pi_ref, in nats.
        worth: what candidates are paid by: rewards, or log-odds of labels.
    """
    unit = within_prompts(worth) if config.kl_unit == "share" else 1.0
    return config.kl_coefficient * unit * kl


def _names(config: TrainConfig, references: Sequence[ReferenceRow]) -> list[tuple[int, str, int]]:
    return [(r.round, r.prompt_id, n) for r in references for n in range(config.candidates)]


def _keys(config: TrainConfig, references: Sequence[ReferenceRow]) -> list[int]:
    return [noise.key(config.seed, "candidate", *name) for name in _names(config, references)]


def _groups(candidates: Rollout, references: Sequence[Sequence[ReferenceRow]]) -> Groups:
    texts, size = candidates.texts, len(candidates.texts) // len(references)
    grouped = [texts[start : start + size] for start in range(0, len(texts), size)]
    return Groups([own[0].prompt for own in references], grouped, [[r.text for r in own] for own in references])


def _pairs(groups: Groups, references: Sequence[ReferenceRow], scores: Scores) -> list[Pair]:
    """Return every candidate beside its prompt's first reference, in the candidates' order."""
    places = every_place(*scores.reward.shape, with_reference=True)
    pairs = groups.pairs(references[0].round, places, scores.features)
    for pair, place in zip(pairs, places, strict=True):
        pair.second_utility = references[place.group].utility
    return pairs


def _check_finite(reward: Tensor, references: Sequence[ReferenceRow]) -> None:
    for b, n in (~reward.isfinite()).nonzero().tolist():
        raise NumericalError(
            f"round {references[b].round}: reward {float(reward[b, n])} for candidate {n} of prompt"
            f" {references[b].prompt_id!r}; lower reward_model_learning_rate or check its weights"
        )


def _to_label(
    config: TrainConfig, chosen: list[int], margin: Tensor, candidates: Rollout, references: Sequence[ReferenceRow]
) -> list[int]:
    """Return the flat indices of the candidates whose pairs the reward model learns from, B of them or all."""
    if config.reward_model_pairs == "winner":
        return chosen
    if config.reward_model_pairs == "all":
        return list(range(margin.numel()))
    if config.reward_model_pairs == "uncertain":
        return choose(-margin.abs(), candidates, references)
    drawn = [noise.uniform(config.seed, "to label", *name) for name in _names(config, references)]
    return choose(torch.tensor(drawn, device=margin.device).view_as(margin), candidates, references)


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
