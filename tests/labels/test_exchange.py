"""Questions to a spreadsheet, Argilla and Label Studio, and their answers back, whoever stands first there."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from foresighted.errors import DataError
from foresighted.labels.answers import Answer
from foresighted.labels.exchange import Taken, read_in, write_out
from foresighted.labels.pair import pair_id
from foresighted.labels.queue import FileQueue, Question

ODD = ('=HYPERLINK("http://evil")', 'one\nline, "quoted"; more', "\u202eא \ud800 é")


@pytest.fixture
def queue(tmp_path) -> FileQueue:
    queue = FileQueue(tmp_path / "people")
    texts = [(f"prompt {n}", f"good {n} {ODD[n % 3]}", f"{ODD[n % 3]} bad {n}") for n in range(12)]
    queue.submit([Question(pair_id(1, *row), 1, *row) for row in texts])
    return queue


def better(row) -> str:
    """Return the answer of somebody who knows which is good."""
    return "1" if "good" in row["response_1"] else "2"


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def write_table(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def test_a_spreadsheet_goes_out_and_comes_back(queue, tmp_path):
    path = tmp_path / "pairs.csv"
    assert write_out(queue, path, "csv") == 12
    rows = table(path)
    assert list(rows[0]) == ["id", "prompt", "response_1", "response_2", "better", "by"]
    assert 2 <= sum("good" in row["response_1"] for row in rows) <= 10  # no place tells whose it is
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    for n, row in enumerate(rows):
        row["better"] = {0: "", 1: "0", 2: "s"}.get(n, better(row) + ".0")
    write_table(path, rows, ";")  # as some spreadsheets save it
    assert read_in(queue, path, "ann") == Taken(new=11, same=0, changed=0, empty=1)
    names = list(queue.questions())
    assert queue.collect() == {names[1]: 0.5} | dict.fromkeys(names[3:], 1.0)
    assert queue.skipped() == {names[2]}
    assert {answer.by for answer in queue.answers()} == {"ann"}
    assert read_in(queue, path, "ann") == Taken(new=0, same=11, changed=0, empty=1)  # twice is once
    again = tmp_path / "again.csv"
    write_out(queue, again, "csv")
    assert [row["better"] for row in table(again)][:3] == ["", "0", "s"]
    assert read_in(queue, again).same == 11
    changed = table(again)
    changed[1]["better"] = better(changed[1])
    write_table(again, changed)
    assert read_in(queue, again).changed == 1
    assert queue.collect()[names[1]] == 1.0


@pytest.mark.parametrize("form", ["argilla", "label-studio"])
def test_another_tool_goes_out_and_comes_back(queue, tmp_path, form):
    path = tmp_path / "pairs.json"
    queue.answer([Answer(name, 1.0, "bob") for name in list(queue.questions())[:2]])
    write_out(queue, path, form)
    rows = json.loads(path.read_text())
    for n, row in enumerate(rows):
        if form == "argilla":
            values = ["0"] if n == 3 else [better(row["fields"])]
            row["responses"]["better"] = row["responses"].get("better", []) + [
                {"value": value, "user_id": "5f2e"} for value in values
            ]
        else:
            side = {"1": "left", "2": "right"}[better(row["data"])]
            result = [{"type": "pairwise", "value": {"selected": side}}]
            if n == 3:
                result = [{"type": "choices", "value": {"choices": ["tie"]}}]
            row["annotations"].append({"result": result, "completed_by": 7, "lead_time": 4.25, "was_cancelled": n == 4})
    path.write_text(json.dumps(rows))
    taken = read_in(queue, path)
    assert (taken.new, taken.same) == (12, 2)
    names = list(queue.questions())
    labels = queue.collect()
    assert labels.pop(names[3]) == 0.5
    assert set(labels.values()) == {1.0}
    assert len(labels) == (11 if form == "argilla" else 10)  # one was cancelled


def test_argillas_flat_records(queue, tmp_path):
    path = tmp_path / "flat.json"
    write_out(queue, path, "argilla")
    flat = []
    for row in json.loads(path.read_text()):
        said = better(row["fields"])
        other = {"1": "2", "2": "1"}[said]
        answers = {"better.responses": [said, other], "better.responses.users": ["u1", "u2"]}
        flat.append({"id": row["id"], **row["fields"], **answers, "better.responses.status": ["submitted", "draft"]})
    path.write_text(json.dumps(flat))
    assert read_in(queue, path).new == 12
    assert set(queue.collect().values()) == {1.0}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"id": "of another queue", "better": "1"}, "'of another queue' is no question of"),
        ({"id": None, "better": "3"}, r"the answer is '3'; expected 1, 2, 0 \(tie\) or s"),
        ({"name": "x"}, r"holds \['name'\]; expected columns id and better"),
        ({"data": {"prompt": "x"}, "annotations": []}, "lacks the id of its question"),
        ({"data": {"id": None}, "annotations": [3]}, "an annotation is 3; export tasks as JSON"),
    ],
)
def test_what_is_no_answer_is_named_and_nothing_is_taken(queue, tmp_path, row, told):
    path, name = tmp_path / "said.jsonl", next(iter(queue.questions()))
    row = json.loads(json.dumps(row).replace("null", json.dumps(name)))
    path.write_text(json.dumps({"id": name, "better": "1"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"said\.jsonl, line 2: {told}"):
        read_in(queue, path)
    assert queue.answers() == []


def test_nothing_to_export(tmp_path):
    with pytest.raises(DataError, match=re.escape("holds no question yet")):
        write_out(FileQueue(tmp_path), tmp_path / "x.csv", "csv")
