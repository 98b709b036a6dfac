"""One round of iterative RLHF with foresight: write, score, choose, label, retrain the judge, move the policy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foresighted.alignment import worth
from foresighted.alignment.follower import Follower
from foresighted.alignment.foresight import Foresight, Penalty, Scores
from foresighted.alignment.questions import choose, to_label
from foresighted.alignment.requests import Arrivals, Features, Fit, Labels, LogLikelihood, Questions, Sample
from foresighted.alignment.reset import Resets
from foresighted.alignment.rows import Round, recorded
from foresighted.alignment.start import Start
from foresighted.alignment.update import prompt_of_each, read_once, update_directly, update_policy
from foresighted.errors import NumericalError
from foresighted.labels.asking import Asker
from foresighted.labels.pair import Groups, Pair, every_place
from foresighted.labels.waiting import different
from foresighted.models import noise
from foresighted.models.learner import Learner
from foresighted.models.policy import Policy
from foresighted.models.rollout import Rollout
from foresighted.settings import TrainConfig
from foresighted.statistics.numbers import mean
from foresighted.store.records import CandidateRow, ReferenceRow, RoundRow

_log = logging.getLogger(__name__)


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
    resets: Resets


async def play_round(loop: Loop, number: int) -> tuple[list[CandidateRow], RoundRow]:
    """Play one round and return its records.

    Raises:
        NumericalError: a reward or a loss that is not finite; names the round and the candidate.
        DataError: labels that cannot be used, or no candidate with any text.
        LabellerError: a labeller that fails.
    """
    config, follower = loop.config, loop.follower
    back = loop.resets.at_start(number)

    # The policy writes N candidates; y' was written by the frozen initial policy. The reward model reads all of them.
    written = loop.start.references(number)
    references = [own[0] for own in written]
    prompts = [r.prompt for r in references]
    candidates = await Sample(prompts, config.candidates, _keys(config, references))
    groups = _groups(candidates, written)
    scores, cut = await _scores(loop, groups)
    _check_finite(scores.reward, references)

    # How far they are from the reference; the pass serves the policy's update, too.
    log_p, kl = await _distance(loop, prompts, candidates, scores.reward)

    # Labels that the penalty or the scores read come before the choice: of all candidates, or of those to be labelled.
    pairs = _pairs(groups, references, scores)
    every, ahead = config.reads_all_labels and loop.labels.queue is None, config.reads_labels_ahead
    disputed = follower.dispute(scores.features, config.candidates)
    labelled = to_label(config, scores, candidates, references, disputed=disputed) if ahead else []
    if every or ahead:
        await Labels(pairs if every else [pairs[i] for i in labelled])

    # Candidates are worth what they are paid - penalty - what distance from the reference costs.
    paid = worth.paid(config, scores, follower.doubt(scores.features))
    charged = loop.foresight.penalty(scores, follower.steering_label(config, pairs, scores.reward), paid)
    penalty = controlled(config, charged, references)
    score = worth.score(config, paid, penalty.value, kl, pairs)
    if config.corrects:
        added = worth.correction(config, paid, candidates.texts, labelled, pairs)
        score, paid = score + added, paid + added
    chosen = choose(score, candidates, references)
    if not ahead:
        labelled = to_label(config, scores, candidates, references, chosen, disputed)
    asked = [pairs[i] for i in labelled]

    # The reward model learns from the new labels (of people: those that came since), then the policy from its winners,
    # all candidates or these labels, unless they say that it has fallen: then it goes back to where it was best.
    await _labelled(loop, asked, number, read=len(pairs) if every else len(asked) if ahead else None)
    reward_model_loss = await Fit()
    fallen = loop.resets.by_labels(number, pairs)
    policy_loss = None
    if fallen is None:
        policy_loss = await _moved(loop, candidates, references, asked, score, chosen, log_p)

    played = Round(
        number=number, prompts=[(r.prompt_id, r.prompt) for r in references], texts=candidates.texts,
        tokens=candidates.lengths(), scores=scores, paid=None if config.pays_reward else paid, penalty=penalty, kl=kl,
        score=score, chosen=chosen, pairs=pairs, counts=follower.buffer.counts,
        utility_reference=mean(r.utility for r in references),
        reward_model_loss=reward_model_loss, policy_loss=policy_loss, prompts_cut=cut, returned_to=fallen or back,
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


async def _distance(
    loop: Loop, prompts: Sequence[str], candidates: Rollout, reward: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return what `read_once` says, and log pi - log pi_ref of each candidate, shape B N; None where not needed."""
    if not loop.config.kl_coefficient:
        return None, None
    log_p = await read_once(loop.config, loop.policy, prompts, candidates)
    return log_p, (await log_ratio(prompt_of_each(prompts, candidates), candidates, log_p)).view_as(reward)


async def _labelled(loop: Loop, asked: Sequence[Pair], number: int, *, read: int | None) -> None:
    """Hand the follower a round's labelled pairs; people are asked, and what they answered since is handed over.

    Args:
        loop: the players.
        asked: what the reward model is to learn from.
        number: of the round.
        read: labels that were read ahead; None where none was.
    """
    buffer = loop.follower.buffer
    if loop.labels.queue is not None:
        questions = [pair for pair in asked if different(pair)]
        await Questions(questions, number)
        buffer.wait_for(questions)
        await Arrivals()
        return
    if read is None:
        await Labels(asked)
    buffer.add(asked, read=len(asked) if read is None else read)


async def _moved(
    loop: Loop, candidates: Rollout, references: Sequence[ReferenceRow], asked: Sequence[Pair], score: Tensor,
    chosen: Sequence[int], log_p: Tensor | None,
) -> float | None:  # fmt: skip  # one argument a line says no more
    """Take the policy's steps of a round; return the loss before them, None where there was nothing to learn."""
    config, learner, number = loop.config, loop.policy_learner, references[0].round
    if config.policy_update == "dpo":
        return await update_directly(config, loop.policy, learner, number, asked, candidates, references)
    prompts = [reference.prompt for reference in references]
    return await update_policy(config, learner, number, prompts, candidates, score, chosen, log_p)


async def _scores(loop: Loop, groups: Groups) -> tuple[Scores, int]:
    """Return what the reward model says of all responses of a round, and how many it read without their beginning."""
    (prompts, texts), count, foresight = groups.rows(), len(groups.prompts), loop.foresight
    reader = loop.follower.reward_model.reader
    before = reader.cut
    if foresight.from_features:
        scores = foresight.score_features(await Features(prompts, texts), groups=count)
    else:
        scores = foresight.score(prompts, texts, groups=count)
    return scores, reader.cut - before


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
