"""Pairs that somebody labelled before: a file of preferences, for the reward model's first fit."""

from __future__ import annotations

from pathlib import Path

from foresighted.errors import DataError
from foresighted.prompts import INITIAL_EPOCH, order
from foresighted.store.exchanges import preference_of
from foresighted.store.foreign import rows_of
from foresighted.store.records import PairRow


def read_preferences(path: Path, count: int, seed: int) -> list[PairRow]:
    """Return some of a file's preferences in the order of a seed, the preferred response first.

    Args:
        path: rows as `store.foreign.rows_of` reads them, each with a prompt, `chosen` and `rejected`: TRL's columns,
            UltraFeedback's messages, HH's transcripts.
        count: how many.
        seed: of the order.

    Raises:
        DataError: a row that has none (with its place), or fewer than `count` of them.
    """
    try:
        every = [PairRow(f"row {row.place}", *preference_of(row.values, row.where), 1.0) for row in rows_of(path)]
    except DataError as error:
        raise DataError(f"initial_preferences: {error}") from None
    if len(every) < count:
        raise DataError(
            f"initial_preferences: {path} has {len(every)} preferences, and initial_pairs asks for {count}; use"
            f" --initial-pairs {len(every)}"
        )
    return [every[place] for place in order(len(every), seed=seed, epoch=INITIAL_EPOCH)[:count]]
