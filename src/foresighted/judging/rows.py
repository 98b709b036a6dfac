"""What an evaluation writes as it goes: one JSON line an answer, one a judged pair and prompt.

Both files are only appended to, in whole lines; a later line for the same thing counts instead of the earlier one. So a
killed evaluation goes on where it was: nothing is generated or paid for twice.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from foresighted.store.rows import read

CAPABILITIES = "capabilities.jsonl"

TIE = "tie"
UNCATEGORISED = "uncategorised"
Result = Literal["win", "tie", "loss", "position_bias", "failure"]
FAILURES = (
    "rate_limit", "server", "timeout", "connection", "rejected", "refused", "cut", "malformed", "error",
)  # fmt: skip
"""Kinds of failure. The first four are the endpoint's and are tried again by `--resume`; `rejected`: the endpoint
called the request bad; `refused`: the judge would not judge; `cut`: its answer ended at
`max_reply_tokens` without a verdict, and is asked for again; `malformed`: its answer is no verdict; `error`: a judge of
the user's own raised."""
TRANSIENT = ("rate_limit", "server", "timeout", "connection")
AGAIN = (*TRANSIENT, "cut")
"""What `--resume` asks about again."""


@dataclass(frozen=True)
class AnswerRow:
    """One answer of one policy (and training seed) to one prompt."""

    policy: str
    seed: int
    """Training seed of the policy; 0 where there is only one or none is known."""
    prompt_id: str
    prompt: str
    kind: str
    text: str
    tokens: int | None = None
    """Length in the policy's own tokens, an end-of-sequence token included; null where another engine did not say."""


@dataclass(frozen=True)
class JudgementRow:
    """One pair of answers to one prompt, shown to the judge in both orders. `result` is that of `first`."""

    first: str
    second: str
    seed: int
    """Training seed that the pair stands for: the cluster in statistics."""
    first_seed: int
    second_seed: int
    prompt_id: str
    category: str
    result: Result
    """win, tie or loss: both orders agree. position_bias: they do not. failure: at least one order has no verdict."""
    identical: bool
    """The answers are the same text: a tie that was not asked about."""
    forward: str | None
    """Name of the policy that the judge preferred with `first` shown first, `tie`, or null (failed, or not asked)."""
    backward: str | None
    """The same with `second` shown first."""
    forward_reason: str | None
    """What the judge gave as its reason, verbatim: hostile text to whatever shows it."""
    backward_reason: str | None
    failure: str | None
    """Kind of failure, one of `rows.FAILURES`."""
    failure_detail: str | None
    tokens_estimated: int
    """Estimate of both requests and replies, before they were sent: one token for four bytes. 0: no endpoint."""
    tokens_prompt: int | None
    """Tokens read, both orders, as the endpoint counted them (when first asked, if cached); null where it did not."""
    tokens_completion: int | None
    sent: int
    """Requests sent for this pair in this run, 0 to 2, retries not counted."""
    cached: int
    """Replies that came from the cache, 0 to 2."""
    first_words: int | None = None
    second_words: int | None = None
    digest: str | None = None
    """`digest_of` the prompt and both answers: a pair whose texts have changed is judged anew. Null in tables."""


Row = TypeVar("Row", AnswerRow, JudgementRow)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read rows, the last one for each key; a torn last line is left out, and no file is no row.

    Raises:
        DataError: unreadable, or a line with a column that is missing or of the wrong type, with its number.
    """
    return list({key(row): row for row in read(path, kind)}.values()) if path.exists() else []


def key(row: AnswerRow | JudgementRow) -> tuple[Any, ...]:
    """Return what a row is about: a later row with the same key replaces it."""
    if isinstance(row, AnswerRow):
        return row.policy, row.seed, row.prompt_id
    return row.first, row.second, row.first_seed, row.second_seed, row.prompt_id


def digest_of(*texts: str) -> str:
    """Return a digest of texts, by which it is seen later whether they are still the same.

    Example:
        >>> digest_of("ab", "c") == digest_of("a", "bc")
        False
    """
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def counted(kinds: Iterable[str | None]) -> dict[str, int]:
    """Return how often each kind occurs, in the order of `FAILURES`."""
    found = Counter(kind for kind in kinds if kind is not None)
    return {kind: found[kind] for kind in (*FAILURES, *sorted(found.keys() - set(FAILURES))) if kind in found}


def total(values: Iterable[int | None]) -> int | None:
    """Return the sum of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
