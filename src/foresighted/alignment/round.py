"""One round of iterative RLHF with foresight: write, score, choose, label, retrain the judge, move the policy."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from foresighted.alignment.foresight import Foresight, Penalty, Scores
from foresighted.alignment.start import Start
from foresighted.errors import DataError, NumericalError
from foresighted.labels.labellers import Labels, LabelSource
from foresighted.models import noise
from foresighted.models.learner import Learner
from foresighted.models.policy import Policy, Rollout
from foresighted.models.reward_model import RewardModel
from foresighted.settings import TrainConfig
from foresighted.statistics.calibration import accuracy, overconfidence
from foresighted.statistics.numbers import mean
from foresighted.store.records import CandidateRow, ReferenceRow, RoundRow

_log = logging.getLogger(__name__)


@dataclass
class Loop:
    """The players of a run. Only the counts of labels and the weights inside change from round to round."""

    config: TrainConfig
    policy: Policy
    reward_model: RewardModel
    foresight: Foresight
    labels: LabelSource
    start: Start
    policy_learner: Learner
    reward_model_learner: Learner
    labels_total: int = 0
    """Preferences read so far."""
    labels_trained: int = 0
    labels_sum: float = 0.0
    """Of those that the reward model was trained on: how many, and their sum."""

    @property
    def baseline(self) -> float:
        """Mean label that the reward model was trained on so far; one half before there is any."""
        return self.labels_sum / self.labels_trained if self.labels_trained else 0.5


def play_round(loop: Loop, number: int) -> tuple[list[CandidateRow], RoundRow]:
    """Play one round and return its records.

    Raises:
        NumericalError: a reward or a loss that is not finite; names the round and the candidate.
        DataError: labels that cannot be used, or no candidate with any text.
    """
    config, policy = loop.config, loop.policy

    # The policy writes N candidates; y' was written by the frozen initial policy.
    references = loop.start.references(number)
    candidates = policy.sample([r.prompt for r in references], config.candidates, _keys(config, number, references))

    # Best of N by reward - penalty. Forms that need labels of all candidates read them now.
    scores = loop.foresight.score(*_rows(references, candidates), groups=len(references))
    _check_finite(scores.reward, number, references)
    everyone = range(len(candidates.texts))
    labels = _read(loop, everyone, references, candidates) if reads_all_labels(config) else None
    penalty = loop.foresight.penalty(scores, _steering_label(loop, labels, scores.reward))
    kl = log_ratio(policy, references, candidates) if config.kl_coefficient else None
    value = scores.reward - penalty.value - (0 if kl is None else config.kl_coefficient * kl)
    winners = choose(config, value, labels, candidates, references)
    labels = labels or _read(loop, winners, references, candidates)
    loop.labels_total += len(labels.preference)

    # The reward model learns from the new labels, then the policy from the winners.
    labelled = list(everyone) if len(labels.preference) == len(everyone) else winners
    pairs = labelled if config.reward_model_pairs == "all" else winners
    reward_model_loss = _retrain(loop, pairs, labelled, references, candidates, scores, labels)
    policy_loss = _optimise(loop, number, winners, references, candidates)

    rows = _candidate_rows(number, references, candidates, scores, penalty.value, kl, value, winners, labelled, labels)
    counts = len(labels.preference), loop.labels_total
    return rows, _round_row(number, rows, references, penalty, reward_model_loss, policy_loss, counts)


def reads_all_labels(config: TrainConfig) -> bool:
    """Return whether a run reads a label of every candidate (N a prompt) or of winners alone (one a prompt)."""
    return config.reads_labels or config.selection == "labels" or config.reward_model_pairs == "all"


def log_ratio(policy: Policy, references: list[ReferenceRow], candidates: Rollout) -> Tensor:
    """Return log pi(y | x) - log pi_ref(y | x) of every candidate, shape B N, in nats."""
    n = len(candidates.texts) // len(references)
    prompts = [r.prompt for r in references for _ in range(n)]
    own, frozen = (policy.log_likelihood(prompts, candidates, frozen=frozen) for frozen in (False, True))
    return (own - frozen).view(len(references), n)


def choose(
    config: TrainConfig, score: Tensor, labels: Labels | None, candidates: Rollout, references: list[ReferenceRow]
) -> list[int]:
    """Return the flat index of each prompt's winner: the best score, or best label; never a response without text.

    Raises:
        DataError: every candidate of a prompt is empty.
    """
    by = score
    if config.selection == "labels":
        assert labels is not None
        by = torch.tensor(labels.preference, device=score.device).view_as(score)
    empty = torch.tensor([not text for text in candidates.texts], device=score.device).view_as(score)
    for row, reference in zip(empty, references, strict=True):
        if bool(row.all()):
            raise DataError(
                f"round {reference.round}: all {len(row)} candidates of prompt {reference.prompt_id!r} are empty;"
                " raise min_new_tokens, or check the policy"
            )
    if bool(empty.any()):
        _log.warning("round %d: %d empty candidates, never chosen", references[0].round, int(empty.sum()))
    best = by.masked_fill(empty, -torch.inf).argmax(-1)
    return [b * score.shape[1] + int(n) for b, n in enumerate(best)]


def _rows(references: list[ReferenceRow], candidates: Rollout) -> tuple[list[str], list[str]]:
    """Return prompt and text of every response, a prompt's candidates together and its reference last."""
    n = len(candidates.texts) // len(references)
    prompts = [r.prompt for r in references for _ in range(n + 1)]
    texts = [t for i, r in enumerate(references) for t in (*candidates.texts[i * n : (i + 1) * n], r.text)]
    return prompts, texts


def _keys(config: TrainConfig, number: int, references: list[ReferenceRow]) -> list[int]:
    names = [(r.prompt_id, n) for r in references for n in range(config.candidates)]
    return [noise.key(config.seed, "candidate", number, *name) for name in names]


def _steering_label(loop: Loop, labels: Labels | None, reward: Tensor) -> Tensor:
    """Return p* of every candidate, shape B N, or the baseline in its place."""
    if labels is None or loop.config.steering_labels == "baseline":
        return torch.full_like(reward, loop.baseline)
    return torch.tensor(labels.preference, device=reward.device, dtype=reward.dtype).view_as(reward)


def _check_finite(reward: Tensor, number: int, references: list[ReferenceRow]) -> None:
    for b, n in (~reward.isfinite()).nonzero().tolist():
        raise NumericalError(
            f"round {number}: reward {float(reward[b, n])} for candidate {n} of prompt {references[b].prompt_id!r};"
            " lower reward_model_learning_rate or check its weights"
        )


def _read(loop: Loop, rows: list[int] | range, references: list[ReferenceRow], candidates: Rollout) -> Labels:
    against = [references[i // loop.config.candidates] for i in rows]
    texts = [candidates.texts[i] for i in rows]
    return loop.labels.read([r.prompt for r in against], texts, [r.text for r in against], [r.utility for r in against])


def _retrain(
    loop: Loop,
    pairs: list[int],
    labelled: list[int],
    references: list[ReferenceRow],
    candidates: Rollout,
    scores: Scores,
    labels: Labels,
) -> float:
    against = [references[i // loop.config.candidates] for i in pairs]
    label = torch.tensor([labels.preference[labelled.index(i)] for i in pairs], device=scores.reward.device)
    known: tuple[Tensor, Tensor] | None = None
    if scores.features is not None:
        of = [i // loop.config.candidates for i in pairs]
        known = scores.features[:, :-1].flatten(0, 1)[pairs], scores.features[of, -1]
    loop.labels_trained += len(pairs)
    loop.labels_sum += float(label.double().sum())

    def loss(index: list[int]) -> Tensor:
        prompts, second = [against[i].prompt for i in index], [against[i].text for i in index]
        first = [candidates.texts[pairs[i]] for i in index]
        features = None if known is None else (known[0][index], known[1][index])
        return loop.reward_model.loss(prompts, first, second, label[index], features)

    return loop.reward_model_learner.learn(len(pairs), loss, steps=loop.config.reward_model_steps)


def _optimise(
    loop: Loop, number: int, winners: list[int], references: list[ReferenceRow], candidates: Rollout
) -> float:
    chosen = candidates.rows(winners)

    def loss(index: list[int]) -> Tensor:
        return loop.policy.loss([references[i].prompt for i in index], chosen.rows(index))

    torch.manual_seed(noise.key(loop.config.seed, "dropout", number) % 2**63)
    loop.policy.model.train()
    try:
        return loop.policy_learner.learn(len(winners), loss, steps=loop.config.policy_steps)
    finally:
        loop.policy.model.eval()


def _candidate_rows(
    number: int,
    references: list[ReferenceRow],
    candidates: Rollout,
    scores: Scores,
    penalty: Tensor,
    kl: Tensor | None,
    value: Tensor,
    winners: list[int],
    labelled: list[int],
    labels: Labels,
) -> list[CandidateRow]:
    n = penalty.shape[1]
    known = {row: (labels.preference[i], labels.utility[i]) for i, row in enumerate(labelled)}
    columns = [t.flatten().tolist() for t in (scores.reward, scores.products.gram, penalty, value)]
    ratios = [None] * len(candidates.texts) if kl is None else kl.flatten().tolist()
    rows = zip(candidates.texts, candidates.lengths(), *columns, strict=True)
    return [
        CandidateRow(
            round=number,
            prompt_id=references[i // n].prompt_id,
            prompt=references[i // n].prompt,
            candidate=i % n,
            text=text,
            tokens=tokens,
            reward=reward,
            reference_reward=float(scores.reference_reward[i // n]),
            gram=gram,
            utility=known.get(i, (None, None))[1],
            label=known.get(i, (None, None))[0],
            influence=-cost,
            penalty=cost,
            kl=ratios[i],
            score=total,
            chosen=i in winners,
        )
        for i, (text, tokens, reward, gram, cost, total) in enumerate(rows)
    ]


def _round_row(
    number: int,
    rows: list[CandidateRow],
    references: list[ReferenceRow],
    penalty: Penalty,
    reward_model_loss: float,
    policy_loss: float,
    labels: tuple[int, int],
) -> RoundRow:
    winners = [row for row in rows if row.chosen]
    judged = [(row.reward - row.reference_reward, row.label) for row in rows if row.label is not None]
    return RoundRow(
        round=number,
        reward=mean(row.reward for row in rows) or 0.0,
        reward_chosen=mean(row.reward for row in winners) or 0.0,
        reward_reference=mean(row.reference_reward for row in winners) or 0.0,
        utility_chosen=mean(row.utility for row in winners),
        utility_reference=mean(row.utility for row in references),
        penalty=mean(row.penalty for row in rows) or 0.0,
        penalty_chosen=mean(row.penalty for row in winners) or 0.0,
        gamma=penalty.gamma,
        gamma_share=penalty.share,
        overconfidence=overconfidence(judged),
        reward_model_loss=reward_model_loss,
        reward_model_accuracy=accuracy(judged),
        policy_loss=policy_loss,
        tokens=mean(float(row.tokens) for row in rows) or 0.0,
        empty=sum(not row.text for row in rows),
        labels=labels[0],
        labels_total=labels[1],
    )
