"""From answers and judgements to the whole result."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from foresighted.judging.result import Capability, Evaluation, JudgeResult, PairResult, PolicyResult
from foresighted.judging.rows import AnswerRow, JudgementRow
from foresighted.judging.sentences import sentences
from foresighted.judging.winrates import outcomes, pair_result
from foresighted.statistics.intervals import Interval, mean_interval, wilson_share
from foresighted.statistics.ratings import Rating, holm, ratings
from foresighted.texts import repetition, words

LEVEL = 0.95
_OPENING = 160  # characters
_REFUSAL = re.compile(
    r"\b(?:i(?:['’]m| am)(?: very| so| really)? sorry|i(?: apologi[sz]e)|as an ai\b|as a language model"
    r"|i (?:can ?not|can['’]t|won['’]t|will not|am unable to|must decline|do not feel comfortable|don['’]t feel"
    r" comfortable)\b|i['’]m (?:unable|not able) to|(?:can ?not|unable to|can['’]t) (?:help|assist|comply|provide))",
    re.IGNORECASE,
)


def summarise(
    policies: Mapping[str, str],
    answers: Sequence[AnswerRow],
    judgements: Sequence[JudgementRow],
    *,
    judge: JudgeResult | None,
    capabilities: Sequence[Capability] = (),
    prompt_source: str,
    missing: int = 0,
    seed: int,
) -> Evaluation:
    """Return everything that tables and sentences say.

    Args:
        policies: name to source, the baseline first.
        answers: of all policies; none where judgements came from a table.
        judgements: of any pairs of them.
        judge: who judged; None where judgements came from a table, without orders.
        capabilities: results of lm-evaluation-harness.
        prompt_source: where prompts came from.
        missing: prompts that some policy has no answer to.
        seed: of the bootstrap.
    """
    pairs = _pairs(judgements, list(policies), seed=seed, ordered=judge is not None)
    rated = ratings(outcomes(judgements), list(policies), seed=seed, level=LEVEL) or {}
    prompts = {row.prompt_id for row in answers} | {row.prompt_id for row in judgements}
    evaluation = Evaluation(
        baseline=next(iter(policies)),
        prompt_source=prompt_source,
        prompts=len(prompts),
        missing=missing,
        level=LEVEL,
        policies=tuple(
            _policy(name, source, [row for row in answers if row.policy == name], judgements, rated.get(name), seed)
            for name, source in policies.items()
        ),
        pairs=pairs,
        judge=judge,
        capabilities=tuple(capabilities),
        multiplicity=_multiplicity(len(pairs)),
        sentences=(),
    )
    return replace(evaluation, sentences=sentences(evaluation))


def _pairs(
    judgements: Sequence[JudgementRow], policies: Sequence[str], *, seed: int, ordered: bool
) -> tuple[PairResult, ...]:
    found = []
    for second, first in itertools.combinations(policies, 2):
        rows = [row for row in judgements if (row.first, row.second) == (first, second)]
        if rows:
            found.append(pair_result(rows, seed=seed, level=LEVEL, ordered=ordered))
    corrected = holm([pair.p for pair in found])
    return tuple(replace(pair, holm=value) for pair, value in zip(found, corrected, strict=True))


def _multiplicity(pairs: int) -> str:
    if pairs < 2:
        return "One comparison, so its p-value needs no correction; those of categories are not corrected."
    return (
        f"p-values of the {pairs} comparisons are also given after Holm's correction; intervals, categories and"
        " capabilities are not corrected."
    )


def _policy(
    name: str, source: str, answers: Sequence[AnswerRow], judgements: Sequence[JudgementRow], rating: Rating | None,
    seed: int,
) -> PolicyResult:  # fmt: skip
    seeds = {row.seed for row in answers}
    seeds |= {row.first_seed for row in judgements if row.first == name}
    seeds |= {row.second_seed for row in judgements if row.second == name}

    refused = sum(refuses(row.text) for row in answers)
    return PolicyResult(
        name=name,
        source=source,
        seeds=tuple(sorted(seeds)),
        answers=len(answers),
        words=_mean(answers, lambda row: len(words(row.text)), seed),
        tokens=_mean(answers, lambda row: row.tokens, seed),
        repetition=_mean(answers, lambda row: repetition(row.text), seed),
        refusals=wilson_share(refused, len(answers), level=LEVEL) if answers else None,
        empty=sum(not row.text.strip() for row in answers),
        rating=rating,
    )


def refuses(text: str) -> bool:
    """Return whether a text opens as a refusal does in English (its first 160 characters).

    A heuristic: it misses a polite refusal in other words, and takes an answer that opens with an apology for one.

    Example:
        >>> refuses("I'm sorry, but I can't help with that."), refuses("Paris is the capital of France.")
        (True, False)
    """
    return _REFUSAL.search(text.strip()[:_OPENING]) is not None


def _mean(answers: Sequence[AnswerRow], value: Callable[[AnswerRow], float | None], seed: int) -> Interval | None:
    """Return the mean over (seeds, prompts); None where there is no answer, or one whose value is not known."""
    cells = {(row.seed, row.prompt_id): value(row) for row in answers}
    seeds, prompts = sorted({row.seed for row in answers}), sorted({row.prompt_id for row in answers})
    grid = [[cells.get((s, p)) for p in prompts] for s in seeds]
    if not cells or any(item is None for line in grid for item in line):
        return None
    return mean_interval(np.array(grid, np.float64), seed=seed, level=LEVEL)
