"""Held-out answers of arms in pairs, on written records: who meets whom, in how many calls, and nothing twice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from foresighted.alignment.comparison import LEVEL, summarise
from foresighted.judging.heldout import FIRST, judge_heldout, read_wins
from foresighted.judging.rows import JudgementRow, read_rows
from foresighted.store.directory import JUDGEMENTS, LOOPS

PLAIN = "rlhf:kl_coefficient=0"


class Judge:
    """Prefers what is later in the alphabet, in lists; counts its calls."""

    def __init__(self, wrong: str = "\0") -> None:
        self.calls, self.wrong = [0], wrong

    def __call__(self, prompts: list[str], first: list[str], second: list[str]) -> list[float]:
        self.calls.append(len(prompts))
        if any(self.wrong in text for text in first):
            raise ValueError("cannot read this")
        return [0.5 if a == b else float(a > b) for a, b in zip(first, second, strict=True)]


@pytest.fixture(scope="module")
def loops(synthetic: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rehearsal")
    arms = {PLAIN: {**synthetic.NO_UTILITY, "text": "B"}, "practical": {**synthetic.NO_UTILITY, "text": "C"}}
    synthetic.write_comparison(out / LOOPS, arms, seeds=[0, 1], rounds=20)
    return out


def test_arms_meet_the_first_policy_and_the_baseline(loops: Path) -> None:
    comparison, judge = summarise(loops / LOOPS), Judge()
    told: list[tuple[int, int]] = []
    judge_heldout(loops, comparison, "", judge, lambda *done: told.append(done))
    rows = read_rows(loops / JUDGEMENTS, JudgementRow)
    met = {(row.first, row.second) for row in rows}
    assert met == {
        (f"{PLAIN} after round 10", FIRST), (f"{PLAIN} after round 20", FIRST), ("practical after round 20", FIRST),
        ("practical after round 20", f"{PLAIN} after round 20"),
    }  # fmt: skip
    assert len(rows) == told[-1][0] == told[-1][1] == 4 * 2 * 12
    assert sum(judge.calls) == 4 * 12 * 2  # both orders; the seeds wrote the same texts, which are asked about once
    assert len(judge.calls) - 1 <= 96 / 8
    wins = read_wins(loops, comparison, seed=0, level=LEVEL)
    assert [one.round for one in wins[PLAIN]] == [10, 20]
    assert wins[PLAIN][-1].baseline is None
    assert wins["practical"][0].baseline is not None
    assert wins["practical"][0].baseline.mean == 1  # C comes after B
    again = Judge()
    judge_heldout(loops, comparison, "", again)
    assert again.calls == [0]


def test_what_a_judge_cannot_judge_counts_as_nothing(loops: Path, tmp_path: Path) -> None:
    comparison = summarise(loops / LOOPS)
    (tmp_path / LOOPS).symlink_to(loops / LOOPS)
    judge_heldout(tmp_path, comparison, "", Judge(wrong="C"))
    wins = read_wins(tmp_path, comparison, seed=0, level=LEVEL)
    assert wins["practical"][0].first is None
    assert wins["practical"][0].failed == 2 * 2 * 12
    assert wins[PLAIN][0].failed == 0
    assert read_wins(loops / LOOPS, comparison, seed=0, level=LEVEL) == {}
