"""What an evaluation says, as numbers: frozen dataclasses, their JSON file and its reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from foresighted.statistics.intervals import Interval, Share
from foresighted.statistics.ratings import Rating
from foresighted.store.directory import EVALUATION
from foresighted.store.rows import read_json, write_json


@dataclass(frozen=True)
class Counts:
    """Outcomes of the first policy of a pair; what was judged is wins + ties + losses + position_bias."""

    wins: int
    ties: int
    losses: int
    position_bias: int
    """Pairs on which the two orders disagree: counted here, never as a win."""
    failed: int

    @property
    def judged(self) -> int:
        """Pairs with a verdict in both orders."""
        return self.wins + self.ties + self.losses + self.position_bias


@dataclass(frozen=True)
class GroupResult:
    """Outcomes in one category, or for one training seed; p is not corrected for the number of groups."""

    name: str
    counts: Counts
    p: float | None
    decided: Share | None


@dataclass(frozen=True)
class PositionBias:
    """What the judge did on the pairs whose two orders disagree. Null p: nothing to test."""

    preferred_first: int
    """Preferred whatever stood first, in both orders."""
    preferred_second: int
    half: int
    """A tie in one order, a winner in the other."""
    p: float | None
    """Two-sided sign test of preferred_first against preferred_second."""


@dataclass(frozen=True)
class LengthCheck:
    """Whether length explains the wins: lengths are in words."""

    first_mean: float
    second_mean: float
    longer_won: Share | None
    """Of the decided pairs with answers of different length, the share that the longer answer won."""
    longer_p: float | None
    first_longer: Counts
    """Outcomes where the first policy's answer is the longer one, and where it is the shorter one."""
    first_shorter: Counts
    controlled: Share | None
    """Share of decided pairs that the first policy would win at equal length (logistic model, `winrates`)."""


@dataclass(frozen=True)
class PairResult:
    """One policy against another. Later policies are compared over earlier ones; the first named is the baseline."""

    first: str
    second: str
    seeds: tuple[int, ...]
    prompts: int
    counts: Counts
    identical: int
    """Ties that were not asked about: the answers are the same text."""
    failures: dict[str, int]
    """Failed pairs by kind."""
    p: float | None
    """Two-sided exact sign test over prompts (the sum over seeds of each); null without a decided pair."""
    holm: float | None
    """The same, corrected by Holm for the pairs of this evaluation."""
    decided: Share | None
    """Wins among wins and losses, with the Wilson interval; it treats every decided pair as a draw of its own."""
    win_rate: Interval | None
    """(wins + half of ties and of position_bias) / judged, with the bootstrap interval over seeds and prompts."""
    net: Interval | None
    """(wins - losses) / judged, likewise."""
    bias: PositionBias | None
    """Null where judgements came without orders."""
    lengths: LengthCheck | None
    categories: tuple[GroupResult, ...]
    by_seed: tuple[GroupResult, ...]


@dataclass(frozen=True)
class PolicyResult:
    """What is known of one policy's answers, and its rating."""

    name: str
    source: str
    seeds: tuple[int, ...]
    answers: int
    words: Interval | None
    tokens: Interval | None
    repetition: Interval | None
    """Share of an answer's word pairs that stood in it before."""
    refusals: Share | None
    """Answers that open as a refusal in English: a heuristic, `summary.refuses`."""
    empty: int
    rating: Rating | None


@dataclass(frozen=True)
class Capability:
    """One task of lm-evaluation-harness for one policy."""

    policy: str
    task: str
    metric: str
    seeds: tuple[int, ...]
    items: int
    """Items asked of each seed."""
    available: int
    """Items that the task has."""
    score: Interval
    difference: Interval | None
    """Score minus the baseline's, paired by item; null for the baseline."""


@dataclass(frozen=True)
class JudgeResult:
    """Who judged, how, and what it took."""

    name: str
    base_url: str | None
    rubric: str | None
    mode: str | None
    """How an endpoint was asked for structured output, and what came of it; null for other judges."""
    categories: str
    sent: int
    """Requests of the last run, retries not counted."""
    cached: int
    """Replies of the last run that came from the cache."""
    tokens_estimated: int
    """For all pairs, before anything was sent; categories not included."""
    tokens_prompt: int | None
    """As counted by the endpoint for all verdicts, cached ones included, and for categories of the last run."""
    tokens_completion: int | None
    defused: int
    """Answers that held a chat template's control tokens, which were broken up before the judge read them."""


@dataclass(frozen=True)
class Evaluation:
    """Everything the tables and sentences of an evaluation say."""

    baseline: str
    prompt_source: str
    prompts: int
    missing: int
    """Prompts left out because some policy has no answer to them."""
    level: float
    policies: tuple[PolicyResult, ...]
    pairs: tuple[PairResult, ...]
    judge: JudgeResult | None
    capabilities: tuple[Capability, ...]
    multiplicity: str
    """What was corrected for, in words."""
    sentences: tuple[str, ...]


def write_evaluation(out: Path, evaluation: Evaluation) -> None:
    """Write `OUT/evaluation.json`, whole or not at all."""
    write_json(out / EVALUATION, evaluation)


def read_evaluation(path: Path) -> Evaluation:
    """Read `evaluation.json`, or the directory that holds it.

    Raises:
        DataError: unreadable, or not what `write_evaluation` writes, with the place of the fault.
    """
    again = "write it again with foresighted evaluate, --resume or the same --judgements"
    where = path / EVALUATION if path.is_dir() else path
    return read_json(where, Evaluation, what="evaluation", again=again, earlier=_is_earlier)


def _is_earlier(evaluation: Mapping[str, Any]) -> bool:
    """Return whether 0.2 wrote an evaluation: none of its intervals named a method."""
    known = {field.name for field in fields(Evaluation)}
    return known <= evaluation.keys() and '"method"' not in json.dumps(evaluation)
