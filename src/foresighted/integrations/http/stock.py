"""OpenRLHF's protocol: one text of prompt and response a sample, no group, no name, and a retry that looks the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foresighted.errors import DataError
from foresighted.integrations.http.client import references_of
from foresighted.integrations.http.messages import OpenRLHFRequest, plain
from foresighted.types import Text

RUN = "openrlhf"


@dataclass(frozen=True)
class Sample:
    """One sample as the owner takes it."""

    run: str
    group: str | None
    """None: it came without one, and is its own."""
    member: int
    size: int
    prompt: Text
    response: Text
    step: int | None
    evaluation: bool
    references: list[Text] | None

    @property
    def digest(self) -> str:
        """Return what tells it from others that came without a group."""
        return hashlib.sha256(repr((self.prompt, self.response, self.references)).encode()).hexdigest()[:24]


def samples(request: OpenRLHFRequest, end_tokens: Sequence[str]) -> list[Sample]:
    """Return the samples of a request.

    Raises:
        DataError: columns of other lengths, a query that does not hold its prompt, or a label that says wrong things.
    """
    count = len(request.query)
    for name in ("prompts", "labels"):
        column = getattr(request, name)
        if len(column) not in ((0, count) if name == "labels" else (count,)):
            raise DataError(f"{name}: got {len(column)} for {count} queries; send one a query")
    labels = request.labels or [None] * count
    queries, prompts = ([plain(text) for text in column] for column in (request.query, request.prompts))
    rows = zip(queries, prompts, labels, strict=True)
    return [_sample(f"query {i}", *row, end_tokens) for i, row in enumerate(rows)]


def _sample(where: str, query: Any, prompt: Any, label: Any, end_tokens: Sequence[str]) -> Sample:
    told: Mapping[str, Any] = label if isinstance(label, dict) else {}
    response = told.get("response")
    if response is None:
        response = _response(where, query, prompt, end_tokens)
    listed = references_of(told)
    group, member, size = told.get("group"), told.get("member", 0), told.get("size", 1)
    step, run, evaluation = told.get("step"), told.get("run", RUN), told.get("evaluation", False)
    kinds = (
        ("response", isinstance(response, str | list), "text"), ("run", isinstance(run, str), "text"),
        ("references", listed is None or isinstance(listed, list), "text, or a list of texts"),
        ("group", group is None or isinstance(group, str), "text"),
        ("member", type(member) is int, "a whole number"), ("size", type(size) is int, "a whole number"),
        ("step", step is None or type(step) is int, "a whole number"),
        ("evaluation", isinstance(evaluation, bool), "true or false"),
    )  # fmt: skip
    for name, fits, expected in kinds:
        if not fits:
            raise DataError(f"labels: {name} of {where} is no {expected}; mend the dataset's label")
    return Sample(run, group, member, size, told.get("prompt", prompt), response, step, evaluation, listed)


def _response(where: str, query: Any, prompt: Any, end_tokens: Sequence[str]) -> str:
    if not isinstance(query, str) or not isinstance(prompt, str):
        raise DataError(f"query: {where} and its prompt must be texts, or its label say the response")
    response = query
    if prompt:
        _, found, response = query.partition(prompt)
        if not found:
            raise DataError(
                f"query: {where} does not hold its prompt {prompt[:40]!r}; send both as the policy reads them, or put"
                " the response in the label"
            )
    return _without_end(response, [token for token in end_tokens if token])


def _without_end(text: str, tokens: Sequence[str]) -> str:
    """Return a text without the special tokens at its end."""
    end = next((token for token in tokens if text.rstrip().endswith(token)), None)
    return text if end is None else _without_end(text.rstrip().removesuffix(end), tokens)
