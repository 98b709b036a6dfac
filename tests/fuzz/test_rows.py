"""Rows of anybody's files: what is read is what was written, in whatever it was written; damaged, it is one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from foresighted.api.objects import rows_of as rows_of_objects
from foresighted.auditing.sources import read_log
from foresighted.judging.policies import Source, file_answers
from foresighted.judging.table import read_table
from foresighted.prompts import read_prompts
from foresighted.store.aliases import ALIASES
from foresighted.store.foreign import rows_of

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
ODD = st.sampled_from(
    ['"', "\u2028 \x85\x0b", "a;b|c\td,e", '{"prompt": "x"}', "\r\n", "[INST]", "a\nb", "- ", "=1+1", "'"]
)
PROMPT = st.builds("{}{}{}".format, TEXT, ODD, TEXT).filter(str.strip)
NAMES = st.sampled_from(["x.jsonl", "x.json", "x.csv", "x.tsv", "x.txt", "x", "X.JSONL", "x.parquet", "x.log", "x.bin"])
ROWS = st.lists(
    st.tuples(PROMPT, TEXT, st.sampled_from(["factual", "a, b", "", None])), min_size=1, max_size=6,
    unique_by=lambda row: row[0],
)  # fmt: skip


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _exchange(text: str, answer: str) -> list[dict[str, str]]:
    return [*_user(text), {"role": "assistant", "content": answer}]


def _sharegpt(text: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]


SHAPES = {
    "messages": lambda text, answer: {"messages": _exchange(text, answer)},
    "conversations": lambda text, answer: {"conversations": _sharegpt(text, answer)},
    "prompt": lambda text, answer: {"prompt": _user(text), "completion": [{"role": "assistant", "content": answer}]},
    "chosen": lambda text, answer: {"chosen": _exchange(text, answer), "rejected": _exchange(text, answer + ".")},
}


def _csv(rows: list[dict[str, Any]], delimiter: str, end: str) -> bytes:
    made = io.StringIO(newline="")
    writer = csv.DictWriter(made, list(rows[0]), delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue().encode()


def _lines(rows: list[dict[str, Any]], *, ascii_: bool, end: str) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ascii_) + end for row in rows).encode()


@st.composite
def written(draw: st.DrawFn, rows: list[dict[str, Any]], *, nested: bool) -> bytes:
    """Rows as the bytes of a file, in one of the ways that are read."""
    end, ascii_ = draw(st.sampled_from(["\n", "\r\n"])), draw(st.booleans())
    way = draw(st.sampled_from(["lines", "array", "data", "parquet", *(() if nested else ("csv", "table"))]))
    if way == "parquet":
        made = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), made)
        data = made.getvalue()
    elif way == "csv":
        data = _csv(rows, draw(st.sampled_from([",", ";", "\t", "|"])), end)
    elif way == "table":
        data = json.dumps({"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}).encode()
    elif way == "lines":
        data = _lines(rows, ascii_=ascii_, end=end)
    else:
        value = rows if way == "array" else {"version": "1", "data": rows}
        data = json.dumps(value, indent=draw(st.sampled_from([None, 1])), ensure_ascii=ascii_).encode()
    if way != "parquet" and draw(st.booleans()):
        data = b"\xef\xbb\xbf" + data
    return gzip.compress(data, mtime=0) if draw(st.booleans()) else data


def _file(folder: Path, data: st.DataObject, rows: list[dict[str, Any]], *, nested: bool = False) -> Path:
    path = folder / data.draw(NAMES)
    path.write_bytes(data.draw(written(rows, nested=nested)))
    return path


@given(rows=ROWS, data=st.data())
def test_prompts_are_those_that_were_written(rows, data, tmp_path, tally):
    key = data.draw(st.sampled_from([*ALIASES["prompt"][:6], "Prompt"]))
    table = [{"id": f"id {n}", key: text, "kind": kind} for n, (text, _, kind) in enumerate(rows)]
    want = [(f"id {n}", text, kind or "unspecified") for n, (text, _, kind) in enumerate(rows)]
    path = _file(tmp_path, data, table)
    for source in (str(path), rows_of_objects(table)):
        _read(tally("rows: prompts"), read_prompts, source, lambda got: [tuple(p) for p, _ in got] == want)


@given(rows=ROWS, data=st.data())
def test_prompts_of_conversations_are_those_that_were_written(rows, data, tmp_path, tally):
    shape = SHAPES[data.draw(st.sampled_from(sorted(SHAPES)))]
    path = _file(tmp_path, data, [shape(text, answer) for text, answer, _ in rows], nested=True)
    want = [text for text, _, _ in rows]
    _read(tally("rows: prompts"), read_prompts, str(path), lambda got: [p.text for p, _ in got] == want)


@given(rows=ROWS, data=st.data())
def test_answers_are_those_that_were_written(rows, data, tmp_path, tally):
    name = data.draw(st.sampled_from(["names", "messages", "conversations", "prompt"]))
    if name == "names":
        asked, said = data.draw(st.sampled_from(ALIASES["prompt"][:6])), data.draw(st.sampled_from(ALIASES["response"]))
        table = [{asked: text, said: answer, "seed": n} for n, (text, answer, _) in enumerate(rows)]
    else:
        table = [SHAPES[name](text, answer) | {"seed": n} for n, (text, answer, _) in enumerate(rows)]
    path = _file(tmp_path, data, table, nested=name != "names")
    want = [(text, answer, n) for n, (text, answer, _) in enumerate(rows)]
    tally("rows: answers").call(
        file_answers,
        Source("a", 0, "file", str(path)),
        right=lambda got: [(a.prompt, a.text, a.seed) for a in got] == want,
    )


@given(winners=st.lists(st.sampled_from(["a", "b", "tie"]), min_size=1, max_size=8), data=st.data())
def test_judgements_are_those_that_were_written(winners, data, tmp_path, tally):
    words = {"a": "a", "b": "b", "tie": data.draw(st.sampled_from(["tie", "Tie", "tie (bothbad)"]))}
    form = data.draw(st.sampled_from(["wide", "arena", "alpaca"]))
    if form == "wide":
        table = [{"prompt_id": n, "a_vs_b": words[winner]} for n, winner in enumerate(winners)]
    elif form == "arena":
        words |= {"a": "model_a", "b": "model_b"} if data.draw(st.booleans()) else {}
        table = [{"question_id": n, "model_a": "a", "model_b": "b", "winner": words[w]} for n, w in enumerate(winners)]
    else:
        number = {"a": 1.0, "b": 2.0, "tie": 1.5}
        table = [
            {"instruction": f"q{n}", "generator_1": "a", "generator_2": "b", "preference": number[winner]}
            for n, winner in enumerate(winners)
        ]
    path = _file(tmp_path, data, table)
    want = [{"a": "loss", "b": "win", "tie": "tie"}[winner] for winner in winners]
    read = partial(read_table, baseline="a")
    _read(tally("rows: judgements"), read, path, lambda got: [row.result for row in got.rows] == want)


@given(rows=ROWS, data=st.data())
def test_logs_are_those_that_were_written(rows, data, tmp_path, tally):
    table = [
        {"step": n, "prompt": text, "response": answer, "reward": n / 4} for n, (text, answer, _) in enumerate(rows)
    ]
    path = _file(tmp_path, data, table)

    def right(log: Any) -> bool:
        got = log.training
        texts = got.texts(got.round)  # rows stand in the order of rounds
        prompts = [got.prompts[code] for code in got.prompt]
        same = [prompts, texts] == [[row[0] for row in rows], [row[1] for row in rows]]
        return same and got.numbers["reward"].tolist() == [n / 4 for n in range(len(rows))]

    _read(tally("rows: logs"), partial(read_log, columns={}), path, right)


@given(rows=ROWS, data=st.data())
def test_damaged_bytes_are_rows_or_one_line(rows, data, tmp_path, tally):
    table = [
        {"step": n, "prompt": text, "response": answer, "reward": n / 4} for n, (text, answer, _) in enumerate(rows)
    ]
    path = _file(tmp_path, data, table)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        if what == "flip":
            damaged[place] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del damaged[place : place + data.draw(st.integers(1, 40))]
        elif what == "insert":
            damaged[place:place] = data.draw(
                st.sampled_from([b"\xed\xa0\x80", b"\xff", b"[" * 3000, b"\n", b'"', b"\0"])
            )
        else:
            damaged[place:place] = damaged[place : place + 30]
        damaged = damaged or bytearray(b"\n")
    path.write_bytes(damaged)
    _read_as_anything(path, tally("rows: damaged bytes"))


@given(content=st.binary(max_size=200), name=NAMES, data=st.data())
def test_any_bytes_are_rows_or_one_line(content, name, data, tmp_path, tally):
    begin = data.draw(
        st.sampled_from([b"", b"{", b'{"prompt": ', b"[", b'[{"', b"PAR1", b"\x1f\x8b\x08", b"prompt,id\n"])
    )
    path = tmp_path / name
    path.write_bytes(begin + content)
    _read_as_anything(path, tally("rows: any bytes"))


def _read_as_anything(path: Path, counts: Any) -> None:
    """Read a file as all that it may be given for; data is never read as the text of a prompt."""
    counts.call(read_prompts, str(path), right=_no_source)
    counts.call(file_answers, Source("a", 0, "file", str(path)), right=bool)
    counts.call(read_table, path, right=lambda got: bool(got.rows))
    counts.call(read_log, path, {}, right=lambda got: len(got.training) > 0)
    counts.call(lambda: list(rows_of(path)), right=lambda got: all(isinstance(row.values, dict) for row in got))


def _no_source(got: list[Any]) -> bool:
    """Return whether no prompt is a line of source; those that were written may hold one."""
    return all('"prompt": "x"' in p.text for p, _ in got if p.text.startswith('{"'))


def _read(counts: Any, function: Any, given_: Any, right: Any) -> None:
    """Call a reader on what is whole: it is read, and right."""
    counts.call(function, given_, right=right)
    assert not counts.counts["refused"]
