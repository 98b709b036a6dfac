"""Directories of every kind that a page is made from, with hostile text in them."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foresighted.judging.rows import AnswerRow, JudgementRow
from foresighted.store import records
from foresighted.store.directory import arm_directory, start_directory
from foresighted.store.rows import append

HOSTILE = (
    "</p></script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>\x00\u202e\u2028"
    " LONE-SURROGATE $x_{1"
)
ROUNDS = 20
ODD_ARM = "<i>$odd_{\"'&"


def write_candidates(directory: Path, *, seed: int, rounds: int, text: str = "A candidate") -> None:
    """Write candidates and references of a run: 3 prompts with 2 candidates a round, the first chosen and labelled."""
    chance = random.Random(seed)

    def prompt(done: int, place: int) -> tuple[str, str]:
        number = (3 * done + place) % 50
        return f"t{number}", f"Training question {number}?"

    start = start_directory(directory.parent.parent.parent, seed)
    references = start / records.REFERENCES
    if start.exists() and not references.exists():
        append(references, [
            records.ReferenceRow(done, *prompt(done, place), f"Reference {done} {place}", 4, 3.0)
            for done in range(1, rounds + 1)
            for place in range(3)
        ])  # fmt: skip
    append(directory / records.CANDIDATES, [
        records.CandidateRow(
            done, *prompt(done, place), number, f"{text} {done} {place} {number}", 5,
            reward := chance.gauss(0.1 * done, 1), 0.0, 1.0, chance.gauss(3, 1),
            chance.random() if number == 0 else None,
            -0.01 * done * (number + 1), 0.01 * done * (number + 1), None, reward, number == 0,
        )
        for done in range(1, rounds + 1)
        for place in range(3)
        for number in range(2)
    ])  # fmt: skip


@pytest.fixture(scope="session")
def comparison(synthetic: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms, two seeds; one arm falls and writes hostile text, one has a hostile name."""
    arms: dict[str, Any] = {
        "rlhf": {**synthetic.FALLING, "text": HOSTILE},
        "practical:gamma=0.3": synthetic.STEADY,
        ODD_ARM: synthetic.FLAT,
    }
    out: Path = synthetic.write_comparison(tmp_path_factory.mktemp("page") / "out", arms, seeds=[0, 1], rounds=ROUNDS)
    for arm in arms:
        for seed in (0, 1):
            directory = arm_directory(out, arm, seed)
            write_candidates(directory, seed=seed, rounds=ROUNDS, text=HOSTILE if arm == "rlhf" else "A candidate")
    heldout = arm_directory(out, "rlhf", 0) / records.HELDOUT
    # Valid JSON that UTF-8 cannot hold: another program may have written it.
    heldout.write_text(heldout.read_text().replace("LONE-SURROGATE", r"\ud800"))
    return out


@pytest.fixture(scope="session")
def audited(comparison: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of that comparison."""
    from foresighted.auditing.audit import audit
    from foresighted.auditing.result import write_audit

    out = tmp_path_factory.mktemp("audit") / "audit"
    write_audit(audit(comparison), out)
    return out


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three policies on 30 prompts, judged; answers and reasons are hostile."""
    from foresighted.judging.run import evaluate_table

    chance = random.Random(0)
    out = tmp_path_factory.mktemp("evaluation")
    names = ("base", "better", "odd <b>")
    lines = ["prompt_id,category,better_vs_base,odd <b>_vs_base"]
    judged, answers = [], []
    for i in range(30):
        winners = [chance.choice(["better", "better", "base", "tie"]), chance.choice(["odd <b>", "base", "tie"])]
        lines.append(f"p{i},{'easy' if i % 2 else 'hard'},{','.join(winners)}")
        for first, winner in zip(names[1:], winners, strict=True):
            result = "tie" if winner == "tie" else "win" if winner == first else "loss"
            judged.append(JudgementRow(
                first, "base", 0, 0, 0, f"p{i}", "easy" if i % 2 else "hard", result, False, winner, winner,
                f"Because {HOSTILE}", None, None, None, 10, None, None, 2, 0,
            ))  # fmt: skip
        answers += [
            AnswerRow(name, 0, f"p{i}", f"Question {i}? {HOSTILE}", "", f"{name} says {HOSTILE}") for name in names
        ]
    table = out / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    evaluate_table(table, baseline="base", seed=0, out=out / "judged")
    (out / "judged" / "judgements.jsonl").unlink()
    append(out / "judged" / "judgements.jsonl", judged)
    append(out / "judged" / "answers.jsonl", answers)
    return out / "judged"
