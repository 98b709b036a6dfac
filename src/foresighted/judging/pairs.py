"""Pairs of answers, each shown to the judge in both orders, and what the two verdicts come to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from foresighted.errors import ConfigError
from foresighted.judging.judges import Judge, Question, Reply
from foresighted.judging.rows import AGAIN, TIE, AnswerRow, JudgementRow, Result, digest_of, key, total
from foresighted.store.rows import append
from foresighted.texts import words

_BLOCK = 16  # rows written at a time
_LONGEST = 2000
_NOT_ASKED = (Reply(), Reply())


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


def every_pair(answers: Sequence[AnswerRow], policies: Sequence[str], categories: Mapping[str, str]) -> list[Pair]:
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
        met = meetings(seeds[first], seeds[second])
        if not met and seeds[first] and seeds[second]:
            raise ConfigError(f"policies: {first} and {second} have several training seeds and none in common")
        for seed, first_seed, second_seed in met:
            for prompt in prompts:
                mine, other = found.get((first, first_seed, prompt)), found.get((second, second_seed, prompt))
                if mine and other:
                    result.append(Pair(mine, other, seed, categories[prompt]))
    return result


def meetings(mine: Sequence[int], other: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return which training seeds of two policies are compared: what the pair stands for, mine and the other's."""
    if len(other) == 1:
        return [(seed, seed, other[0]) for seed in mine]
    if len(mine) == 1:
        return [(seed, mine[0], seed) for seed in other]
    return [(seed, seed, seed) for seed in mine if seed in other]


def complete(answers: Sequence[AnswerRow], policies: Iterable[str]) -> tuple[list[AnswerRow], int]:
    """Return the answers to prompts that every policy and seed answered, and how many prompts were left out."""
    silent = set(policies) - {row.policy for row in answers}
    answered: dict[tuple[str, int], set[str]] = {(name, 0): set() for name in silent}
    for row in answers:
        answered.setdefault((row.policy, row.seed), set()).add(row.prompt_id)
    common, every = set.intersection(*answered.values()), set.union(*answered.values())
    return [row for row in answers if row.prompt_id in common], len(every - common)


def open_pairs(every: Sequence[Pair], judged: Collection[JudgementRow]) -> list[Pair]:
    """Return the pairs that want a verdict: not judged, other texts than were, or a failure that may have passed."""
    done = {key(row): row for row in judged if row.failure not in AGAIN}
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
            both = _NOT_ASKED if pair.identical else (next(replies), next(replies))
            waiting.append(_row(pair, *both, estimate(judge, [pair])))
            if len(waiting) == _BLOCK:
                append(path, waiting)
                rows, waiting = rows + waiting, []
            on_progress(len(rows) + len(waiting), len(todo))
    finally:
        append(path, waiting)
    return rows + waiting


def estimate(judge: Judge, todo: Sequence[Pair]) -> int:
    """Return about how many tokens judging these pairs takes, nothing of it cached."""
    return sum(judge.estimate(question) for pair in todo if not pair.identical for question in pair.questions())


def _row(pair: Pair, one: Reply, turned: Reply, tokens: int) -> JudgementRow:
    first, second = pair.first.policy, pair.second.policy
    forward = {"first": first, "second": second, "tie": TIE, None: None}[one.verdict]
    backward = {"first": second, "second": first, "tie": TIE, None: None}[turned.verdict]
    both = (one, turned)
    failed = next((reply for reply in both if reply.failure), Reply())
    return JudgementRow(
        first=first,
        second=second,
        seed=pair.seed,
        first_seed=pair.first.seed,
        second_seed=pair.second.seed,
        prompt_id=pair.first.prompt_id,
        category=pair.category,
        result="tie" if pair.identical else result_of(forward, backward, first),
        identical=pair.identical,
        forward=forward,
        backward=backward,
        forward_reason=_storable(one.reason),
        backward_reason=_storable(turned.reason),
        failure=failed.failure,
        failure_detail=_storable(failed.detail),
        tokens_estimated=tokens,
        tokens_prompt=total(reply.tokens_prompt for reply in both),
        tokens_completion=total(reply.tokens_completion for reply in both),
        sent=sum(not reply.cached for reply in both) if tokens else 0,
        cached=sum(reply.cached for reply in both),
        first_words=len(words(pair.first.text)),
        second_words=len(words(pair.second.text)),
        digest=pair.digest,
    )


def result_of(forward: str | None, backward: str | None, first: str) -> Result:
    """Return what two verdicts come to for the policy `first`; each is the name of the policy preferred, or `tie`.

    Example:
        >>> result_of("a", "a", "a"), result_of("a", "b", "a"), result_of("tie", "tie", "a"), result_of("a", None, "a")
        ('win', 'position_bias', 'tie', 'failure')
    """
    if forward is None or backward is None:
        return "failure"
    if forward != backward:
        return "position_bias"
    return "tie" if forward == TIE else "win" if forward == first else "loss"


def _storable(text: str | None) -> str | None:
    """Return a judge's text as a file can hold it: half surrogate pairs replaced, at most 2000 characters."""
    return None if text is None else text[:_LONGEST].encode("utf-8", "replace").decode()
