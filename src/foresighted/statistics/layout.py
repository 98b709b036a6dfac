"""Which rounds make the rows of the table: each its own, or pooled until prompts repeat or a row has enough of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from foresighted.statistics.numbers import Ints, Mask

MOST_ROWS = 20
"""Rows of the table at most: more rounds than that are pooled."""
FEWEST_UNITS = 32
"""Prompts that a row should have where they differ from row to row."""
FEWEST_RETURNING = 8
"""Prompts that a row should have where they come back, but not all in every row."""


class Responses(Protocol):
    """R responses as codes, (R,) each."""

    @property
    def round(self) -> Ints:
        """Number of the round."""

    @property
    def prompt(self) -> Ints:
        """Code of the prompt, from 0."""

    @property
    def run(self) -> Ints:
        """Code of the run, from 0."""


@dataclass(frozen=True)
class Layout:
    """How rounds make rows: `row[i]` is the row of `rounds[i]`."""

    rounds: tuple[int, ...]
    row: tuple[int, ...]
    paired: bool

    @property
    def rows(self) -> int:
        """K."""
        return self.row[-1] + 1 if self.row else 0

    def span(self, row: int) -> tuple[int, int]:
        """Return the first and the last round of a row."""
        of_row = [round_ for round_, place in zip(self.rounds, self.row, strict=True) if place == row]
        return of_row[0], of_row[-1]

    def rows_of(self, rounds: Ints) -> Ints:
        """Return the row of each response; -1 for a round that has none."""
        known = np.array(self.rounds, np.int64)
        places = np.searchsorted(known, rounds).clip(max=max(len(known) - 1, 0))
        if not len(known):
            return np.full(len(rounds), -1, np.int64)
        return np.where(known[places] == rounds, np.array(self.row, np.int64)[places], -1)


def choose_layout(responses: Responses, known: Mask) -> Layout:
    """Return how the rounds with known values make rows of a table.

    Every round is a row of its own where the same prompts are answered in all of them, or at least come back. Otherwise
    rounds are pooled into 20, 10 or 5 rows until they do; where they never do, into at most 10 rows of about 32 prompts
    or more.

    Args:
        responses: of one arm.
        known: (R,), which of them count.
    """
    rounds = np.unique(responses.round[known])
    if not len(rounds):
        return Layout((), (), True)
    layouts = [
        Layout(tuple(rounds.tolist()), tuple(_pooled(len(rounds), rows)), True)
        for rows in dict.fromkeys(min(count, len(rounds)) for count in (MOST_ROWS, 10, 5))
    ]
    for fits in (_complete, _returning):
        for layout in layouts:
            if fits(*_units(responses, known, layout), layout.rows):
                return layout
    run, prompt = responses.run[known], responses.prompt[known]
    a_run = len(np.unique(run * (int(prompt.max()) + 1) + prompt)) / len(np.unique(run))
    rows = int(min(10, len(rounds), max(2, a_run // FEWEST_UNITS)))
    return Layout(tuple(rounds.tolist()), tuple(_pooled(len(rounds), rows)), False)


def connected(row: Ints, cluster: Ints, rows: int) -> bool:
    """Return whether rows can be compared with each other through what is in several of them.

    Args:
        row: of each unit.
        cluster: what a unit belongs to, and what can be in several rows.
        rows: K.
    """
    _, code = np.unique(cluster, return_inverse=True)
    here = np.zeros((int(code.max()) + 1, rows), bool)
    here[code, row] = True
    links = (here.T.astype(np.float64) @ here) > 0
    reached = links[0]
    for _ in range(rows):
        reached = links[reached].any(axis=0)
    return bool(reached.all())


def _pooled(rounds: int, rows: int) -> list[int]:
    return [place * rows // rounds for place in range(rounds)]


def _units(responses: Responses, known: Mask, layout: Layout) -> tuple[Ints, Ints]:
    """Return cell (row and run) and prompt of each unit."""
    _, runs = np.unique(responses.run[known], return_inverse=True)
    total = layout.rows * (int(runs.max()) + 1)
    cells = runs * layout.rows + layout.rows_of(responses.round[known])
    pairs = np.unique(responses.prompt[known] * total + cells)
    return pairs % total, pairs // total


def _complete(cell: Ints, prompt: Ints, rows: int) -> bool:
    """Whether prompts that every run answered in every row are half of what the median cell has, or more."""
    total = (int(cell.max()) // rows + 1) * rows
    common = int((np.bincount(prompt) == total).sum())
    return common >= 1 and 2 * common >= float(np.median(np.bincount(cell, minlength=total)))


def _returning(cell: Ints, prompt: Ints, rows: int) -> bool:
    """Whether half of the units or more belong to prompts that are in several rows, and the rows hang together."""
    cluster = prompt * (int(cell.max()) // rows + 1) + cell // rows
    _, code, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    several = sizes[code] > 1
    enough = bool(np.median(np.bincount(cell)) >= FEWEST_RETURNING)
    return enough and 2 * int(several.sum()) >= len(cell) and connected(cell % rows, cluster, rows)
