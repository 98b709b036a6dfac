from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

import pytest

from foresighted.errors import DataError, NumericalError
from foresighted.store.records import HeldoutRow, PairRow, RoundRow
from foresighted.store.rows import (
    NULL,
    append,
    decode,
    numbered,
    plain,
    read,
    read_json,
    read_mappings,
    to_line,
    write_json,
)

ROWS = [PairRow("p", "Why?", "é\n", '"b"', 0.25), PairRow("q", "Wo?", "", "x", 1.0)]


def test_round_trip_and_append(tmp_path):
    path = tmp_path / "pairs.jsonl"
    append(path, ROWS[:1])
    append(path, ROWS[1:])
    append(path, [])
    assert read(path, PairRow) == ROWS


def test_a_torn_last_line_is_left_out_and_any_other_bad_line_is_an_error(tmp_path):
    path = tmp_path / "pairs.jsonl"
    append(path, ROWS)
    whole = path.read_bytes()
    for cut in range(1, len(to_line(ROWS[1]).encode())):
        path.write_bytes(whole[:-cut])
        assert read(path, PairRow) == ROWS[:1]
    path.write_bytes(b"{torn\n" + whole)
    with pytest.raises(DataError, match="line 1: not a JSON object"):
        read(path, PairRow)
    path.write_bytes(whole + b'{"prompt_id": "r"}\n')
    with pytest.raises(DataError, match="line 3: lacks prompt, first, second, label"):
        read(path, PairRow)


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
    append(path, [HELD, HELD | {"utility": 1, "reward": 2}])
    assert [row.reward for row in read(path, HeldoutRow)] == [0.5, 2]
    cells = ", ".join(f"{json.dumps(k)}: {value if k == column else json.dumps(v)}" for k, v in HELD.items())
    path.write_text(path.read_text() + "{" + cells + "}\n")
    with pytest.raises(DataError) as caught:
        read(path, HeldoutRow)
    assert str(caught.value).startswith(f"{path}, line 3: {column} is ")
    assert str(caught.value).endswith(words)
    assert len(str(caught.value)) < len(str(path)) + 150


def test_a_line_that_is_no_object_says_why(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    assert numbered(path) == [(1, {"a": 1})]
    for text, why in ((100_000 * "[", "nested too deeply"), ("[1]", "another value"), ('{"a": }', "character 7")):
        path.write_text(text + "\n")
        with pytest.raises(DataError, match=f"line 1: not a JSON object .*{why}"):
            numbered(path)


def test_columns_of_a_later_version_are_passed_over(tmp_path):
    path = tmp_path / "pairs.jsonl"
    append(path, [{**asdict(ROWS[0]), "mood": "new"}])
    assert read(path, PairRow) == ROWS[:1]


def test_rounds_of_an_earlier_version_are_read(tmp_path):
    known = [field for field in fields(RoundRow) if field.default is MISSING]
    path = tmp_path / "rounds.jsonl"
    append(path, [{field.name: 1 for field in known}])
    (row,) = read(path, RoundRow)
    assert (row.gamma, row.gamma_share) == (None, None)


def test_nan_never_reaches_a_file(tmp_path):
    with pytest.raises(NumericalError, match="label is nan"):
        append(tmp_path / "x.jsonl", [PairRow("p", "a", "b", "c", math.nan)])
    assert not (tmp_path / "x.jsonl").exists()


def test_lines_end_in_a_newline_alone_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "one\xe2\x80\xa8line\x0b"}\r\n\n{"a": "\xc2\x85"}\n')
    found = [(1, {"a": "one\u2028line\x0b"}), (3, {"a": "\x85"})]
    path.write_bytes(path.read_bytes().replace(b"\x0b", b"\\u000b"))
    assert numbered(path) == found
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 2: not a JSON object \(not UTF-8\)"):
        read_mappings(path)


@dataclass(frozen=True)
class Inner:
    low: float = field(metadata={NULL: -math.inf})
    names: tuple[str, ...]


@dataclass(frozen=True)
class Outer:
    format: Literal[1]
    kind: Literal["a", "b"] | None
    inner: Inner | None
    inners: tuple[Inner, ...]
    text: str | list[dict[str, Any]]
    numbers: Mapping[str, float]
    later: int = 3


OUTER = Outer(1, "a", None, (Inner(-math.inf, ("x",)), Inner(1.5, ())), [{"role": "user"}], {"p": 0.5})


def test_dataclasses_there_and_back(tmp_path):
    write_json(tmp_path / "x.json", OUTER)
    assert "Infinity" not in (tmp_path / "x.json").read_text()
    assert read_json(tmp_path / "x.json", Outer, what="it", again="again") == OUTER
    known = plain(OUTER)
    assert decode({**known, "later": 4, "unknown": [1]}, Outer, "x").later == 4
    known.pop("later")
    assert decode(known, Outer, "x") == OUTER
    assert type(decode({**known, "numbers": {"p": 1}}, Outer, "x").numbers["p"]) is float


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("format", 2, "format is 2; expected one of 1"),
        ("format", True, "format is True; expected one of 1"),
        ("kind", "c", "kind is 'c'; expected one of a, b or null"),
        ("inner", 3, "inner is 3; expected an object or null"),
        ("inner", {"low": 1}, "inner lacks names; a Inner needs them"),
        ("inners", [{"low": "x", "names": []}], r"inners\[0\].low is 'x'; expected a finite number"),
        ("inners", [{"low": 1, "names": ["y", 2]}], r"inners\[0\].names\[1\] is 2; expected text"),
        ("inners", {}, r"inners is {}; expected a list"),
        ("text", 1, "text is 1; expected text or a list"),
        ("numbers", {"p": None}, "numbers.p is None; expected a finite number"),
        ("later", 1.0, "later is 1.0; expected a whole number"),
    ],
)
def test_what_does_not_belong_there_is_named_with_its_place(name, value, words):
    with pytest.raises(DataError, match=f"^file: {words}"):
        decode({**plain(OUTER), name: value}, Outer, "file")


def test_a_json_file_that_is_none_says_what_to_do(tmp_path):
    for text, words in (
        ("{", "not JSON .*; write"),
        ("[]", "damaged"),
        ('{"format": 1}', "damaged .*lacks kind, inner"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=words):
            read_json(tmp_path / "x.json", Outer, what="it", again="write it again")
    with pytest.raises(DataError, match=r"cannot be read .*; write it again"):
        read_json(tmp_path / "absent.json", Outer, what="it", again="write it again")
