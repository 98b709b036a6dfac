"""The study: its parts are settings that `compare` takes, its oracle and its tables say what they ought to."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from foresighted.api.arguments import configured
from foresighted.settings import CompareConfig

STUDY = Path(__file__).parents[2] / "docs" / "study"


@pytest.fixture(scope="module")
def study() -> dict[str, ModuleType]:
    """The modules of `docs/study`, by name."""
    found = {}
    sys.path.insert(0, str(STUDY))
    try:
        for name in ("parts", "oracle", "tables", "collect", "pool"):
            spec = importlib.util.spec_from_file_location(name, STUDY / f"{name}.py")
            assert spec
            assert spec.loader
            found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[name])
        yield found
    finally:
        sys.path.remove(str(STUDY))
        for name in found:
            sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_part_is_a_comparison_and_tuning_seeds_are_no_others(study):
    parts = study["parts"].PARTS
    for part in parts.values():
        arguments = part.arguments()
        config = configured(
            CompareConfig, arguments, out=None, resume=False, preset=arguments.pop("preset"), config=None
        )
        assert {config.arm(arm, 0).rounds for arm in part.arms} <= {60, 100}
    rest = {seed for name, part in parts.items() if "tuning" not in name for seed in part.seeds}
    assert not rest & set(parts["tuning"].seeds)


def test_the_checklist_prefers_an_answer_to_an_echo_a_loop_and_a_list(study):
    prompt = "Why does ice float on top of liquid water?"
    answers = {
        "sound": "Ice is less dense than the liquid, so its weight is balanced before it sinks under the surface.",
        "echo": prompt,
        "loop": "It is less dense. It is less dense. It is less dense. It is less dense.",
        "list": "ice density buoyancy frozen crystal hydrogen molecules lattice sink float",
        "nothing": "",
    }
    said = dict(zip(answers, study["oracle"].checklist.utility([prompt] * 5, list(answers.values())), strict=True))
    assert said["sound"] > said["list"] > said["echo"] > said["loop"] > said["nothing"]
    assert study["oracle"].checklist([prompt], [answers["sound"]], [answers["loop"]])[0] > 0.95


def _answers(ends: dict[str, float]) -> pd.DataFrame:
    """Held-out answers of arms whose mean utility goes from 0 to `ends` in 8 seeds that differ a little."""
    random = np.random.default_rng(0)
    of_prompt, of_seed = random.normal(size=12), {arm: random.normal(scale=0.01, size=8) for arm in ends}
    rows = [
        (arm, seed, round_, f"p{p}", end * round_ / 100 + of_prompt[p] + of_seed[arm][seed], 1.0)
        for arm, end in ends.items()
        for seed in range(8)
        for round_ in (0, 50, 100)
        for p in range(12)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "round", "prompt_id", "utility", "reward"]).assign(kl=0.0)


def test_claims_are_tested_over_seeds_and_corrected(study, monkeypatch):
    tables = study["tables"]
    arms = dict.fromkeys(study["parts"].PARTS["main"].arms, 0.0) | {
        "practical": 0.5,
        "shuffled": 0.1,
        "rlhf:kl_coefficient=1": 0.05,
    }
    table = _answers(arms)
    monkeypatch.setattr(tables, "read", lambda name: None if name == "tuning" else table)
    said = tables.claims_table("main", table).splitlines()
    assert "not played yet" in said[2]  # no tuning, no tuned coefficient
    assert all(it in said[3] for it in ("0.50", "< .001", ".0078"))  # 2 of 2^8 assignments
    assert all(it in said[5] for it in ("0.40", "< .001"))
    assert not any(".0078" in line for line in said[4:5])
    monkeypatch.setattr(tables, "read", lambda _: table)
    assert "KL 1 alone" in tables.claims_table("main", table).splitlines()[2]


def test_collapse_in_the_tables_is_the_one_definition(study, monkeypatch):
    tables = study["tables"]
    found = tables.falls(_answers({"rlhf": -3.0}), "rlhf", family=9)
    assert [fall.collapsed and fall.best == 0 for fall in found] == [True] * 8
    assert not any(fall.collapsed for fall in tables.falls(_answers({"rlhf": 1.0}), "rlhf", family=9))
    assert tables.flips(np.array([1.0, 1.0, 1.0])) == pytest.approx(2 / 8)
    many = np.random.default_rng(1).normal(0.3, 1, 16)
    exact = tables.flips(many)
    assert 0.01 < exact < 0.5
    monkeypatch.setattr(tables, "LISTED", 15)
    assert tables.flips(many) == pytest.approx(exact, abs=0.01)
    assert tables.flips(np.ones(32)) == 1 / tables.DRAWN


@pytest.mark.slow
def test_the_tables_are_those_of_the_results(study):
    tables = study["tables"]
    assert (STUDY / "tables.md").read_text(encoding="utf-8") == tables.text(tables.played())


def test_what_another_machine_played_stays(study, tmp_path):
    collect = study["collect"].keep
    first = pd.DataFrame({"arm": ["b", "a", "a"], "seed": [1, 1, 2], "round": [1, 1, 1], "reward": [1.0, 2.0, 3.0]})
    collect(first, "main", tmp_path)
    again = pd.DataFrame({"arm": ["a", "c"], "seed": [2, 1], "round": [1, 1], "reward": [30.0, 4.0]})
    collect(again, "main", tmp_path)
    kept = pd.read_parquet(tmp_path / "main.parquet")
    assert kept.to_numpy().tolist() == [["a", 1, 1, 2.0], ["a", 2, 1, 30.0], ["b", 1, 1, 1.0], ["c", 1, 1, 4.0]]


class _Process:
    def __init__(self, looks: int, code: int = 0) -> None:
        self.looks, self.code = looks, code

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 else self.code


def test_a_pool_plays_every_run_once(study):
    pool, parts = study["pool"], study["parts"]
    found = list(pool.jobs([name for name in parts.PARTS if name != "reduced"]))
    assert len({job.name for job in found}) == len(found)
    pieces = [job.words[1] for job in found if job.part == "replication"]
    assert [place for piece in pieces for place in range(*map(int, piece.split(":")))] == list(range(32))
    assert all(job.gigabytes < 20 for job in found if job.part not in pool.WEIGHT)


def test_a_pool_keeps_to_memory_and_goes_on_after_a_failure(study):
    pool = study["pool"]
    asked = [
        pool.Job("large", "main", gigabytes=7),
        pool.Job("second", "main", gigabytes=7),
        pool.Job("small", "main", gigabytes=3),
        pool.Job("later", "main", gigabytes=1, after="small"),
        pool.Job("never", "main", gigabytes=1, after="second"),
        pool.Job("huge", "main", gigabytes=99),
    ]
    began: list[str] = []

    def start(job: object) -> _Process:
        began.append(job.name)
        return _Process({"large": 5}.get(job.name, 2), code=int(job.name == "second"))

    failed = pool.play(asked, start, memory=10, processes=2, pause=0)
    assert began == ["large", "small", "later", "second", "huge"]
    assert failed == ["second", "never"]
