"""The study of which pairs to ask: what the page shows is what was played, and what was played is what it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("jax")
STUDY = Path(__file__).parents[2] / "docs" / "study"


@pytest.fixture(scope="module")
def questions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_questions", STUDY / "questions.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_questions"] = module
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("study_questions", None)


def test_tables_are_made_from_what_was_played(questions):
    table = pq.read_table(STUDY / "questions.parquet")
    assert table.num_rows == 4 * 2 * 6 * 256
    assert (STUDY / "questions_table.md").read_text() == questions.show(table)
    assert not set(questions.SEEDS) & set(questions.TUNING)
    tuned = pq.read_table(STUDY / "questions_tuned.parquet")
    assert tuned.num_rows == 4 * 2 * 3 * 256
    assert (STUDY / "questions_tuned_table.md").read_text() == questions.show_tuned(tuned)


@pytest.mark.slow
def test_a_question_is_the_one_of_its_policy(questions):
    """Each policy against its definition, on drawn margins."""
    random = np.random.default_rng(0)
    margin, gram = random.normal(size=(4, 5, 3)), random.normal(size=(5, 3))
    draws = {"asked": random.uniform(size=(5, 3)), "coin": np.array([0.0, 0.3, 0.6, 0.9, 0.95])}
    mean = margin.mean(0)
    believed = 1 / (1 + np.exp(-mean))
    best = {
        "random": draws["asked"], "uncertain": -abs(mean), "disagreement": margin.std(0),
        "influence": believed * (1 - believed) * abs(gram),
    }  # fmt: skip
    for ask, worth in best.items():
        for chance in (0.0, 0.5):
            settings = questions.BanditSettings(ask=ask, chance=chance)
            found = np.asarray(questions.pick(settings, margin, gram, draws))
            expected = np.where(draws["coin"] < chance, draws["asked"].argmax(1), worth.argmax(1))
            assert found.tolist() == expected.tolist()


@pytest.mark.slow
def test_runs_are_played_as_they_were(questions):
    cell = next(iter(questions.CELLS))
    old = pq.read_table(STUDY / "questions.parquet").to_pandas()
    seeds = questions.SEEDS[:2]
    utility = questions.simulate(questions.BANDIT, ["practical:ask=influence"], seeds, questions.CELLS[cell]).utility
    rows = old[(old.cell == cell) & (old.form == "practical") & (old.ask == "influence") & (old.chance == 0)]
    assert utility[0, :, -1] == pytest.approx(rows.final[rows.seed.isin(seeds)].to_numpy(), rel=1e-3)
