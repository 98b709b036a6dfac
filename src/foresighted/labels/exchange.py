"""Questions out to other tools and answers back: a table for a spreadsheet, Argilla's and Label Studio's JSON.

Responses go out as `response_1` and `response_2`, in an order that the question's id draws, so that nobody sees which
is whose; an answer that comes back is turned round again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from foresighted.errors import DataError
from foresighted.inputs import shown
from foresighted.labels.answers import Answer, drawn, standing
from foresighted.labels.queue import FileQueue, Question
from foresighted.store import files
from foresighted.store.foreign import rows_of
from foresighted.store.formats import MARK

Form = Literal["csv", "argilla", "label-studio"]
QUESTION = "better"
"""What Argilla's question and Label Studio's control are called."""
_COLUMNS = ("id", "prompt", "response_1", "response_2", QUESTION, "by")
_SAID: Mapping[str, str] = {
    "1": "1", "1.0": "1", "left": "1", "response_1": "1", "2": "2", "2.0": "2", "right": "2", "response_2": "2",
    "0": "0", "0.0": "0", "tie": "0", "s": "s", "skip": "s",
}  # fmt: skip
"""What an answer may be called; a spreadsheet makes 1.0 of 1."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


@dataclass(frozen=True)
class Taken:
    """What a file of answers brought."""

    new: int
    same: int
    """Answers that the queue had already."""
    changed: int
    """Answers that count in place of other ones of the same person, which were written before."""
    empty: int
    """Questions without an answer."""


class _Said(NamedTuple):
    """An answer in somebody's file."""

    name: str
    answer: str
    by: str
    seconds: float | None = None


def write_out(queue: FileQueue, path: Path, form: Form) -> int:
    """Write every question of a queue, with the answers that it has, for another tool; return how many questions.

    Raises:
        DataError: there is no question yet.
    """
    questions = list(queue.questions().values())
    if not questions:
        raise DataError(f"export: {queue.folder} holds no question yet; start the run that asks")
    said: dict[str, list[tuple[str, str]]] = {question.id: [] for question in questions}
    for answer in standing(queue.answers()).values():
        if answer.ask == "new" and answer.id in said:
            said[answer.id].append((_told(answer), answer.by))
    if form == "csv":
        files.write(path, _table(questions, said))
    else:
        rows = _argilla(questions, said) if form == "argilla" else _label_studio(questions, said)
        files.write(path, json.dumps(rows, indent=1) + "\n")  # in ASCII: half of a surrogate pair stays
    return len(questions)


def read_in(queue: FileQueue, path: Path, by: str = "") -> Taken:
    """Append the answers of a file to a queue; those that it has already are passed over.

    Args:
        queue: whose questions were answered.
        path: what `write_out` wrote and another tool filled in, in any of the forms.
        by: whose answers they are, where the file does not say.

    Raises:
        DataError: a row that is of none of the forms, an answer that is none, or a question of another queue; nothing
            is appended then.
    """
    questions, found = queue.questions(), standing(queue.answers())
    fresh: dict[tuple[str, str, str], Answer] = {}
    counts = {"new": 0, "same": 0, "changed": 0, "empty": 0}
    for row in rows_of(path):
        every = list(_said_in(row.values, row.where, by))
        counts["empty"] += not every
        for said in every:
            if said.name not in questions:
                told = f"{row.where}: {shown(said.name)} is no question of {queue.folder}"
                raise DataError(f"{told}; give the queue that it came from")
            answer = _answer(said, row.where)
            before = fresh.get(answer.place) or found.get(answer.place)
            if before is not None and before.label == answer.label:
                counts["same"] += 1
                continue
            counts["new" if before is None else "changed"] += 1
            fresh[answer.place] = answer
    queue.answer(list(fresh.values()))
    return Taken(**counts)


def _turned(name: str) -> bool:
    return drawn(name, "turned", "export") < 0.5


def _responses(question: Question) -> tuple[str, str]:
    first, second = question.first, question.second
    return (second, first) if _turned(question.id) else (first, second)


def _told(answer: Answer) -> str:
    """Return an answer as files hold it: 1 or 2 for the response that is better there, 0 a tie, s skipped."""
    if answer.label is None or answer.label == 0.5:
        return "s" if answer.label is None else "0"
    return "1" if (answer.label > 0.5) != _turned(answer.id) else "2"


def _answer(said: _Said, where: str) -> Answer:
    code = _SAID.get(said.answer.strip().lower())
    if code is None:
        raise DataError(f"{where}: the answer is {shown(said.answer)}; expected 1, 2, 0 (tie) or s (skip)")
    turned = _turned(said.name)
    label = {"1": 1.0, "2": 0.0, "0": 0.5, "s": None}[code]
    flipped = 1 - label if label is not None and turned else label
    return replace(Answer(said.name, flipped, said.by), turned=turned, seconds=said.seconds)


# Writing.

_Answers = Mapping[str, Sequence[tuple[str, str]]]


def _table(questions: Sequence[Question], said: _Answers) -> bytes:
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(_COLUMNS)
    for question in questions:
        texts = [_cell(text) for text in (question.id, question.prompt, *_responses(question))]
        for answer, by in said[question.id] or [("", "")]:
            table.writerow([*texts, answer, _cell(by)])
    return MARK + out.getvalue().encode("utf-8", "replace")


def _cell(text: str) -> str:
    """Return a text that no spreadsheet computes: one that would be a formula begins with an apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _argilla(questions: Sequence[Question], said: _Answers) -> list[dict[str, Any]]:
    rows = []
    for question in questions:
        first, second = _responses(question)
        given = [{"value": answer, "user_id": by} for answer, by in said[question.id] if answer != "s"]
        rows.append(
            {
                "id": question.id,
                "fields": {"prompt": question.prompt, "response_1": first, "response_2": second},
                "metadata": {}, "suggestions": {}, "vectors": {}, "responses": {QUESTION: given} if given else {},
            }
        )  # fmt: skip  # keys that are always empty share a line
    return rows


def _label_studio(questions: Sequence[Question], said: _Answers) -> list[dict[str, Any]]:
    rows = []
    for question in questions:
        first, second = _responses(question)
        data = {"id": question.id, "prompt": question.prompt, "response_1": first, "response_2": second}
        rows.append({"data": data, "annotations": [_annotation(*given) for given in said[question.id]]})
    return rows


def _annotation(answer: str, by: str) -> dict[str, Any]:
    pairwise = {"type": "pairwise", "from_name": QUESTION, "to_name": "response_1,response_2"}
    choice = {"type": "choices", "from_name": "tie", "to_name": "prompt", "value": {"choices": ["tie"]}}
    side = {"1": "left", "2": "right"}.get(answer)
    result = [pairwise | {"value": {"selected": side}}] if side else [choice] if answer == "0" else []
    return {"result": result, "was_cancelled": answer == "s", "completed_by": {"email": by}}


# Reading.


def _said_in(row: Mapping[str, Any], where: str, by: str) -> Iterator[_Said]:
    """Yield the answers in a row of any of the forms."""
    if isinstance(row.get("data"), Mapping):
        yield from _of_label_studio(row, where, by)
    elif isinstance(row.get("fields"), Mapping) or f"{QUESTION}.responses" in row:
        yield from _of_argilla(row, where, by)
    elif QUESTION in row and "id" in row:
        answer = "" if row[QUESTION] is None else str(row[QUESTION])
        if answer.strip():
            yield _Said(str(row["id"]), answer, str(row.get("by") or "").removeprefix("'") or by)
    else:
        raise DataError(
            f"{where}: holds {shown(sorted(map(str, row)))}; expected columns id and {QUESTION}, or a record of Argilla"
            " or a task of Label Studio as JSON"
        )


def _of_argilla(row: Mapping[str, Any], where: str, by: str) -> Iterator[_Said]:
    """Yield the answers of a record, nested as `to_json` writes it or flat as `to_datasets` does."""
    name = _id(row, where)
    flat = row.get(f"{QUESTION}.responses")
    if flat is not None:
        users = row.get(f"{QUESTION}.responses.users") or [None] * len(flat)
        states = row.get(f"{QUESTION}.responses.status") or ["submitted"] * len(flat)
        given = [(v, u) for v, u, state in zip(flat, users, states, strict=False) if state in ("submitted", None)]
    else:
        responses = row.get("responses")
        every = responses.get(QUESTION) if isinstance(responses, Mapping) else None
        given = [(one.get("value"), one.get("user_id")) for one in every or () if isinstance(one, Mapping)]
    for value, user in given:
        yield _Said(name, str(value), str(user or by))


def _of_label_studio(row: Mapping[str, Any], where: str, by: str) -> Iterator[_Said]:
    name = _id(row["data"], where)
    for one in row.get("annotations") or ():
        if not isinstance(one, Mapping):
            raise DataError(f"{where}: an annotation is {shown(one)}; export tasks as JSON, not JSON-MIN")
        who = one.get("completed_by")
        who = who.get("email") or who.get("id") if isinstance(who, Mapping) else who
        took = one.get("lead_time")
        seconds = float(took) if isinstance(took, int | float) and not isinstance(took, bool) and took >= 0 else None
        if one.get("was_cancelled"):
            yield _Said(name, "s", str(who or by), seconds)
            continue
        for result in one.get("result") or ():
            value = result.get("value") if isinstance(result, Mapping) else None
            if isinstance(value, Mapping) and ("selected" in value or "choices" in value):
                said = value["selected"] if "selected" in value else next(iter(value["choices"] or ()), "")
                yield _Said(name, str(said), str(who or by), seconds)


def _id(row: Mapping[str, Any], where: str) -> str:
    if not isinstance(row.get("id"), str):
        raise DataError(f"{where}: lacks the id of its question; keep the field id that was exported")
    return str(row["id"])
