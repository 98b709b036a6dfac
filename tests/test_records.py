from __future__ import annotations

import math
from dataclasses import MISSING, asdict, fields

import pytest

from foresighted import records
from foresighted.errors import DataError, RunError
from foresighted.records import PairRow, RoundRow

ROWS = [PairRow("p", "Why?", "é\n", '"b"', 0.25), PairRow("q", "Wo?", "", "x", 1.0)]


def test_round_trip_and_append(tmp_path):
    path = tmp_path / "pairs.jsonl"
    records.append(path, ROWS[:1])
    records.append(path, ROWS[1:])
    records.append(path, [])
    assert records.read(path, PairRow) == ROWS


def test_a_torn_last_line_is_left_out_and_any_other_bad_line_is_an_error(tmp_path):
    path = tmp_path / "pairs.jsonl"
    records.append(path, ROWS)
    whole = path.read_bytes()
    for cut in range(1, len(records.to_line(ROWS[1]).encode())):
        path.write_bytes(whole[:-cut])
        assert records.read(path, PairRow) == ROWS[:1]
    path.write_bytes(b"{torn\n" + whole)
    with pytest.raises(DataError, match="line 1: not a JSON object"):
        records.read(path, PairRow)
    path.write_bytes(whole + b'{"prompt_id": "r"}\n')
    with pytest.raises(DataError, match="line 3: lacks prompt, first, second, label"):
        records.read(path, PairRow)


def test_columns_of_a_later_version_are_passed_over(tmp_path):
    path = tmp_path / "pairs.jsonl"
    records.append(path, [{**asdict(ROWS[0]), "mood": "new"}])
    assert records.read(path, PairRow) == ROWS[:1]


def test_rounds_of_an_earlier_version_are_read(tmp_path):
    known = [field for field in fields(RoundRow) if field.default is MISSING]
    path = tmp_path / "rounds.jsonl"
    records.append(path, [{field.name: 1 for field in known}])
    (row,) = records.read(path, RoundRow)
    assert (row.gamma, row.gamma_share) == (None, None)


def test_nan_never_reaches_a_file(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        records.append(tmp_path / "x.jsonl", [PairRow("p", "a", "b", "c", math.nan)])
    assert not (tmp_path / "x.jsonl").exists()


def test_cut_back(tmp_path):
    records.append(tmp_path / records.ROUNDS, ROWS[:1])
    counts = records.byte_counts(tmp_path)
    records.append(tmp_path / records.ROUNDS, ROWS[1:])
    assert records.cut_back(tmp_path, counts) == {records.ROUNDS: len(records.to_line(ROWS[1]).encode())}
    assert records.read(tmp_path / records.ROUNDS, PairRow) == ROWS[:1]
    with pytest.raises(RunError, match="restore the file"):
        records.cut_back(tmp_path, counts | {records.HELDOUT: 5})


def test_directories_of_a_comparison(tmp_path):
    assert records.arm_directory(tmp_path, "relaxed:gamma=0.5", 3) == tmp_path / "arms" / "relaxed-gamma-0.5" / "seed-3"


def test_mean_of_what_is_known():
    assert records.mean([1.0, None, 3.0]) == 2.0
    assert records.mean([None]) is None
