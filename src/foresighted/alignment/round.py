"""One round of iterative RLHF with foresight: write, score, choose, label, retrain the judge, move the policy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foresighted.alignment.follower import Follower
from foresighted.alignment.foresight import Foresight, Scores
from foresighted.alignment.rows import Round, candidate_rows, round_row
from foresighted.alignment.start import Start
from foresighted.errors import DataError, NumericalError
from foresighted.labels.asking import Asker
from foresighted.labels.pair import Pair, Place, label_means, pair_id
from foresighted.models import noise
from foresighted.models.learner import Learner
from foresighted.models.policy import Policy, Rollout
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


def play_round(loop: Loop, number: int) -> tuple[list[CandidateRow], RoundRow]:
    """Play one round and return its records.

    Raises:
        NumericalError: a reward or a loss that is not finite; names the round and the candidate.
        DataError: labels that cannot be used, or no candidate with any text.
        LabellerError: a labeller that fails.
    """
    config, policy, follower = loop.config, loop.policy, loop.follower

    # The policy writes N candidates; y' was written by the frozen initial policy.
    references = loop.start.references(number)
    candidates = policy.sample([r.prompt for r in references], config.candidates, _keys(config, number, references))
    scores = loop.foresight.score(*_rows(references, candidates), groups=len(references))
    _check_finite(scores.reward, number, references)

    # Best of N by reward - penalty. Forms that need labels of all candidates read them now, the others the winners'.
    pairs = _pairs(number, references, candidates, scores)
    every = reads_all_labels(config)
    if every:
        loop.labels.read(pairs)
    penalty = loop.foresight.penalty(scores, follower.steering_label(config, pairs, scores.reward))
    kl = log_ratio(policy, references, candidates) if config.kl_coefficient else None
    score = scores.reward - penalty.value - (0 if kl is None else config.kl_coefficient * kl)
    by = torch.tensor(label_means(pairs, *score.shape)) if config.selection == "labels" else score
    winners = choose(by, candidates, references)
    won = [pairs[i] for i in winners]
    if not every:
        loop.labels.read(won)

    # The reward model learns from the new labels, then the policy from the winners.
    labelled = [pair for pair in pairs if pair.label is not None]
    follower.buffer.add(labelled if config.reward_model_pairs == "all" else won, read=len(labelled))
    reward_model_loss = follower.update()
    policy_loss = _optimise(loop, number, references, candidates.rows(winners))

    played = Round(
        number=number, prompts=[(r.prompt_id, r.prompt) for r in references], texts=candidates.texts,
        tokens=candidates.lengths(), scores=scores, penalty=penalty, kl=kl, score=score, chosen=winners, pairs=pairs,
        counts=follower.buffer.counts, utility_reference=mean(r.utility for r in references),
        reward_model_loss=reward_model_loss, policy_loss=policy_loss,
    )  # fmt: skip  # one field a line hides the algorithm
    rows = candidate_rows(played)
    return rows, round_row(played, rows)


def reads_all_labels(config: TrainConfig) -> bool:
    """Return whether a run reads a label of every candidate (N a prompt) or of winners alone (one a prompt)."""
    return config.reads_labels or config.selection == "labels" or config.reward_model_pairs == "all"


def log_ratio(policy: Policy, references: list[ReferenceRow], candidates: Rollout) -> Tensor:
    """Return log pi(y | x) - log pi_ref(y | x) of every candidate, shape B N, in nats."""
    n = len(candidates.texts) // len(references)
    prompts = [r.prompt for r in references for _ in range(n)]
    own, frozen = (policy.log_likelihood(prompts, candidates, frozen=frozen) for frozen in (False, True))
    return (own - frozen).view(len(references), n)


def choose(by: Tensor, candidates: Rollout, references: Sequence[ReferenceRow]) -> list[int]:
    """Return the flat index of each prompt's winner: the largest value of `by`, never a response without text.

    Args:
        by: shape B N.
        candidates: the round's.
        references: of its prompts.

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


def _rows(references: list[ReferenceRow], candidates: Rollout) -> tuple[list[str], list[str]]:
    """Return prompt and text of every response, a prompt's candidates together and its reference last."""
    n = len(candidates.texts) // len(references)
    prompts = [r.prompt for r in references for _ in range(n + 1)]
    texts = [t for i, r in enumerate(references) for t in (*candidates.texts[i * n : (i + 1) * n], r.text)]
    return prompts, texts


def _keys(config: TrainConfig, number: int, references: list[ReferenceRow]) -> list[int]:
    names = [(r.prompt_id, n) for r in references for n in range(config.candidates)]
    return [noise.key(config.seed, "candidate", number, *name) for name in names]


def _check_finite(reward: Tensor, number: int, references: list[ReferenceRow]) -> None:
    for b, n in (~reward.isfinite()).nonzero().tolist():
        raise NumericalError(
            f"round {number}: reward {float(reward[b, n])} for candidate {n} of prompt {references[b].prompt_id!r};"
            " lower reward_model_learning_rate or check its weights"
        )


def _pairs(number: int, references: list[ReferenceRow], candidates: Rollout, scores: Scores) -> list[Pair]:
    """Return every candidate beside its prompt's reference, in the candidates' order, nobody's label read yet."""
    n = len(candidates.texts) // len(references)
    pairs = []
    for i, text in enumerate(candidates.texts):
        reference = references[i // n]
        texts = reference.prompt, text, reference.text
        pair = Pair(pair_id(number, *texts), *texts, asked=True, place=Place(i // n, i % n, None))
        pair.second_utility = reference.utility
        pair.features = None if scores.features is None else scores.features[i // n, [i % n, -1]]
        pairs.append(pair)
    return pairs


def _optimise(loop: Loop, number: int, references: Sequence[ReferenceRow], chosen: Rollout) -> float:
    def loss(index: list[int]) -> Tensor:
        return loop.policy.loss([references[i].prompt for i in index], chosen.rows(index))

    torch.manual_seed(noise.key(loop.config.seed, "dropout", number) % 2**63)
    loop.policy.model.train()
    try:
        return loop.policy_learner.learn(len(references), loss, steps=loop.config.policy_steps)
    finally:
        loop.policy.model.eval()
