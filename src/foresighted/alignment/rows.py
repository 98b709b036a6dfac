"""From what happened in a round to its records, whoever trains the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from foresighted.alignment.foresight import Penalty, Scores
from foresighted.labels.buffer import Counts
from foresighted.labels.pair import Pair, label_means, utilities
from foresighted.prompts import prompt_id
from foresighted.statistics.calibration import accuracy, overconfidence
from foresighted.statistics.numbers import mean, sigmoid
from foresighted.steering.kernels import within_prompts as pooled
from foresighted.store.records import CandidateRow, HeldoutRow, RoundRow
from foresighted.texts import distinct, text_of
from foresighted.types import Text


@dataclass(frozen=True, kw_only=True)
class Round:
    """What happened in a round; tensors are B N, lists of candidates flat."""

    number: int
    prompts: Sequence[tuple[str, str]]
    """Id and text of each prompt, shape B."""
    texts: Sequence[str]
    tokens: Sequence[int]
    scores: Scores
    penalty: Penalty
    score: Tensor
    """What the choice was made by."""
    chosen: Sequence[int]
    """Flat index of each prompt's winner."""
    pairs: Sequence[Pair]
    counts: Counts
    """So far."""
    labels_failed: int = 0
    prompts_cut: int = 0
    """Texts that the reward model did not read from the beginning of their prompt."""
    paid: Tensor | None = None
    """What candidates are paid, where that is not the reward."""
    kl: Tensor | None = None
    utility_reference: float | None = None
    reward_model_loss: float | None = None
    reward_model_drift: float | None = None
    policy_loss: float | None = None
    returned_to: int | None = None
    """Round that was written with the weights to which the policy went back."""

    @cached_property
    def judged(self) -> list[tuple[float, float]]:
        """Margin r(first) - r(second), before the update, and label of each pair that somebody labelled."""
        scores = self.scores
        reward, reference = scores.reward.tolist(), scores.each_reference.tolist()
        found = []
        for pair in self.pairs:
            if pair.asked and pair.label is not None and pair.place is not None:
                group, first, second = pair.place
                other = reference[group][0] if second is None else reward[group][second]
                found.append((reward[group][first] - other, pair.label))
        return found


def within_prompts(values: Tensor) -> float:
    """Return the standard deviation of values, shape B N, within a prompt, as a number from float64."""
    return float(pooled(values.double()))


def recorded(played: Round) -> tuple[list[CandidateRow], RoundRow]:
    """Return the records of a round: one a candidate, prompt by prompt, and the round's own."""
    rows = _candidate_rows(played)
    return rows, _round_row(played, rows)


def _candidate_rows(played: Round) -> list[CandidateRow]:
    groups, size = played.score.shape
    scores = played.scores
    reference = scores.reference_reward.expand_as(scores.reward)
    tensors = (scores.reward, reference, scores.products.gram, played.penalty.value, played.score)
    columns = [tensor.flatten().tolist() for tensor in tensors]
    kl = [None] * len(played.texts) if played.kl is None else played.kl.flatten().tolist()
    tables = label_means(played.pairs, groups, size), utilities(played.pairs, groups, size)
    known = [[value for row in table for value in row] for table in tables]
    paid = [None] * len(played.texts) if played.paid is None else played.paid.flatten().tolist()
    rows = zip(played.texts, played.tokens, *columns, kl, paid, *known, strict=True)
    found = []
    for i, (text, tokens, reward, against, gram, penalty, score, ratio, worth, label, utility) in enumerate(rows):
        where = played.number, *played.prompts[i // size], i % size
        read = text, tokens, reward, against, gram, utility, label
        found.append(CandidateRow(*where, *read, -penalty, penalty, ratio, score, i in played.chosen, worth))
    return found


def share(one: float, other: float) -> float | None:
    """Return the share of a variance in the sum of two, of their standard deviations."""
    total = one**2 + other**2
    return one**2 / total if total > 0 else None


def _round_row(played: Round, rows: Sequence[CandidateRow]) -> RoundRow:
    winners = [row for row in rows if row.chosen]
    judged, paid = played.judged, played.scores.reward if played.paid is None else played.paid
    return RoundRow(
        round=played.number,
        reward=mean(row.reward for row in rows) or 0.0,
        reward_chosen=mean(row.reward for row in winners) or 0.0,
        reward_reference=mean(played.scores.reference_reward.flatten().tolist()) or 0.0,
        utility_chosen=mean(row.utility for row in winners),
        utility_reference=played.utility_reference,
        penalty=mean(row.penalty for row in rows) or 0.0,
        penalty_chosen=mean(row.penalty for row in winners) or 0.0,
        overconfidence=overconfidence(judged),
        reward_model_loss=played.reward_model_loss,
        reward_model_accuracy=accuracy(judged),
        policy_loss=played.policy_loss,
        tokens=mean(float(row.tokens) for row in rows) or 0.0,
        empty=sum(not row.text for row in rows),
        labels=len(judged),
        labels_total=played.counts.labels_total,
        gamma=played.penalty.gamma,
        gamma_share=played.penalty.share,
        reward_model_drift=played.reward_model_drift,
        labels_failed=played.labels_failed,
        penalty_share=share(within_prompts(played.penalty.value), within_prompts(paid)),
        win_predicted=mean(sigmoid(margin) for margin, _ in judged),
        win_share=mean(label for _, label in judged),
        kl=None if played.kl is None else float(played.kl.double().mean()),
        prompts_cut=played.prompts_cut,
        returned_to=played.returned_to,
    )


class Evaluated(NamedTuple):
    """One response of an evaluation."""

    prompt: Text
    response: Text
    tokens: int
    reward: float
    utility: float | None


def heldout_rows(number: int, answers: Sequence[Evaluated]) -> list[HeldoutRow]:
    """Return the records of an evaluation after so many rounds: one row a prompt, the first answer's text, means over
    its answers."""
    by_prompt: dict[str, list[Evaluated]] = {}
    for answer in answers:
        by_prompt.setdefault(prompt_id(answer.prompt), []).append(answer)
    return [_heldout(number, *item) for item in by_prompt.items()]


def _heldout(number: int, name: str, answers: list[Evaluated]) -> HeldoutRow:
    text = text_of(answers[0].response)
    return HeldoutRow(
        round=number, prompt_id=name, prompt=text_of(answers[0].prompt), kind="unspecified", text=text,
        tokens=answers[0].tokens, reward=mean(a.reward for a in answers) or 0.0,
        utility=mean(a.utility for a in answers), kl=None,
        distinct_1=distinct(text, 1), distinct_2=distinct(text, 2),
    )  # fmt: skip
