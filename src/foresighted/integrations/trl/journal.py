"""The records of a TRL run: the same files as a run of ours, in a folder of the trainer's output_dir."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev
from typing import NamedTuple

import torch
from torch import Tensor

from foresighted.alignment.foresight import Penalty, Scores
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.groups import Batch, prompt_id
from foresighted.settings import to_yaml
from foresighted.statistics.calibration import accuracy, overconfidence
from foresighted.statistics.numbers import mean
from foresighted.store import records
from foresighted.store.environment import write_environment
from foresighted.store.records import CandidateRow, HeldoutRow, RoundRow
from foresighted.texts import distinct, text_of
from foresighted.types import Text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What happened in a training call; matrices are groups x responses."""

    number: int
    batch: Batch
    rows: list[list[int]]
    scores: Scores
    penalty: Penalty
    labels: list[list[float | None]]
    utilities: Mapping[int, float | None]
    """By row of the batch, where it was read."""
    judged: list[tuple[float, float]]
    """Margin r(first) - r(second) and label of each labelled pair."""
    loss: float | None
    drift: float | None
    labels_read: int
    labels_failed: int
    labels_total: int
    given_up: int
    """Pairs that waited too long in a queue, so far."""

    @property
    def score(self) -> Tensor:
        """Reward less penalty."""
        return self.scores.reward - self.penalty.value


class Answer(NamedTuple):
    """One response of an evaluation."""

    prompt: Text
    response: Text
    tokens: int
    reward: float
    utility: float | None


class Journal:
    """Appends to the records of a run; only the first process has one.

    Args:
        folder: of the records.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, config: FPOConfig, device: torch.device) -> None:
        """Make the folder for a run that begins anew; records of an earlier run there move aside."""
        if any((self.folder / name).exists() for name in records.RECORD_FILES):
            number = next(n for n in range(1, 10**6) if not self._aside(n).exists())
            self.folder.rename(self._aside(number))
            _log.warning("%s: records of an earlier run moved to %s", self.folder, self._aside(number).name)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(to_yaml(config))
        write_environment(self.folder, device, ("trl", "datasets"))

    def _aside(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}-{number}")

    def add_round(self, played: Round) -> None:
        """Append the candidates of a round, then the round."""
        candidates = candidate_rows(played)
        records.append(self.folder / records.CANDIDATES, candidates)
        records.append(self.folder / records.ROUNDS, [round_row(played, candidates)])

    def evaluated(self) -> set[int]:
        """Return the rounds whose evaluation is recorded."""
        path = self.folder / records.HELDOUT
        return {row.round for row in records.read(path, HeldoutRow)} if path.exists() else set()

    def add_evaluation(self, number: int, answers: Sequence[Answer]) -> None:
        """Append an evaluation: one row a prompt, the first answer's text, means over its answers."""
        by_prompt: dict[str, list[Answer]] = {}
        for answer in answers:
            by_prompt.setdefault(prompt_id(answer.prompt), []).append(answer)
        records.append(self.folder / records.HELDOUT, [_heldout(number, *item) for item in by_prompt.items()])


def _heldout(number: int, name: str, answers: list[Answer]) -> HeldoutRow:
    text = text_of(answers[0].response)
    return HeldoutRow(
        round=number, prompt_id=name, prompt=text_of(answers[0].prompt), kind="unspecified", text=text,
        tokens=answers[0].tokens, reward=mean(a.reward for a in answers) or 0.0,
        utility=mean(a.utility for a in answers), kl=None,
        distinct_1=distinct(text, 1), distinct_2=distinct(text, 2),
    )  # fmt: skip


def candidate_rows(played: Round) -> list[CandidateRow]:
    """Return one record a response, group by group."""
    scores = played.scores
    reference = scores.reference_reward.expand_as(scores.reward)
    columns = [t.tolist() for t in (scores.reward, reference, scores.products.gram, played.penalty.value, played.score)]
    best = played.score.argmax(-1).tolist()
    found = []
    for g, group in enumerate(played.rows):
        prompt = played.batch.prompts[group[0]]
        for n, row in enumerate(group):
            reward, against, gram, penalty, score = (column[g][n] for column in columns)
            found.append(
                CandidateRow(
                    round=played.number, prompt_id=prompt_id(prompt), prompt=text_of(prompt), candidate=n,
                    text=text_of(played.batch.responses[row]), tokens=played.batch.tokens[row], reward=reward,
                    reference_reward=against, gram=gram, utility=played.utilities.get(row),
                    label=played.labels[g][n], influence=-penalty, penalty=penalty, kl=None, score=score,
                    chosen=n == best[g],
                )
            )  # fmt: skip
    return found


def round_row(played: Round, rows: Sequence[CandidateRow]) -> RoundRow:
    """Return the record of a round."""
    best = [row for row in rows if row.chosen]
    return RoundRow(
        round=played.number,
        reward=mean(row.reward for row in rows) or 0.0,
        reward_chosen=mean(row.reward for row in best) or 0.0,
        reward_reference=mean(row.reference_reward for row in rows) or 0.0,
        utility_chosen=mean(row.utility for row in best),
        utility_reference=None,
        penalty=mean(row.penalty for row in rows) or 0.0,
        penalty_chosen=mean(row.penalty for row in best) or 0.0,
        overconfidence=overconfidence(played.judged),
        reward_model_loss=played.loss,
        reward_model_accuracy=accuracy(played.judged),
        policy_loss=None,
        tokens=mean(float(row.tokens) for row in rows) or 0.0,
        empty=sum(not row.text for row in rows),
        labels=played.labels_read,
        labels_total=played.labels_total,
        gamma=played.penalty.gamma,
        gamma_share=played.penalty.share,
        reward_model_drift=played.drift,
        labels_failed=played.labels_failed,
    )


def metrics(played: Round) -> dict[str, float]:
    """Return what TRL logs of a round; what is unknown is left out, never logged as NaN."""
    known = [value for value in played.utilities.values() if value is not None]
    values: dict[str, float | None] = {
        "reward_model": float(played.scores.reward.mean()),
        "penalty": float(played.penalty.value.mean()),
        "influence": -float(played.penalty.value.mean()),
        "gamma_share": played.penalty.share,
        "overconfidence": overconfidence(played.judged),
        "reward_model_loss": played.loss,
        "reward_model_accuracy": accuracy(played.judged),
        "reward_model_drift": played.drift,
        "reward_model_std": float(played.scores.reward.std(correction=0)),
        "utility": mean(known),
        "utility_std": pstdev(known) if len(known) > 1 else None,
        "labels_total": float(played.labels_total),
        "labels_failed": float(played.labels_failed),
        "given_up": float(played.given_up) if played.given_up else None,
    }
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
