"""From the rows that a trainer's processes hand to a reward function, to groups of responses to one prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor

from foresighted.errors import ConfigError, DataError, nearest
from foresighted.integrations.trl.processes import Processes
from foresighted.labels.pair import Groups
from foresighted.texts import text_of
from foresighted.types import Text


@dataclass(frozen=True)
class Batch:
    """The rows of a reward call on all processes, in order of rank."""

    prompts: list[Text]
    responses: list[Text]
    tokens: list[int]
    references: list[list[Text]] | None
    """Of each row's prompt, M."""
    mine: range
    """Rows of this process."""
    sizes: list[int]
    """Rows of each process."""
    kl: list[float] | None = None
    """log pi - log pi_ref of each row, in nats, where it is counted."""

    def texts(self, rows: Sequence[Sequence[int]]) -> Groups:
        """Return the texts of groups of rows."""
        prompts = [self.prompts[row[0]] for row in rows]
        references = None if self.references is None else [self.references[row[0]] for row in rows]
        return Groups(prompts, [[self.responses[i] for i in row] for row in rows], references)


def gather(
    together: Processes,
    prompts: Sequence[Text],
    responses: Sequence[Text],
    tokens: Sequence[int],
    references: Sequence[Text] | None = None,
    kl: Sequence[float] | None = None,
) -> Batch:
    """Return the rows of all processes."""
    written = None if references is None else [[text] for text in references]
    own: list[Any] = [list(prompts), list(responses), list(tokens), written, kl]
    try:
        every = together.gather(own)
    except TypeError:
        raise DataError("prompts: hold something that is no text, an image say; FPOReward reads text alone") from None
    sizes = [len(part[0]) for part in every]
    start = sum(sizes[: together.rank])
    said, answered, lengths = ([row for part in every for row in part[i]] for i in range(3))
    joined, ratios = ([row for part in every for row in part[i] or ()] for i in (3, 4))
    mine = range(start, start + sizes[together.rank])
    return Batch(said, answered, lengths, joined or None, mine, sizes, ratios or None)


def groups(batch: Batch, size: int | None) -> list[list[int]]:
    """Return the rows of each group.

    GRPO and RLOO hand over a prompt's generations one after the other, across processes; OnlineDPO hands over all
    prompts of a process, then all of them again.

    Args:
        batch: rows of all processes.
        size: generations a prompt where the trainer says it, else None: then what fits the rows.

    Raises:
        ConfigError: one generation a prompt.
        DataError: rows that make no groups of equal size.
    """
    keys = [text_of(prompt) for prompt in batch.prompts]
    runs = [len(list(run)) for _, run in groupby(keys)]
    every = size or (math.gcd(*runs) if min(runs) > 1 else None)
    if every and every > 1 and len(keys) % every == 0:
        rows = [list(range(start, start + every)) for start in range(0, len(keys), every)]
        if all(keys[row[0]] == keys[i] for row in rows for i in row):
            return rows
    rows = _by_prompt(keys, batch.sizes, size or 2)
    short = next((row for row in rows if len(row) != len(rows[0]) or len(row) < 2), None)
    if short is None:
        return rows
    if len(short) == 1:
        raise ConfigError(
            f"groups: one generation for prompt {keys[short[0]]!r:.60}; foresight compares a group's responses, set"
            " num_generations to at least 2"
        )
    raise DataError(
        f"groups: {len(short)} generations for prompt {keys[short[0]]!r:.60}, {len(rows[0])} for others; a trainer"
        " hands over groups of equal size"
    )


def _by_prompt(keys: list[str], sizes: list[int], size: int) -> list[list[int]]:
    """Return rows by prompt within each process, `size` at a time."""
    found: list[list[int]] = []
    start = 0
    for count in sizes:
        open_: dict[str, list[int]] = {}
        for row in range(start, start + count):
            group = open_.setdefault(keys[row], [])
            if not group:
                found.append(group)
            group.append(row)
            if len(group) == size:
                del open_[keys[row]]
        start += count
    return found


def by_row(rows: list[list[int]], values: dict[str, Tensor]) -> dict[str, Any]:
    """Return values of the responses, shape B N, in the order of the batch."""
    order = sorted((row, place) for place, row in enumerate(row for group in rows for row in group))
    flat = {name: tensor.flatten().tolist() for name, tensor in values.items()}
    return {name: [column[place] for _, place in order] for name, column in flat.items()}


def column(name: str, columns: dict[str, Any]) -> Sequence[Text]:
    """Return the dataset's column of reference responses.

    Raises:
        DataError: no such column, or an empty reference.
    """
    if name not in columns:
        known = sorted(key for key, value in columns.items() if isinstance(value, list))
        raise DataError(
            f"reference_column: the dataset has no column {name!r}{nearest(name, known)}; it has"
            f" {', '.join(known) or 'none besides the prompt'}"
        )
    values: Sequence[Text] = columns[name]
    if any(not isinstance(value, str | list) for value in values):
        raise DataError(f"reference_column: {name!r} holds something that is neither a text nor messages")
    return values
