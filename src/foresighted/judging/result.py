"""What an evaluation says, as numbers: frozen dataclasses, their JSON file and its reader."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from foresighted.errors import DataError
from foresighted.judging.rows import EVALUATION
from foresighted.statistics.intervals import Interval, Share
from foresighted.statistics.ratings import Rating


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
    """Answers that open as a refusal in English: a heuristic, `texts.refuses`."""
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
    """Write `OUT/evaluation.json` by one rename."""
    temporary = out / f"{EVALUATION}.tmp"
    text = json.dumps(_plain(asdict(evaluation)), indent=1, allow_nan=False, ensure_ascii=False)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, out / EVALUATION)


def read_evaluation(path: Path) -> Evaluation:
    """Read `evaluation.json`, or the directory that holds it.

    Raises:
        DataError: unreadable, or not what `write_evaluation` writes, with the place of the fault.
    """
    path = path / EVALUATION if path.is_dir() else path
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); is this a directory of evaluate?") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); run foresighted evaluate --resume to write it again") from None
    try:
        evaluation: Evaluation = _decode(mapping, Evaluation, "evaluation")
    except _Fault as fault:
        raise DataError(f"{path}: {fault}; run foresighted evaluate --resume to write it again") from None
    return evaluation


class _Fault(Exception):  # noqa: N818  # turned into a DataError with the file's name
    pass


def _decode(value: Any, hint: Any, where: str) -> Any:
    """Return a JSON value as the type `hint`; infinite bounds of intervals, written as null, come back."""
    if isinstance(hint, type) and is_dataclass(hint):
        return _decode_class(value, hint, where)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        return _decode(value, next(part for part in parts if part is not NoneType), where)
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(item, parts[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(name): _decode(item, parts[1], f"{where}.{name}") for name, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Enum) and value in list(hint):
        return hint(value)
    number = hint is float and isinstance(value, int | float) and not isinstance(value, bool)
    if number or (isinstance(hint, type) and type(value) is hint):
        return float(value) if number else value
    raise _Fault(f"{where} is {str(value)[:60]!r}, which does not belong there")


def _decode_class(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _Fault(f"{where} is {str(value)[:60]!r}, expected an object")
    hints, values = get_type_hints(kind), {}
    for field in fields(kind):
        if field.name not in value:
            if field.default is MISSING:
                raise _Fault(f"{where} lacks {field.name}")
            continue
        item = value[field.name]
        if kind is Interval and item is None and field.name in ("low", "high"):
            item = -math.inf if field.name == "low" else math.inf
        values[field.name] = _decode(item, hints[field.name], f"{where}.{field.name}")
    return kind(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
