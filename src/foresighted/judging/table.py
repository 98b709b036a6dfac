"""Judgements that were made elsewhere: one line a prompt and one column a pair, or one line a judgement.

A column `A_vs_B` holds the name of the winner, `tie`, or nothing (not judged). Optional: `prompt_id`, `category`,
`seed` (training seed), `words_A` (length of A's answer in words) and `same_A_B` (True where both answers are one text).
A line a judgement names both: `model_a`, `model_b` and `winner` (Arena), `model_1`, `model_2` and the winners of two
games in both orders (MT-bench), or `generator_1`, `generator_2` and `preference` (AlpacaEval).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from foresighted.errors import DataError, nearest
from foresighted.judging.pairs import result_of
from foresighted.judging.rows import TIE, UNCATEGORISED, JudgementRow
from foresighted.prompts import id_of, kind_of, text_id
from foresighted.store.aliases import listed, written
from foresighted.store.exchanges import absent, has_prompt, name_of, number_of, prompt_of, whole_of
from foresighted.store.foreign import Row, rows_of

_VS = "_vs_"
_LONGEST = 10**15 - 1  # a longer number is no seed and no length, and a float no longer holds it exactly
_TIES = {TIE, "tie (bothbad)", "tie(bothbad)", "bothbad", "both_bad", "both bad", "draw"}


class Table(NamedTuple):
    """Judgements of a table, and its policies in order of appearance: the first is the baseline."""

    policies: tuple[str, ...]
    rows: list[JudgementRow]


class _Verdict(NamedTuple):
    """What one line says of one pair; `backward` is known where both orders were judged."""

    row: Row
    names: tuple[str, str]
    forward: str | None
    backward: str | None = None
    both: bool = False


def read_table(path: Path, *, baseline: str | None = None) -> Table:
    """Read a table of judgements; of each pair, the policy that appears later is compared over the earlier one.

    Args:
        path: a file as `store.foreign.rows_of` reads it.
        baseline: the policy that everything is compared with (default: the first that appears).

    Raises:
        DataError: unreadable, no pair of policies or no verdict in it, a column or pair twice, or a cell that cannot be
            what its column says; with the line number.
    """
    try:
        rows = list(rows_of(path))
        columns = list(dict.fromkeys(name for row in rows for name in row.values))
        form = next((read for needs, read in _FORMS.items() if needs <= set(columns)), None)
        if not rows:
            raise DataError(f"{path} holds no judgement; give a line a prompt, or a line a judgement")
        pairs = {} if form else _pairs(rows, columns, path)
        verdicts = list(form(rows) if form else _wide(rows, pairs))
        if not verdicts:
            raise DataError(f"{path} has no verdict in {len(rows)} lines; it has {listed(columns)}")
        of = pairs.values() if pairs else [verdict.names for verdict in verdicts]
        policies = _order(list(dict.fromkeys(name for names in of for name in names)), baseline, path)
        return Table(policies, list(_judgements(verdicts, policies)))
    except DataError as error:
        told = str(error)
        raise DataError(told if told.startswith("baseline:") else f"judgements: {told}") from None


def _order(names: list[str], baseline: str | None, path: Path) -> tuple[str, ...]:
    if baseline is None:
        return tuple(names)
    if baseline not in names:
        raise DataError(
            f"baseline: {path} has no policy {baseline!r}{nearest(baseline, names)}; it has {', '.join(names)}"
        )
    return baseline, *(name for name in names if name != baseline)


# One column a pair


def _pairs(rows: Sequence[Row], columns: Sequence[str], path: Path) -> dict[str, tuple[str, str]]:
    """Return the columns of pairs, each with its two policies."""
    pairs = {name: _names(name, rows, path) for name in columns if _VS in name}
    if not pairs:
        raise DataError(
            f"{path} has no column A_vs_B{nearest('a_vs_b', columns)}; it has {listed(columns)}; name a column after"
            " the two policies, for example relaxed_vs_baseline, and put the winner's name or 'tie' in it; or give a"
            " line a judgement, with model_a, model_b and winner"
        )
    twice = [name for name, names in pairs.items() if names[::-1] in pairs.values()]
    if twice:
        raise DataError(
            f"{path}: {written(twice[0])} and {written(twice[1])} name one pair, which would count twice; keep one"
        )
    return pairs


def _wide(rows: Sequence[Row], pairs: Mapping[str, tuple[str, str]]) -> Iterator[_Verdict]:
    for row in rows:
        for column, names in pairs.items():
            if (winner := _winner(row, column, names)) is not None:
                yield _Verdict(row, names, winner)


def _names(column: str, rows: Sequence[Row], path: Path) -> tuple[str, str]:
    """Return the two policies of a column; where their names hold `_vs_`, the winners in it tell which."""
    parts = column.split(_VS)
    splits = [(_VS.join(parts[:n]), _VS.join(parts[n:])) for n in range(1, len(parts))]
    known = [names for names in splits if all(names) and names[0] != names[1] and TIE not in names]
    if not known:
        raise DataError(f"{path}: column {column!r} does not name two different policies as A_vs_B")
    if len(known) == 1:
        return known[0]
    winners = {str(row.values.get(column) or "").strip() for row in rows}
    return max(known, key=lambda names: len(winners & set(names)))


def _winner(row: Row, column: str, names: tuple[str, str], called: Mapping[str, str] | None = None) -> str | None:
    """Return the name that a cell holds, `tie`, or None for nothing; `called`: other words for the two names."""
    value = row.values.get(column)
    text = "" if absent(value) else str(value).strip()
    if not text:
        return None
    if text in names or text.lower() in _TIES:
        return text if text in names else TIE
    alike = [name for name in names if name.lower() == text.lower()]
    if called and text.lower() in called:
        return called[text.lower()]
    if len(alike) == 1:
        return alike[0]
    raise DataError(
        f"{row.where}: {written(column)} is {text[:40]!r}{nearest(text, [*names, TIE])}; expected"
        f" {', '.join([*(called or ()), *names])}, tie or nothing"
    )


# One line a judgement


def _arena(rows: Sequence[Row]) -> Iterator[_Verdict]:
    for row in rows:
        names = _both(row, "model_a", "model_b")
        called = {"model_a": names[0], "model_b": names[1], "a": names[0], "b": names[1]}
        if (winner := _winner(row, "winner", names, called)) is not None:
            yield _Verdict(row, names, winner)


def _marked(rows: Sequence[Row]) -> Iterator[_Verdict]:
    """Read Arena's other form: three columns of which one holds 1."""
    columns = ("winner_model_a", "winner_model_b", "winner_tie")
    for row in rows:
        names = _both(row, "model_a", "model_b")
        marks = [str(row.values.get(column)).strip().lower() in ("1", "1.0", "true") for column in columns]
        if sum(marks) != 1:
            raise DataError(f"{row.where}: {sum(marks)} of {', '.join(columns)} hold 1; expected one")
        yield _Verdict(row, names, (*names, TIE)[marks.index(True)])


def _games(rows: Sequence[Row]) -> Iterator[_Verdict]:
    """Read MT-bench's two games: the second shows the answers the other way round."""
    for row in rows:
        names = _both(row, "model_1", "model_2")
        called = {"model_1": names[0], "model_2": names[1], "error": ""}
        forward, backward = (_winner(row, column, names, called) or None for column in ("g1_winner", "g2_winner"))
        yield _Verdict(row, names, forward, backward, both=True)


def _preferences(rows: Sequence[Row]) -> Iterator[_Verdict]:
    """Read AlpacaEval's annotations: 1 prefers the first, 2 the second, 0 and 1.5 neither; between, the nearer."""
    for row in rows:
        names = _both(row, "generator_1", "generator_2")
        value = row.values.get("preference")
        try:
            number = number_of(value)
        except (TypeError, ValueError, OverflowError):
            number = -1.0
        if number is None or math.isnan(number):
            continue
        if not (number == 0 or 1 <= number <= 2):
            raise DataError(f"{row.where}: preference is {str(value)[:40]!r}; expected 0, or from 1 to 2")
        yield _Verdict(row, names, TIE if number in (0, 1.5) else names[int(number > 1.5)])


def _both(row: Row, first: str, second: str) -> tuple[str, str]:
    one, other = (name_of(row.values.get(key), key, row.where) for key in (first, second))
    if one is None or other is None or one == other or TIE in (one, other):
        raise DataError(f"{row.where}: {first} is {one!r} and {second} {other!r}; expected two different policies")
    return one, other


_FORMS: Mapping[frozenset[str], Callable[[Sequence[Row]], Iterator[_Verdict]]] = {
    frozenset({"model_a", "model_b", "winner"}): _arena,
    frozenset({"model_a", "model_b", "winner_model_a", "winner_model_b", "winner_tie"}): _marked,
    frozenset({"model_1", "model_2", "g1_winner", "g2_winner"}): _games,
    frozenset({"generator_1", "generator_2", "preference"}): _preferences,
}
"""Columns that a form has -> how its lines are read."""


# What they come to


def _judgements(verdicts: Iterable[_Verdict], policies: tuple[str, ...]) -> Iterator[JudgementRow]:
    seen: dict[tuple[Any, ...], str] = {}
    for verdict in verdicts:
        row, values = verdict.row, verdict.row.values
        prompt, seed = _prompt_id(row), whole_of(values.get("seed"), "seed", row.where, most=_LONGEST) or 0
        second, first = sorted(verdict.names, key=policies.index)
        if (earlier := seen.setdefault((first, second, seed, prompt), row.where)) is not row.where:
            raise DataError(
                f"{row.where}: prompt_id {prompt!r} stands twice for one seed, of {first} and {second} (also"
                f" {earlier}); keep one"
            )
        forward, backward = (verdict.forward, verdict.backward)[:: 1 if verdict.names[0] == first else -1]
        lost = verdict.both and None in (forward, backward)
        once = verdict.forward if not verdict.both else None
        yield JudgementRow(
            first=first, second=second, seed=seed, first_seed=seed, second_seed=seed, prompt_id=prompt,
            category=kind_of(values, row.where) or UNCATEGORISED,
            result=result_of(once or forward, once or backward, first), identical=_same(values, first, second),
            forward=once or forward, backward=None if once else backward, forward_reason=None, backward_reason=None,
            failure="malformed" if lost else None, failure_detail=None, tokens_estimated=0, tokens_prompt=None,
            tokens_completion=None, sent=0, cached=0, first_words=_words(row, first), second_words=_words(row, second),
        )  # fmt: skip


def _prompt_id(row: Row) -> str:
    """Return the id of a line's prompt; without one, that of its text, or its place."""
    values = row.values
    if (name := id_of(values, row.where)) is None:
        name = text_id(prompt_of(values, row.where)) if has_prompt(values) else str(row.place)
    turn = whole_of(values.get("turn"), "turn", row.where)
    return f"{name}, turn {turn}" if turn and turn > 1 else name


def _same(values: Mapping[str, Any], first: str, second: str) -> bool:
    texts = (str(values.get(f"same_{a}_{b}") or "").strip().lower() for a, b in ((first, second), (second, first)))
    return any(text in ("true", "1", "1.0", "yes") for text in texts)


def _words(row: Row, name: str) -> int | None:
    column = f"words_{name}"
    return whole_of(row.values.get(column), written(column), row.where, most=_LONGEST)
