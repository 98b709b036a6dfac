"""Responses as columns: what every measure of an audit reads.

Row letters: R responses, P prompts, S seeds (runs of one arm), K rows of the table (rounds, or rounds pooled).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foresighted.errors import DataError
from foresighted.statistics.numbers import Floats, Ints, Mask
from foresighted.store.columns import NUMBERS

LARGEST_ROUND = 2**53
LARGEST_NUMBER = 1e100
"""Beyond it a value counts as unknown: squares of it would overflow."""
SORTED_PROMPTS = 10_000
"""Up to so many prompts are in the order of their names, as `evaluate` has them: its resampling then draws the same."""


@dataclass(frozen=True)
class Rollouts:
    """R responses. Codes count from 0 and index the tuple of names beside them; nan is unknown."""

    round: Ints
    prompt: Ints
    run: Ints
    """Code of the pair (arm, seed)."""
    numbers: Mapping[str, Floats]
    """Columns of `columns.NUMBERS` other than the round; absent where the log does not have them."""
    text: pa.ChunkedArray | None
    prompts: tuple[str, ...]
    kinds: tuple[str | None, ...]
    """Kind of each prompt."""
    runs: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.round)

    def known(self, name: str) -> Mask:
        """Return where a column of numbers has a value."""
        return np.isfinite(self.numbers[name]) if name in self.numbers else np.zeros(len(self), bool)

    def only(self, rows: Mask | Ints) -> Rollouts:
        """Return some of the rows, codes unchanged."""
        places = np.flatnonzero(rows) if rows.dtype == bool else rows
        text = None if self.text is None else self.text.take(pa.array(places))
        numbers = {name: values[places] for name, values in self.numbers.items()}
        whole = replace(self, round=self.round[places], prompt=self.prompt[places], run=self.run[places])
        return replace(whole, numbers=numbers, text=text)

    def texts(self, places: Ints) -> list[str]:
        """Return the responses at `places`; empty where the log has no response column."""
        if self.text is None:
            return [""] * len(places)
        # By chunk: `take` on the whole column would first copy all of it into one array.
        ends = np.cumsum([len(chunk) for chunk in self.text.chunks])
        of_chunk = np.searchsorted(ends, places, side="right")
        found = [""] * len(places)
        for number in np.unique(of_chunk).tolist():
            here = np.flatnonzero(of_chunk == number)
            chunk = self.text.chunk(number)
            taken = chunk.take(pa.array(places[here] - (ends[number] - len(chunk)))).to_pylist()
            for place, value in zip(here.tolist(), taken, strict=True):
                found[place] = value or ""
        return found


@dataclass
class Collector:
    """Puts tables of canonical columns together, one file after another, with codes in place of repeated text."""

    numbers: dict[str, list[Floats]] = field(default_factory=dict)
    rounds: list[Floats] = field(default_factory=list)
    prompt_codes: list[Ints] = field(default_factory=list)
    run_codes: list[Ints] = field(default_factory=list)
    text: list[pa.Array] = field(default_factory=list)
    prompts: dict[str, int] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    kinds: list[str | None] = field(default_factory=list)
    runs: dict[tuple[str, str], int] = field(default_factory=dict)
    rows: int = 0

    def add(self, table: Mapping[str, pa.Array], rows: int, *, run: str, seed: str, round_: int | None) -> None:
        """Add a table.

        Args:
            table: canonical name -> array; numbers as doubles, texts as strings.
            rows: of the table.
            run: arm of rows that do not name one.
            seed: seed of rows that do not name one.
            round_: round of the whole table where no column tells it.
        """
        if rows == 0:
            return
        self.rounds.append(
            _doubles(table["round"], math.inf) if "round" in table else np.full(rows, round_, np.float64)
        )
        for name in NUMBERS[1:]:
            if name in table:
                earlier = self.numbers.setdefault(name, [np.full(self.rows, np.nan)] if self.rows else [])
                earlier.append(_doubles(table[name]))
            elif name in self.numbers:
                self.numbers[name].append(np.full(rows, np.nan))
        self._add_prompts(table, rows)
        self._add_runs(table, rows, run, seed)
        if "response" in table:
            self.text.append(table["response"])
        self.rows += rows

    def _add_prompts(self, table: Mapping[str, pa.Array], rows: int) -> None:
        key = "prompt_id" if "prompt_id" in table else "prompt"
        if key not in table:
            self.prompt_codes.append(np.full(rows, -1, np.int64))
            return
        codes, names = _coded(table[key])
        # Each prompt is looked at once a table, at the first of its rows.
        first = np.full(len(names), -1, np.int64)
        first[codes[::-1]] = np.arange(rows)[::-1]
        shown = _at(table.get("prompt"), first) if key == "prompt_id" else names
        kinds = _at(table.get("kind"), first)
        places = np.empty(len(names), np.int64)
        for i, name in enumerate(names):
            code = self.prompts.get(name)
            if code is None:
                code = self.prompts[name] = len(self.shown)
                self.shown.append(shown[i] or name)
                self.kinds.append(kinds[i])
            places[i] = code
        self.prompt_codes.append(places[codes])

    def _add_runs(self, table: Mapping[str, pa.Array], rows: int, run: str, seed: str) -> None:
        parts = []
        for name, usual in (("run", run), ("seed", seed)):
            codes, names = _coded(table[name]) if name in table else (np.zeros(rows, np.int64), [usual])
            parts.append((codes, [one or usual for one in names]))
        (run_codes, run_names), (seed_codes, seed_names) = parts
        both = run_codes * len(seed_names) + seed_codes
        seen, places = np.unique(both, return_inverse=True)
        made = [
            self.runs.setdefault(
                (run_names[pair // len(seed_names)], seed_names[pair % len(seed_names)]), len(self.runs)
            )
            for pair in seen.tolist()
        ]
        self.run_codes.append(np.array(made, np.int64)[places])

    def made(self) -> tuple[Rollouts, int]:
        """Return the rows that have a round, and how many had none; there is at least one row.

        Raises:
            DataError: a round that is not a whole number, or below 0.
        """
        rounds, prompt = np.concatenate(self.rounds), np.concatenate(self.prompt_codes)
        run = np.concatenate(self.run_codes)
        numbers = {name: np.concatenate(parts) for name, parts in self.numbers.items()}
        numbers = {name: values for name, values in numbers.items() if np.isfinite(values).any()}
        text = pa.chunked_array(self.text, pa.large_string())
        shown, kinds = list(self.shown), list(self.kinds)
        if len(shown) <= SORTED_PROMPTS:
            order = [self.prompts[name] for name in sorted(self.prompts)]
            shown, kinds = [shown[code] for code in order], [kinds[code] for code in order]
            places = np.empty(len(order) + 1, np.int64)
            places[order], places[-1] = np.arange(len(order)), -1  # code -1: no prompt
            prompt = places[prompt]
        whole = np.isfinite(rounds)
        _check_rounds(rounds[whole])
        prompt = _own_prompts(prompt, rounds, run, shown, kinds)
        made = Rollouts(
            np.where(whole, rounds, 0).astype(np.int64), prompt, run, numbers,
            text if len(text) == len(rounds) else None,
            tuple(shown), tuple(kinds), tuple(self.runs),
        )  # fmt: skip
        return (made if whole.all() else made.only(whole)), int((~whole).sum())


def _check_rounds(rounds: Floats) -> None:
    wrong = rounds[(rounds != np.round(rounds)) | (rounds < 0) | (rounds > LARGEST_ROUND)]
    if len(wrong):
        raise DataError(
            f"round: got {wrong[0]:g}, expected whole numbers from 0 on; name another column with --column round=NAME"
        )


def _own_prompts(prompt: Ints, rounds: Floats, run: Ints, shown: list[str], kinds: list[str | None]) -> Ints:
    """Give rows without a prompt one: one for all where a run has a row a round, else each row its own."""
    without = np.flatnonzero(prompt < 0)
    if not len(without):
        return prompt
    pairs = np.unique(np.stack([run[without].astype(np.float64), rounds[without]]), axis=1)
    alone = pairs.shape[1] == len(without)
    count = 1 if alone else len(without)
    prompt = prompt.copy()
    prompt[without] = len(shown) + (np.zeros(len(without), np.int64) if alone else np.arange(len(without)))
    shown += [""] * count
    kinds += [None] * count
    return prompt


def _doubles(array: pa.Array, most: float = LARGEST_NUMBER) -> Floats:
    values: Floats = array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    beyond = np.abs(values) > most
    return np.where(beyond, np.nan, values) if beyond.any() else values


def _coded(array: pa.Array) -> tuple[Ints, list[str]]:
    coded = pc.fill_null(array, "").dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def _at(array: pa.Array | None, places: Ints) -> list[Any]:
    return [None] * len(places) if array is None else array.take(pa.array(places)).to_pylist()


def arms(rollouts: Rollouts) -> Iterable[tuple[str, Rollouts]]:
    """Return each arm that has rows with them, in order of appearance."""
    names = list(dict.fromkeys(run for run, _ in rollouts.runs))
    of_row = np.array([names.index(run) for run, _ in rollouts.runs], np.int64)[rollouts.run]
    for i, name in enumerate(names):
        if (own := of_row == i).any():
            yield name, rollouts if len(names) == 1 else rollouts.only(own)
