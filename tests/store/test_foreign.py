"""One reader for anybody's rows: what a file is, its content says; what is none is one line."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from foresighted.errors import DataError
from foresighted.store.foreign import rows_of
from foresighted.store.formats import format_of

ROWS = [
    {"id": "a", "prompt": 'say "x",\nand; y|z\t\u2028 é', "kind": "one"},
    {"id": "b", "prompt": "two", "kind": "a, b; c"},
]


def _csv(delimiter=",", end="\r\n") -> bytes:
    made = io.StringIO(newline="")
    writer = csv.DictWriter(made, list(ROWS[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return made.getvalue().encode()


def _parquet() -> bytes:
    made = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), made)
    return made.getvalue()


def _lines(rows=ROWS, end="\n", **options) -> bytes:
    return "".join(json.dumps(row, **options) + end for row in rows).encode()


WRITTEN = {
    "jsonl": _lines(), "crlf": _lines(end="\r\n"), "raw": _lines(ensure_ascii=False),
    "no newline at the end": _lines()[:-1], "blank lines": b"\n" + _lines().replace(b"\n", b"\n\n"),
    "array": json.dumps(ROWS).encode(), "pretty": json.dumps(ROWS, indent=1).encode(),
    "rows": json.dumps({"rows": [{"row_idx": n, "row": row} for n, row in enumerate(ROWS)]}).encode(),
    "data": json.dumps({"version": 1, "data": ROWS}, indent=1).encode(),
    "columns": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "batches": _lines([{name: [row[name]] for name in ROWS[0]} for row in ROWS]),
    "table": json.dumps({"columns": list(ROWS[0]), "data": [list(row.values()) for row in ROWS]}).encode(),
    "pandas": json.dumps({name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}).encode(),
    "index": json.dumps({str(n): row for n, row in enumerate(ROWS)}).encode(),
    "csv": _csv(), "lf": _csv(end="\n"), "semicolon": _csv(";"), "tab": _csv("\t"), "pipe": _csv("|"),
    "excel": b"sep=;\r\n" + _csv(";"), "parquet": _parquet(),
}  # fmt: skip


@pytest.mark.parametrize("way", WRITTEN)
def test_what_is_read_is_what_was_written_whatever_the_name(tmp_path, way):
    marked = b"\xef\xbb\xbf" * (way != "parquet") + WRITTEN[way]
    for name in ("x.jsonl", "x.json", "x.csv", "x.tsv", "x.txt", "x.parquet", "X.JSONL", "x", "x.log"):
        for data in (WRITTEN[way], marked, gzip.compress(marked)):
            (tmp_path / name).write_bytes(data)
            assert [row.values for row in rows_of(tmp_path / name, lines="prompt")] == ROWS, name


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_lines() + b'{"id": 1\n' + _lines(), "line 3: not a JSON object"),
        (_lines() + b"[1]\n", "line 3: not a JSON object (it holds another value)"),
        (_lines() + b'{"a": "\xed\xa0\x80"}\n', "line 3: not a JSON object (not UTF-8)"),
        (_lines() + b'{"a": ' + 10**5 * b"[", "line 3: not a JSON object (nested too deeply)"),
        (_lines() + b'{"a": ' + 5000 * b"1" + b"}\n", "thousands of digits"),
        (b'{"a":\n', "not whole JSON"),
        (json.dumps(ROWS, indent=1).encode()[:-3], "not whole JSON"),
        (10**5 * b"[", "not whole JSON (nested too deeply)"),
        (b"[[1], 2]", "'[1]' is no object"),
        (b"[1]\n[2]\n", "no row of a table"),
        (_csv() + b"c,d\r\n", "line 5: has 2 fields, the header has 3"),
        (_csv() + b'c,"d\r\n', "not CSV that can be read"),
        (_csv() + b"c,\xff,\r\n", "not UTF-8"),
        (b"prompt,prompt\r\na,b\r\n", "line 1: the column 'prompt' stands twice"),
        (_csv().decode().encode("utf-16"), "UTF-16 text"),
        (_csv().decode().encode("utf-16-le"), "UTF-16 text, or no text"),
        (_parquet()[:-20], "cannot be read"),
        (gzip.compress(_lines(), mtime=0)[:-12], "cannot be read"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive or a spreadsheet"),
        (b"<!DOCTYPE html>\n<html>", "markup"),
        (b"Why is the sky blue?\n", "no row of a table; expected JSON lines"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, data, words):
    path = tmp_path / "x.dat"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(rows_of(path))
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_text_is_one_a_line_only_where_it_is_text(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffone, two\u2028three\r\n\n[INST] four\n{name}, five?\nsix\x0b\n".encode())
    found = ["one, two\u2028three", "[INST] four", "{name}, five?", "six\x0b"]
    assert [row.values["prompt"] for row in rows_of(path, lines="prompt")] == found
    for line in ('# prompts\n{"prompt": "a"}\n', "a list\n- prompt: why?\n", '"prompt": "why?"\n', "x\n[1, 2]\n"):
        path.write_text(line)
        with pytest.raises(DataError, match="is data, no text of one prompt a line"):
            list(rows_of(path, lines="prompt"))
    path.rename(tmp_path / "x.md")
    (tmp_path / "x.md").write_text("Why?\n")
    with pytest.raises(DataError, match=r"begins with 'Why\?'.*a file that ends in .txt"):
        list(rows_of(tmp_path / "x.md", lines="prompt"))


def test_a_text_whose_first_line_holds_a_usual_name_is_no_table(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("Score, please, the answer\nWhat is text, and what is not?\nWhy?\n")
    assert format_of(path).kind == "text"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=r"cannot be read \("):
            list(rows_of(path))
    (tmp_path / "empty").write_text("\n \n")
    assert list(rows_of(tmp_path / "empty")) == []
    (tmp_path / "header.csv").write_text("prompt,id\n")
    assert list(rows_of(tmp_path / "header.csv")) == []


@pytest.mark.parametrize(
    "text", ["frage\tnummer\nwarum?\t1\n", "frage;nr\nwarum?;1\nwozu?;2\n", "a,b\nc,d\ne,f\ng,h\n"]
)
def test_a_table_without_a_name_that_is_known_is_no_text(tmp_path, text):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=r"a table .* between its columns"):
        list(rows_of(tmp_path / "x.txt", lines="prompt"))
