"""Held-out answers side by side: the same prompts in every round, chosen by a rule that cannot see the outcome."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foresighted.alignment.compared import Comparison
from foresighted.alignment.played import read_plan, run_directory, whole_rounds
from foresighted.statistics.wording import number
from foresighted.store.records import HELDOUT, HeldoutRow
from foresighted.store.rows import read

SHOWN = 8
SHOWN_ROUNDS = 10


@dataclass(frozen=True)
class Answer:
    """One answer under its arm's name; `index` is the arm's place among the planned arms, None for the first policy."""

    heading: str
    index: int | None
    text: str
    utility: str
    reward: str
    tokens: int


@dataclass(frozen=True)
class Question:
    """A prompt and its answers: the first policy's, then one an arm."""

    prompt: str
    kind: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Samples:
    """Answers of one seed: evaluated round -> the shown prompts after it."""

    seed: int
    start: int
    """The round of the first policy's answers."""
    rounds: Mapping[int, tuple[Question, ...]]


@dataclass(frozen=True)
class Moment:
    """Answers to one prompt after `round` rounds: one an arm, None where it has none; at the start one for all."""

    name: str
    round: int
    answers: tuple[Answer | None, ...]


@dataclass(frozen=True)
class Words:
    """The first shown prompt at three moments; `arms` has label and look of each column."""

    seed: int
    prompt: str
    arms: tuple[tuple[str, int], ...]
    moments: tuple[Moment, ...]


def words_of(samples: Samples) -> Words:
    """Return the first shown prompt at the start, after the shown round nearest to the middle, and at the end."""
    *earlier, last = samples.rounds
    middle = sorted(earlier, key=lambda round_: abs(2 * round_ - samples.start - last))[:1]
    names = dict.fromkeys(middle, "middle") | ({last: "end"} if last != samples.start else {})
    answers = {round_: samples.rounds[round_][0].answers for round_ in names}
    arms = {one.heading: one.index for some in answers.values() for one in some if one.index is not None}
    looks = tuple(sorted(arms.items(), key=lambda item: item[1]))
    first = samples.rounds[last][0]
    moments = [Moment("start", samples.start, first.answers[:1])]
    for round_, name in names.items():
        by_arm = {one.heading: one for one in answers[round_]}
        moments.append(Moment(name, round_, tuple(by_arm.get(label) for label, _ in looks)))
    return Words(samples.seed, first.prompt, looks, tuple(moments))


def shown_prompts(prompt_ids: Iterable[str], count: int = SHOWN) -> list[str]:
    """Return the `count` prompt ids that come first by the SHA-256 of the id: a rule fixed before any outcome."""
    return sorted(prompt_ids, key=lambda one: hashlib.sha256(one.encode("utf-8", "replace")).digest())[:count]


def shown_rounds(rounds: Sequence[int], count: int = SHOWN_ROUNDS) -> list[int]:
    """Return at most `count` rounds at even steps, the last one included; the response browser has all of them."""
    steps = min(count, len(rounds))
    return [rounds[len(rounds) - 1 - (len(rounds) * i) // steps] for i in reversed(range(steps))]


def read_samples(out: Path, comparison: Comparison) -> Samples | None:
    """Return sample answers of the first seed that most arms have, or None where there is none.

    Args:
        out: the directory that `comparison` summarises.
        comparison: its summary.

    Returns:
        For each evaluated round up to the last common one, the shown prompts with the answers of every arm that
        has that seed and round.
    """
    seeds = [seed for arm in comparison.arms for seed in arm.seeds]
    if not seeds:
        return None
    seed = min(set(seeds), key=lambda one: (-seeds.count(one), comparison.planned_seeds.index(one)))
    plan = read_plan(out)
    answers: list[tuple[str, dict[int, dict[str, HeldoutRow]]]] = []
    for arm in comparison.arms:
        if seed in arm.seeds:
            rows = read(run_directory(out, plan, arm.label, seed) / HELDOUT, HeldoutRow)
            answers.append((arm.label, whole_rounds(rows)))
    first_round = min(min(by_round) for _, by_round in answers)
    first = next(by_round[first_round] for _, by_round in answers if first_round in by_round)
    prompts = shown_prompts(first)
    rounds = sorted({round_ for _, by_round in answers for round_ in by_round if round_ <= comparison.last_round})
    shown = {
        round_: tuple(_question(first, first_round, prompt, round_, answers, plan.arms) for prompt in prompts)
        for round_ in shown_rounds([one for one in rounds if one != first_round] or rounds)
    }
    return Samples(seed, first_round, shown)


def _question(
    first: dict[str, HeldoutRow],
    first_round: int,
    prompt: str,
    round_: int,
    answers: Sequence[tuple[str, dict[int, dict[str, HeldoutRow]]]],
    planned: Sequence[str],
) -> Question:
    start = first[prompt]
    columns = [_answer(f"before training (round {first_round})", None, start)]
    if round_ != first_round:
        columns += [
            _answer(label, planned.index(label), by_round[round_][prompt])
            for label, by_round in answers
            if prompt in by_round.get(round_, {})
        ]
    return Question(start.prompt, start.kind, tuple(columns))


def _answer(heading: str, index: int | None, row: HeldoutRow) -> Answer:
    utility = "unknown" if row.utility is None else number(row.utility)
    return Answer(heading, index, row.text, utility, number(row.reward), row.tokens)
