"""What the response browser of the page searches: held-out answers, candidates and their references, column by column.

Columns, not rows, and prompts and references once each: the page stays small. A limit keeps it small for any run; what
is left out then is chosen by a rule that the page states.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foresighted.alignment.compared import Comparison
from foresighted.alignment.played import read_plan, run_directory
from foresighted.errors import DataError
from foresighted.statistics.numbers import sigmoid, spread
from foresighted.store.directory import start_directory
from foresighted.store.records import CANDIDATES, HELDOUT, REFERENCES
from foresighted.store.rows import numbered

NEEDED = ("round", "prompt_id", "prompt", "text")
LIMIT = 50_000
MOST_BYTES = 3_000_000
"""Of the compressed responses: with base64, the plotting library and the tables a page stays below 5 MB."""
MOST_UNPACKED = 48_000_000
"""Of the responses as a browser holds them: a repeated word packs to nothing."""
LONGEST = 20_000
"""Characters of a text; the records have what is beyond."""
DIGITS = 4

NUMBERS = (
    "reward", "utility", "gap", "label", "overestimation", "influence", "penalty", "kl", "net", "words", "tokens",
)  # fmt: skip

MEANINGS = {
    "gap": "Gap: proxy reward less true utility, each in standard deviations over the responses of its source.",
    "overestimation": "Overestimation: the predicted preference over the reference response, less the label.",
    "influence": "Influence: what training on the response would do to what the policy is paid.",
}


@dataclass(frozen=True)
class Response:
    """One response with what is known of it; numbers in `NUMBERS`, None where unknown."""

    source: str
    """`held out`, `candidate`, or what other records call theirs."""
    arm: str
    seed: str
    round: int
    prompt_id: str
    prompt: str
    kind: str
    text: str
    numbers: dict[str, float | None]
    chosen: bool = False
    reference: str = ""
    note: str = ""
    """What else is known, as text."""


SHARED: dict[str, Callable[[Response], Any]] = {
    "source": lambda one: one.source,
    "seed": lambda one: one.seed,
    "kind": lambda one: one.kind,
    "reference": lambda one: one.reference,
    "prompt": lambda one: (one.prompt_id, one.prompt),
}
"""Fields of which many responses have the same: the page holds each value once."""


@dataclass(frozen=True)
class Responses:
    """The compact form that the page's script reads, and what a reader should know of it."""

    title: str
    payload: dict[str, Any]
    note: str
    """Which responses these are."""
    meaning: str
    """What the words beside a response mean."""


def read_responses(out: Path, comparison: Comparison) -> list[Response]:
    """Return the held-out answers and candidates of every run that a comparison carries.

    Args:
        out: the directory that `comparison` summarises.
        comparison: its summary.

    Returns:
        The responses. `gap` is proxy reward less true utility, each in standard deviations over all responses of its
        source; `overestimation` is the preference that the reward model predicts less the label.
    """
    plan = read_plan(out)
    found: list[Response] = []
    for arm in comparison.arms:
        for seed in arm.seeds:
            directory = run_directory(out, plan, arm.label, seed)
            found += _heldout(directory / HELDOUT, arm.label, seed)
            found += _candidates(directory / CANDIDATES, start_directory(out, seed) / REFERENCES, arm.label, seed)
    fill_gaps(found)
    return found


def _heldout(path: Path, arm: str, seed: int) -> Iterable[Response]:
    for row in _rows(path):
        numbers = {name: _number(row.get(name)) for name in ("reward", "utility", "kl", "tokens")}
        yield Response(
            "held out", arm, str(seed), row["round"], str(row["prompt_id"]), str(row["prompt"]),
            str(row.get("kind", "")), str(row["text"]), numbers,
        )  # fmt: skip


def _candidates(path: Path, references: Path, arm: str, seed: int) -> Iterable[Response]:
    known = {(row["round"], str(row["prompt_id"])): str(row["text"]) for row in _rows(references)}
    for row in _rows(path):
        names = ("reward", "utility", "label", "influence", "penalty", "kl", "tokens")
        numbers = {name: _number(row.get(name)) for name in names}
        reward, reference, label = numbers["reward"], _number(row.get("reference_reward")), numbers["label"]
        if reward is not None and reference is not None and label is not None:
            numbers["overestimation"] = sigmoid(reward - reference) - label
        prompt_id = str(row["prompt_id"])
        yield Response(
            "candidate", arm, str(seed), row["round"], prompt_id, str(row["prompt"]), "", str(row["text"]), numbers,
            row.get("chosen") is True, known.get((row["round"], prompt_id), ""),
        )  # fmt: skip


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    """Return the lines of a record file, none where it is not there. A response can be shown once its round, prompt and
    text are known, whatever else an earlier version or another program left out."""
    for number, row in numbered(path) if path.exists() else ():
        missing = [name for name in NEEDED if name not in row]
        if missing or type(row["round"]) is not int:
            what = f"lacks {', '.join(missing)}" if missing else f"round is {str(row['round'])[:40]!r}, no whole number"
            raise DataError(f"{path}, line {number}: {what}; a response needs {', '.join(NEEDED)}")
        yield row


def _number(value: Any) -> float | None:
    """Return a finite number, without a sign on 0, or None for anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value + 0.0 if number and abs(value) <= sys.float_info.max else None


def fill_gaps(responses: Sequence[Response]) -> None:
    """Fill in `gap` where reward and utility are known: each in standard deviations over its source, one less the
    other."""
    for source in {one.source for one in responses}:
        both = [
            one.numbers
            for one in responses
            if one.source == source and None not in (one.numbers.get("reward"), one.numbers.get("utility"))
        ]
        if len(both) < 2:
            continue
        columns = [np.array([numbers[name] for numbers in both], np.float64) for name in ("reward", "utility")]
        if any(not spread(column) > 0 for column in columns):
            continue
        reward, utility = ((column - column.mean()) / column.std() for column in columns)
        for numbers, gap in zip(both, (reward - utility).tolist(), strict=True):
            numbers["gap"] = gap


def pack(
    responses: Sequence[Response],
    arms: Sequence[str],
    planned: Sequence[str],
    *,
    title: str = "All responses",
    meaning: str | None = None,
    reference: str = "Reference response",
) -> Responses | None:
    """Return responses column by column, at most `LIMIT` of them; None where there are none.

    Args:
        responses: any order.
        arms: labels in the order of the page.
        planned: labels whose place sets the look.
        title: heading of the section.
        meaning: what the numbers mean; None for the meanings of those that a run's records have.
        reference: what a response's `reference` is.

    Returns:
        The payload: what responses share, once each, and a column of each field.
    """
    if not responses:
        return None
    kept = [_short_texts(one) for one in limited(responses, LIMIT)]
    payload = _payload(kept, arms, planned, reference)
    while (excess := _excess(payload)) > 1 and len(kept) > 1:
        kept = list(limited(kept, int(0.95 * len(kept) / excess)))
        payload = _payload(kept, arms, planned, reference)
    known = " ".join(MEANINGS[name] for name in MEANINGS if name in payload["numbers"])
    return Responses(title, payload, _note(len(kept), len(responses)), known if meaning is None else meaning)


def compact(payload: Any) -> bytes:
    """Return plain JSON values gzipped, the same bytes for the same values; a lone surrogate becomes a `?`."""
    return gzip.compress(_plain(payload), 9, mtime=0)


def _plain(payload: Any) -> bytes:
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "replace")


def _excess(payload: Any) -> float:
    """Return how many times larger responses are than a page may hold them."""
    unpacked = len(_plain(payload)) / MOST_UNPACKED
    return unpacked if unpacked > 1 else len(compact(payload)) / MOST_BYTES


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters, and how many it had beyond."""
    return text if len(text) <= most else f"{text[:most]} \u2026 ({len(text) - most} more characters)"


def _short_texts(one: Response) -> Response:
    prompt, text, reference, note = (cut(text, LONGEST) for text in (one.prompt, one.text, one.reference, one.note))
    return replace(one, prompt=prompt, text=text, reference=reference, note=note)


def _payload(kept: Sequence[Response], arms: Sequence[str], planned: Sequence[str], reference: str) -> dict[str, Any]:
    distinct: dict[str, dict[Any, int]] = {
        name: {value: i for i, value in enumerate(dict.fromkeys(map(field, kept)))} for name, field in SHARED.items()
    }
    return {
        "arms": [{"label": label, "look": list(planned).index(label)} for label in arms],
        "referenceName": reference,
        **{f"{name}s": list(found) for name, found in distinct.items() if name != "prompt"},
        "prompts": [text for _, text in distinct["prompt"]],
        "columns": {
            **{name: [found[SHARED[name](one)] for one in kept] for name, found in distinct.items()},
            "arm": [list(arms).index(one.arm) for one in kept],
            "round": [one.round for one in kept],
            "chosen": [int(one.chosen) for one in kept],
            "text": [one.text for one in kept],
            "note": [one.note for one in kept] if any(one.note for one in kept) else [],
        },
        "numbers": _numbers(kept),
    }


def _numbers(responses: Sequence[Response]) -> dict[str, list[float | None]]:
    """Return the columns that say something: not unknown throughout, not 0 throughout."""
    columns = {name: [one.numbers.get(name) for one in responses] for name in NUMBERS}
    return {
        name: [None if value is None else _short(value) for value in column]
        for name, column in columns.items()
        if any(column)
    }


def _short(value: float) -> float:
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded == int(rounded) else rounded


def limited(responses: Sequence[Response], limit: int) -> Sequence[Response]:
    """Return at most `limit` responses in their order: the extremes by gap and by size of influence, up to a quarter
    each, then those that come first by the SHA-256 of source, arm, seed, round, prompt and text."""
    if len(responses) <= limit:
        return responses
    measures: tuple[Callable[[Response], float], ...] = (
        lambda one: one.numbers.get("gap") or 0.0,
        lambda one: abs(one.numbers.get("influence") or 0.0),
    )
    kept: set[int] = set()
    for measure in measures:
        kept |= set(sorted(range(len(responses)), key=lambda i: -measure(responses[i]))[: limit // 4])
    by_hash = sorted((i for i in range(len(responses)) if i not in kept), key=lambda i: _rank(responses[i]))
    kept |= set(by_hash[: limit - len(kept)])
    return [responses[i] for i in sorted(kept)]


def _rank(one: Response) -> bytes:
    name = "\0".join((one.source, one.arm, one.seed, str(one.round), one.prompt_id, one.text))
    return hashlib.sha256(name.encode("utf-8", "replace")).digest()


def _note(shown: int, total: int) -> str:
    if shown == total:
        return f"All {total} responses of the records."
    return (
        f"{shown} of {total} responses, so that the page stays small: those with the largest gap and with the largest"
        " influence (of either sign), up to a quarter each, and of the others those that come first by a SHA-256, a"
        " rule that cannot see the outcome."
    )
