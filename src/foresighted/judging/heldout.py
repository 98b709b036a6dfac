"""Held-out answers of arms judged in pairs, where the judge knows no utility: win rates of a rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from foresighted.alignment.compared import Arm, Comparison
from foresighted.alignment.played import Run, read_runs
from foresighted.alignment.rehearsed import Wins
from foresighted.judging.judges import LocalJudge
from foresighted.judging.pairs import Pair, judge_pairs, open_pairs
from foresighted.judging.rows import AnswerRow, JudgementRow, key, read_rows
from foresighted.judging.winrates import pair_result
from foresighted.labels.asking import Asker
from foresighted.labels.labellers import own_labels
from foresighted.statistics.intervals import Interval
from foresighted.store.directory import JUDGEMENTS, LOOPS
from foresighted.store.records import HeldoutRow
from foresighted.types import Labeller

FIRST = "first policy"


def judge_heldout(
    out: Path,
    comparison: Comparison,
    labels: str,
    given: Labeller | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Have the judge of a rehearsal compare held-out answers, each pair in both orders; verdicts that are there stay.

    Every arm's answers after its last round meet the first policy's and the baseline's; the baseline's own meet the
    first policy's after each evaluated round, so that it is seen when they fall.

    Args:
        out: the rehearsal; verdicts go to its `judgements.jsonl`.
        comparison: what its loops came to.
        labels: FILE.py:NAME, who labels.
        given: that object in its place.
        on_progress: told how many pairs are judged, of how many.
    """
    path = out / JUDGEMENTS
    every = [pair for pairs in _pairs(out, comparison).values() for pair in pairs]
    judge = LocalJudge(Asker(own_labels("labels", labels) if given is None else given), tie_margin=0.0)
    judge_pairs(open_pairs(every, read_rows(path, JudgementRow)), judge, path, on_progress)


def read_wins(out: Path, comparison: Comparison, *, seed: int, level: float) -> dict[str, tuple[Wins, ...]]:
    """Return win rates by arm and evaluated round; empty where nothing was judged.

    Args:
        out: the rehearsal.
        comparison: what its loops came to.
        seed: of the bootstrap.
        level: of the intervals.
    """
    rows = {key(row): row for row in read_rows(out / JUDGEMENTS, JudgementRow)}
    if not rows:
        return {}
    met: dict[tuple[str, int, str], list[JudgementRow]] = {}
    for place, pairs in _pairs(out, comparison).items():
        known = [row for pair in pairs if (row := rows.get(pair.key)) is not None and row.digest == pair.digest]
        met[place] = known

    def rate(place: tuple[str, int, str]) -> Interval | None:
        own = met.get(place)
        return pair_result(own, seed=seed, level=level).win_rate if own else None

    places = list(dict.fromkeys((arm, round_) for arm, round_, _ in met))
    wins: dict[str, tuple[Wins, ...]] = {}
    for arm, round_ in places:
        both = [(arm, round_, other) for other in (FIRST, comparison.planned_arms[0])]
        failed = sum(row.result == "failure" for place in both for row in met.get(place, ()))
        wins[arm] = (*wins.get(arm, ()), Wins(round_, rate(both[0]), rate(both[1]), failed))
    return wins


def _pairs(out: Path, comparison: Comparison) -> dict[tuple[str, int, str], list[Pair]]:
    """Return the pairs of answers by arm, round and what it meets."""
    _, runs = read_runs(out / LOOPS)
    found = {(run.arm, run.seed): run for run in runs}
    baseline = comparison.planned_arms[0]
    pairs: dict[tuple[str, int, str], list[Pair]] = {}
    for arm in comparison.arms:
        rounds = [one.round for one in arm.evaluated][1:]
        for round_ in rounds if arm.label == baseline else rounds[-1:]:
            for seed in arm.seeds:
                run, other = found[arm.label, seed], found.get((baseline, seed))
                pairs.setdefault((arm.label, round_, FIRST), []).extend(_met(run, round_, run, _start(arm), FIRST))
                if other is not None and arm.label != baseline and round_ in other.answers:
                    pairs.setdefault((arm.label, round_, baseline), []).extend(
                        _met(run, round_, other, round_, _named(baseline, round_))
                    )
    return pairs


def _start(arm: Arm) -> int:
    return arm.evaluated[0].round


def _named(arm: str, round_: int) -> str:
    return f"{arm} after round {round_}"


def _met(run: Run, round_: int, other: Run, other_round: int, name: str) -> Sequence[Pair]:
    mine, theirs = run.answers[round_], other.answers[other_round]
    return [
        Pair(
            _answer(_named(run.arm, round_), run.seed, mine[prompt]), _answer(name, run.seed, theirs[prompt]), run.seed,
            mine[prompt].kind,
        )
        for prompt in mine
        if prompt in theirs
    ]  # fmt: skip


def _answer(policy: str, seed: int, row: HeldoutRow) -> AnswerRow:
    return AnswerRow(policy, seed, row.prompt_id, row.prompt, row.kind, row.text, row.tokens)
