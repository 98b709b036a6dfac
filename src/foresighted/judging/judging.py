"""Pairs of answers, each shown to the judge in both orders, and what the two verdicts come to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from foresighted.errors import ConfigError
from foresighted.judging.judges import Judge, Question, Reply
from foresighted.judging.rows import TIE, TRANSIENT, AnswerRow, JudgementRow, Result, digest_of, key
from foresighted.judging.texts import word_count
from foresighted.store.rows import append

_BLOCK = 16  # rows written at a time
_LONGEST = 2000


class Pair(NamedTuple):
    """Answers of two policies to one prompt; `seed` is the training seed that the pair stands for."""

    first: AnswerRow
    second: AnswerRow
    seed: int
    category: str

    @property
    def key(self) -> tuple[object, ...]:
        """As `rows.key` of its judgement."""
        return self.first.policy, self.second.policy, self.first.seed, self.second.seed, self.first.prompt_id

    @property
    def digest(self) -> str:
        """Of the prompt and both answers, in their order."""
        return digest_of(self.first.prompt, self.first.text, self.second.text)

    @property
    def identical(self) -> bool:
        """Whether the two answers are the same text, so that there is nothing to ask."""
        return self.first.text.strip() == self.second.text.strip()

    def questions(self) -> tuple[Question, Question]:
        """Return the pair in both orders."""
        prompt, first, second = self.first.prompt, self.first.text, self.second.text
        return Question(prompt, first, second), Question(prompt, second, first)


def pairs(answers: Sequence[AnswerRow], policies: Sequence[str], categories: Mapping[str, str]) -> list[Pair]:
    """Return every pair of policies on every prompt that both answered: the later named over the earlier.

    Policies with several training seeds meet seed by seed; one with a single seed meets each seed of the other.

    Raises:
        ConfigError: two policies with several seeds each, none of them in common.
    """
    found = {(row.policy, row.seed, row.prompt_id): row for row in answers}
    seeds = {name: sorted({row.seed for row in answers if row.policy == name}) for name in policies}
    prompts = list(dict.fromkeys(row.prompt_id for row in answers))
    result = []
    for second, first in itertools.combinations(policies, 2):
        for seed, first_seed, second_seed in _meetings(first, second, seeds):
            for prompt in prompts:
                mine, other = found.get((first, first_seed, prompt)), found.get((second, second_seed, prompt))
                if mine and other:
                    result.append(Pair(mine, other, seed, categories[prompt]))
    return result


def _meetings(first: str, second: str, seeds: Mapping[str, Sequence[int]]) -> list[tuple[int, int, int]]:
    mine, other = seeds[first], seeds[second]
    if len(other) == 1:
        return [(seed, seed, other[0]) for seed in mine]
    if len(mine) == 1:
        return [(seed, mine[0], seed) for seed in other]
    common = sorted(set(mine) & set(other))
    if not common and mine and other:
        raise ConfigError(f"policies: {first} and {second} have several training seeds and none in common")
    return [(seed, seed, seed) for seed in common]


def complete(answers: Sequence[AnswerRow]) -> tuple[list[AnswerRow], int]:
    """Return the answers to prompts that every policy and seed answered, and how many prompts were left out."""
    asked = {(row.policy, row.seed): set[str]() for row in answers}
    for row in answers:
        asked[row.policy, row.seed].add(row.prompt_id)
    common = set.intersection(*asked.values()) if asked else set()
    every = set.union(*asked.values()) if asked else set()
    return [row for row in answers if row.prompt_id in common], len(every - common)


def open_pairs(every: Sequence[Pair], judged: Collection[JudgementRow]) -> list[Pair]:
    """Return the pairs that want a verdict: not judged, other texts than were, or a failure that may have passed."""
    done = {key(row): row for row in judged if row.failure not in TRANSIENT}
    return [pair for pair in every if (row := done.get(pair.key)) is None or row.digest != pair.digest]


def judge_pairs(
    todo: Sequence[Pair], judge: Judge, path: Path, on_progress: Callable[[int, int], None]
) -> list[JudgementRow]:
    """Judge pairs in both orders and append the rows to a file as they come.

    Args:
        todo: the pairs.
        judge: who is asked; identical answers are ties and nobody is.
        path: `judgements.jsonl`.
        on_progress: called with how many are done, of how many.

    Returns:
        The rows, in the order of the pairs.
    """
    asked = [pair for pair in todo if not pair.identical]
    replies = iter(judge.ask(question for pair in asked for question in pair.questions()))
    rows: list[JudgementRow] = []
    waiting: list[JudgementRow] = []
    try:
        for pair in todo:
            both = None if pair.identical else _two(replies)
            waiting.append(_row(pair, both, 0 if both is None else _estimate(judge, pair)))
            if len(waiting) == _BLOCK:
                append(path, waiting)
                rows, waiting = rows + waiting, []
            on_progress(len(rows) + len(waiting), len(todo))
    finally:
        append(path, waiting)
    return rows + waiting


def _two(replies: Iterator[Reply]) -> tuple[Reply, Reply]:
    return next(replies), next(replies)


def _estimate(judge: Judge, pair: Pair) -> int:
    return sum(judge.estimate(question) for question in pair.questions())


def estimate(judge: Judge, todo: Sequence[Pair]) -> int:
    """Return about how many tokens judging these pairs takes, nothing of it cached."""
    return sum(_estimate(judge, pair) for pair in todo if not pair.identical)


def _row(pair: Pair, replies: tuple[Reply, Reply] | None, tokens: int) -> JudgementRow:
    first, second = pair.first.policy, pair.second.policy
    forward = backward = None
    both: tuple[Reply, ...] = replies or ()
    if replies is not None:
        forward = {"first": first, "second": second, "tie": TIE, None: None}[replies[0].verdict]
        backward = {"first": second, "second": first, "tie": TIE, None: None}[replies[1].verdict]
    failed = next((reply for reply in both if reply.failure), None)
    return JudgementRow(
        first=first,
        second=second,
        seed=pair.seed,
        first_seed=pair.first.seed,
        second_seed=pair.second.seed,
        prompt_id=pair.first.prompt_id,
        category=pair.category,
        result=result_of(forward, backward, first, asked=replies is not None),
        identical=replies is None,
        forward=forward,
        backward=backward,
        forward_reason=_storable(replies[0].reason if replies else None),
        backward_reason=_storable(replies[1].reason if replies else None),
        failure=failed.failure if failed else None,
        failure_detail=_storable(failed.detail if failed else None),
        tokens_estimated=tokens,
        tokens_prompt=_sum(reply.tokens_prompt for reply in both),
        tokens_completion=_sum(reply.tokens_completion for reply in both),
        sent=sum(not reply.cached for reply in both) if tokens else 0,
        cached=sum(reply.cached for reply in both),
        first_words=word_count(pair.first.text),
        second_words=word_count(pair.second.text),
        digest=pair.digest,
    )


def result_of(forward: str | None, backward: str | None, first: str, *, asked: bool = True) -> Result:
    """Return what two verdicts come to for the policy `first`; each is the name of the policy preferred, or `tie`.

    Example:
        >>> result_of("a", "a", "a"), result_of("a", "b", "a"), result_of("tie", "tie", "a"), result_of("a", None, "a")
        ('win', 'position_bias', 'tie', 'failure')
    """
    if not asked:
        return "tie"
    if forward is None or backward is None:
        return "failure"
    if forward != backward:
        return "position_bias"
    return "tie" if forward == TIE else "win" if forward == first else "loss"


def _storable(text: str | None) -> str | None:
    """Return a judge's text as a file can hold it: half surrogate pairs replaced, at most 2000 characters."""
    return None if text is None else text[:_LONGEST].encode("utf-8", "replace").decode()


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return sum(value for value in known if value is not None) if any(value is not None for value in known) else None
