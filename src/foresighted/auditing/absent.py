"""Which values an audit had to leave out: absent ones, and those that are not finite."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from foresighted.auditing.rollouts import Rollouts
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Ints

PLURALS = {"reward": "rewards", "utility": "utilities", "label": "labels"}
UNEVEN = 0.1
"""Difference between the shares left out of two rows from which on the rows are named."""
MOST_NAMED = 5


def left_out(label: str, rollouts: Rollouts, layout: Layout, measure: str | None) -> Iterable[str]:
    """Say how many rewards, and utilities or labels, are left out; and of which rounds, where it is uneven.

    Args:
        label: of the arm.
        rollouts: its responses.
        layout: rows of the table; a round in which nothing is known is in none of them.
        measure: `utility`, `label`, or None.
    """
    spans, code = _spans(rollouts, layout)
    totals = np.bincount(code, minlength=len(spans))
    for name in ("reward", measure):
        if name is None or name not in rollouts.numbers or (known := rollouts.known(name)).all():
            continue
        lacking = np.bincount(code[~known], minlength=len(spans))
        shares = lacking / totals
        where = ""
        if shares.max() - shares.min() > UNEVEN:
            most = sorted(np.argsort(-shares, kind="stable")[:MOST_NAMED].tolist(), key=lambda place: spans[place])
            named = [
                f"{lacking[place]} of {totals[place]} of {_rounds(*spans[place])}" for place in most if lacking[place]
            ]
            where = f", most of them here: {', '.join(named)}"
        yield (f"{label}: {PLURALS[name]} absent or not finite, and left out: {lacking.sum()} of {len(known)}{where}.")


def _spans(rollouts: Rollouts, layout: Layout) -> tuple[list[tuple[int, int]], Ints]:
    """Return the first and last rounds of every row, and of every round that is in none; and which a response is of."""
    code = layout.rows_of(rollouts.round)
    alone, place = np.unique(rollouts.round[code < 0], return_inverse=True)
    code[code < 0] = layout.rows + place
    spans = [layout.span(row) for row in range(layout.rows)]
    return [*spans, *((round_, round_) for round_ in alone.tolist())], code


def _rounds(first: int, last: int) -> str:
    return f"round {first}" if first == last else f"rounds {first} to {last}"
