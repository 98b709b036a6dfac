"""Preferences that somebody gave before, from files as people have them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from foresighted.alignment.run import train
from foresighted.errors import DataError
from foresighted.labels.preferences import read_preferences
from foresighted.store.records import PairRow
from foresighted.store.rows import read

ASKED, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light most.", "It is the sea's mirror."
_USER, _GOOD, _BAD = (
    {"role": who, "content": text} for who, text in [("user", ASKED), ("assistant", GOOD), ("assistant", BAD)]
)
SHAPES = {
    "plain": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "conversational": {"prompt": [_USER], "chosen": [_GOOD], "rejected": [_BAD]},
    "implicit": {"chosen": [_USER, _GOOD], "rejected": [_USER, _BAD]},
    "ultrafeedback": {"prompt": ASKED, "chosen": [_USER, _GOOD], "rejected": [_USER, _BAD], "score_chosen": 8.0},
    "hh": {
        "chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {GOOD}",
        "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {BAD}",
    },
}


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_a_preference_is_read_in_the_shapes_people_have(tmp_path, shape):
    (row,) = read_preferences(_write(tmp_path / "p.jsonl", [SHAPES[shape]]), 1, seed=0)
    assert (row.prompt, row.first, row.second, row.label) == (ASKED, GOOD, BAD, 1.0)


def test_the_order_is_the_seeds_and_no_row_comes_twice(tmp_path):
    path = _write(
        tmp_path / "p.jsonl", [{"prompt": f"Question {n}?", "chosen": "a", "rejected": "b"} for n in range(20)]
    )
    first, again, other = (read_preferences(path, 8, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({row.prompt for row in first}) == 8


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": ASKED, "chosen": GOOD}], "line 1: no rejected response"),
        ([{"prompt": ASKED, "chosen": GOOD, "rejected": None}], "line 1: no rejected response"),
        ([{"chosen": GOOD, "rejected": BAD}], "line 1"),
        ([{"prompt": ASKED, "chosen": [_USER], "rejected": [_USER, _BAD]}], "line 1: chosen ends without an answer"),
        ([{"prompt": ASKED, "chosen": 3, "rejected": BAD}], "line 1: chosen is 3"),
        ([SHAPES["plain"]], "has 1 preferences, and initial_pairs asks for 2; use --initial-pairs 1"),
    ],
)
def test_what_is_no_preference_is_named(tmp_path, rows, told):
    with pytest.raises(DataError, match=f"initial_preferences: .*{told}"):
        read_preferences(_write(tmp_path / "p.jsonl", rows), 2, seed=0)


@pytest.mark.slow
def test_a_run_begins_with_them_and_goes_on_without_the_file(tiny, tmp_path):
    path = _write(tmp_path / "p.jsonl", [{**SHAPES["plain"], "prompt": f"Question {n}?"} for n in range(5)])
    config = replace(tiny, rounds=1, initial_preferences=str(path), reward_model_buffer=-1)
    train(config, tmp_path / "run")
    rows = read(tmp_path / "run" / "start" / "seed-0" / "initial_pairs.jsonl", PairRow)
    assert [(row.first, row.second, row.label) for row in rows] == [(GOOD, BAD, 1.0)] * config.initial_pairs
    path.unlink()
    train(replace(config, rounds=2), tmp_path / "run", resume=True)
