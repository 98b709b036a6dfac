"""Judgements that were made elsewhere: a CSV table with one line a prompt and one column a pair.

A column `A_vs_B` holds the name of the winner, `tie`, or nothing (not judged). Optional: `prompt_id`, `category`,
`seed` (training seed), `words_A` (length of A's answer in words) and `same_A_B` (True where both answers are one text).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from foresighted.errors import DataError, nearest
from foresighted.inputs import regular
from foresighted.judging.rows import TIE, UNCATEGORISED, JudgementRow, Result

_VS = "_vs_"
_DIGITS = 15  # a longer number is no seed and no length, and a float no longer holds it exactly


class Table(NamedTuple):
    """Judgements of a table, and its policies in order of appearance: the first is the baseline."""

    policies: tuple[str, ...]
    rows: list[JudgementRow]


def read_table(path: Path, *, baseline: str | None = None) -> Table:
    """Read a table of judgements; of each pair, the policy that appears later is compared over the earlier one.

    Args:
        path: the CSV file.
        baseline: the policy that everything is compared with (default: the first that appears).

    Raises:
        DataError: unreadable, no column `A_vs_B` or no verdict in it, a column or pair twice, a line with more or fewer
            cells than columns, or a cell that cannot be what its column says; with the line number.
    """
    try:
        with regular(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            lines = [(reader.line_num, line) for line in reader]
    except OSError as error:
        raise DataError(f"judgements: {path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"judgements: {path} is not a CSV table in UTF-8 ({error})") from None
    _check_shape(columns, lines, path)
    pairs = {name: _names(name, path) for name in columns if _VS in name}
    if not pairs:
        shown = ", ".join(columns[:8]) or "none"
        raise DataError(
            f"judgements: {path} has no column A_vs_B{nearest('a_vs_b', columns)}; found {shown}; name a column after"
            " the two policies, for example relaxed_vs_baseline, and put the winner's name or 'tie' in it"
        )
    twice = [name for name, names in pairs.items() if names[::-1] in pairs.values()]
    if twice:
        raise DataError(
            f"judgements: {path}, line 1: {twice[0]} and {twice[1]} name one pair, which would count twice; keep one"
        )
    policies = _order(list(dict.fromkeys(name for names in pairs.values() for name in names)), baseline, path)
    rows = list(_rows(lines, pairs, policies, path))
    if not rows:
        raise DataError(f"judgements: {path} has no verdict: {', '.join(pairs)} hold nothing in {len(lines)} lines")
    return Table(policies, rows)


def _check_shape(columns: list[str], lines: list[tuple[int, dict[str, str]]], path: Path) -> None:
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise DataError(f"judgements: {path}, line 1: the column {twice[0]!r} stands twice; rename or remove one")
    for number, line in lines:
        # DictReader keeps surplus cells under None, and puts None where a cell is missing
        if None in line or None in line.values():
            raise DataError(
                f"judgements: {path}, line {number}: has {'more' if None in line else 'fewer'} cells than the"
                f" {len(columns)} columns of line 1; is a comma not quoted, or the line torn?"
            )


def _names(column: str, path: Path) -> tuple[str, str]:
    first, _, second = column.partition(_VS)
    if not first or not second or first == second or TIE in (first, second):
        raise DataError(f"judgements: {path}: column {column!r} does not name two different policies as A_vs_B")
    return first, second


def _order(names: list[str], baseline: str | None, path: Path) -> tuple[str, ...]:
    if baseline is None:
        return tuple(names)
    if baseline not in names:
        raise DataError(
            f"baseline: {path} has no policy {baseline!r}{nearest(baseline, names)}; it has {', '.join(names)}"
        )
    return baseline, *(name for name in names if name != baseline)


def _rows(
    lines: list[tuple[int, dict[str, str]]],
    pairs: Mapping[str, tuple[str, str]],
    policies: tuple[str, ...],
    path: Path,
) -> Iterator[JudgementRow]:
    seen: set[tuple[str, int, str]] = set()
    for number, line in lines:
        prompt, seed = (line.get("prompt_id") or str(number)).strip(), _whole(line, "seed", path, number) or 0
        for column, names in pairs.items():
            winner = (line.get(column) or "").strip()
            if not winner:
                continue
            if winner.lower() == TIE:
                winner = TIE
            elif winner not in names:
                raise DataError(
                    f"judgements: {path}, line {number}: {column} is {winner[:40]!r}{nearest(winner, [*names, TIE])};"
                    f" expected {names[0]}, {names[1]}, tie or nothing"
                )
            if (column, seed, prompt) in seen:
                raise DataError(f"judgements: {path}, line {number}: prompt_id {prompt!r} stands twice for one seed")
            seen.add((column, seed, prompt))
            second, first = sorted(names, key=policies.index)
            result: Result = "tie" if winner == TIE else "win" if winner == first else "loss"
            yield JudgementRow(
                first=first, second=second, seed=seed, first_seed=seed, second_seed=seed, prompt_id=prompt,
                category=(line.get("category") or UNCATEGORISED).strip(), result=result,
                identical=_same(line, first, second), forward=winner, backward=None, forward_reason=None,
                backward_reason=None, failure=None, failure_detail=None, tokens_estimated=0, tokens_prompt=None,
                tokens_completion=None, sent=0, cached=0, first_words=_whole(line, f"words_{first}", path, number),
                second_words=_whole(line, f"words_{second}", path, number),
            )  # fmt: skip


def _same(line: Mapping[str, str], first: str, second: str) -> bool:
    text = line.get(f"same_{first}_{second}") or line.get(f"same_{second}_{first}") or ""
    return text.strip().lower() in ("true", "1", "yes")


def _whole(line: Mapping[str, str], column: str, path: Path, number: int) -> int | None:
    text = (line.get(column) or "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise DataError(
            f"judgements: {path}, line {number}: {column} is {text[:40]!r}; expected a whole number, 0 or more"
        )
    return int(text)
