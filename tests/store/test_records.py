from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, fields

import pytest

from foresighted.errors import DataError, RunError
from foresighted.store import records
from foresighted.store.records import HeldoutRow, PairRow, RoundRow

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


HELD = asdict(HeldoutRow(0, "p", "Why?", "factual", "So.", 3, 0.5, None, None, 1.0, 1.0))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("reward", '"x"', "reward is 'x'; expected a finite number"),
        ("reward", "null", "reward is None; expected a finite number"),
        ("reward", "NaN", "reward is nan; expected a finite number"),
        ("reward", "true", "reward is True; expected a finite number"),
        ("utility", "[1]", "utility is [1]; expected a finite number or null"),
        ("utility", "-Infinity", "utility is -inf; expected a finite number or null"),
        ("utility", "1" + 400 * "0", "; expected a finite number or null"),
        ("tokens", "2.5", "tokens is 2.5; expected a whole number"),
        ("prompt_id", "[1]", "prompt_id is [1]; expected text"),
        ("round", "null", "round is None; expected a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_line(tmp_path, column, value, words):
    path = tmp_path / "heldout.jsonl"
    records.append(path, [HELD, HELD | {"utility": 1, "reward": 2}])
    assert [row.reward for row in records.read(path, HeldoutRow)] == [0.5, 2]
    cells = ", ".join(f"{json.dumps(k)}: {value if k == column else json.dumps(v)}" for k, v in HELD.items())
    path.write_text(path.read_text() + "{" + cells + "}\n")
    with pytest.raises(DataError) as caught:
        records.read(path, HeldoutRow)
    assert str(caught.value).startswith(f"{path}, line 3: {column} is ")
    assert str(caught.value).endswith(words)
    assert len(str(caught.value)) < len(str(path)) + 150


def test_the_files_of_others_may_end_without_a_newline(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    assert records.read_mappings(path) == [{"a": 1}]
    assert records.read_mappings(path, ours=False) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": ')
    assert records.read_mappings(path) == [{"a": 1}]
    for text, number in (('{"a": 1}\n{"a": ', 2), (100_000 * "[", 1)):
        path.write_text(text)
        with pytest.raises(DataError, match=f"line {number}: not a JSON object"):
            records.read_mappings(path, ours=False)


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
