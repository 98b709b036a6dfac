"""Which column of anybody's log means what: ours, told by flags, or guessed from its name.

A name may be nested: `scores.rm` is the key `rm` inside the key `scores`. Several columns may make one:
`helpful+polite` is their sum, and `arm+gamma` puts two names side by side.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from foresighted.errors import ConfigError, DataError, nearest
from foresighted.inputs import shown
from foresighted.store.aliases import ALIASES, CONVERSATIONS, keys_of, listed, written
from foresighted.store.exchanges import missing, number_of

NUMBERS = ("round", "reward", "utility", "label", "reference_reward", "kl", "tokens")
TEXTS = ("prompt", "prompt_id", "response", "kind", "run", "seed")
CANONICAL = (*NUMBERS, *TEXTS)
JUDGED_BY = ("reward", "utility", "label")
"""Columns without which an audit says less: none of them is passed over because its values are no numbers."""
RECORDS: Mapping[str, str] = {name: name for name in CANONICAL} | {"response": "text"}
"""What our columns are called in records of ours."""

FROM_FILE_NAME = "file name"
TRL_OWN = ("step", "prompt", "completion", "advantage")
"""What TRL writes besides one column a reward function."""
NUMBER_OF_FILE = re.compile(r"(\d+)(?!.*\d)")

PaidBy = Callable[[Sequence[str]], Sequence[str]]

Shape = Literal["number", "quoted", "truth", "mixed", "text", "messages", "object", "other", "nothing"]
"""What the values of a column look like: numbers, numbers in quotes, true or false, some numbers and some not, text,
chat messages, keys and values, something else, only nulls."""


@dataclass(frozen=True)
class Column:
    """Where one of our columns is found: one path of keys, or several that are added or put side by side."""

    paths: tuple[tuple[str, ...], ...]
    shapes: tuple[Shape, ...]
    name: str
    """As a user writes it."""
    part: Literal["prompt", "response"] | None = None
    """Which part of a whole exchange it is; None: the value itself."""
    abstain: bool = False
    """Whether a sum passes over those of its columns that are null, as TRL does; else it is null then."""


def flattened(row: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Return a row's values by dotted name, with the path of keys; a key that itself holds dots goes first."""
    found: dict[str, tuple[tuple[str, ...], Any]] = {}
    queue: list[tuple[tuple[str, ...], Any]] = [((str(key),), value) for key, value in row.items()]
    while queue:
        path, value = queue.pop(0)
        found.setdefault(".".join(path), (path, value))
        if isinstance(value, Mapping):
            queue += [((*path, str(key)), item) for key, item in value.items()]
    return found


def shape_of(values: Iterable[Any]) -> Shape:
    """Return what values look like, nulls aside."""
    known = [value for value in values if not missing(value)]
    if not known:
        return "nothing"
    if all(isinstance(value, bool) for value in known):
        return "truth"
    if all(isinstance(value, int | float | Decimal) for value in known):
        return "number"
    if all(isinstance(value, str) for value in known):
        numbers = sum(_is_number(value) for value in known)
        if numbers == len(known):
            return "quoted"
        return "mixed" if 2 * numbers >= len(known) else "text"
    if any(isinstance(value, int | float | Decimal) for value in known):
        return "mixed"
    if all(isinstance(value, list) and all(isinstance(item, Mapping) for item in value) for value in known):
        return "messages"
    return "object" if all(isinstance(value, Mapping) for value in known) else "other"


def _is_number(text: str) -> bool:
    try:
        return number_of(text) is not None
    except ValueError:
        return False


def find_columns(
    rows: Sequence[Mapping[str, Any]],
    told: Mapping[str, str],
    where: str,
    *,
    file_name: str,
    ours_alone: bool = False,
    paid_by: PaidBy | None = None,
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Return where each of our columns is found, and which of them were guessed.

    Args:
        rows: the first rows of the log.
        told: our name -> their name, from `--column`; an empty name: do not use such a column.
        where: the file, for messages.
        file_name: its last part; a number in it can tell the round.
        ours_alone: whether it is a record of ours, where names are known and nothing is guessed.
        paid_by: told the columns of TRL's log that may be reward functions, where there are several, it returns those
            that the policy was paid by, or raises `DataError` where that cannot be known.

    Raises:
        ConfigError: `told` names a column that we do not know.
        DataError: a column that was told or is needed is not there (the message has the nearest names), one of numbers
            holds keys and values, several may be one of ours, or one is both the reward and what judges it.
    """
    flat, shapes = _seen(rows)
    trl = set(TRL_OWN) <= flat.keys()

    def column(text: str) -> Column | None:
        names = [text] if text in flat else [part.strip() for part in text.split("+")]
        if not all(name in flat for name in names):
            return None
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"{where}: {shown(text)} has the column {shown(twice)} twice; name each column once")
        paths, kinds = tuple(flat[name] for name in names), tuple(shapes[name] for name in names)
        return Column(paths, kinds, text, abstain=trl)

    found: dict[str, Column] = {}
    for ours, theirs in told.items():
        if ours not in CANONICAL:
            raise ConfigError(f"column: {ours!r} is not one of {', '.join(CANONICAL)}{nearest(ours, CANONICAL)}")
        if theirs in ("", FROM_FILE_NAME):
            continue
        if (made := column(theirs)) is None:
            raise DataError(f"{where}: has no column {theirs!r}{nearest(theirs, flat)}; it has {listed(flat)}")
        found[ours] = made
    if ours_alone:
        names = {ours: name for ours, name in RECORDS.items() if ours not in told and name in flat}
    else:
        names = _guesses(rows, shapes, found, set(told), where)
        if trl and "reward" not in told and (paid := _paid_by(shapes, {**names, **told}, paid_by)):
            names["reward"] = paid
    guessed = {ours: made for ours, name in names.items() if (made := column(name))}
    found |= guessed
    if not ours_alone:
        guessed |= _parts(shapes, found, set(told))
        found |= guessed
        _check_apart(found, where)
        if not trl and "reward" not in {*found, *told}:
            _check_rewards([name for name, shape in shapes.items() if shape in ("number", "quoted")], found, where)
    _check_objects(found, list(flat), where)
    _check_needed(found, list(flat), where, file_name)
    return found, tuple(guessed)


def _seen(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, tuple[str, ...]], dict[str, Shape]]:
    """Return the path of every column, and what its values look like."""
    paths: dict[str, tuple[str, ...]] = {}
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, (path, value) in flattened(row).items():
            paths.setdefault(name, path)
            values.setdefault(name, []).append(value)
    return paths, {name: shape_of(own) for name, own in values.items()}


def _guesses(
    rows: Sequence[Mapping[str, Any]],
    shapes: Mapping[str, Shape],
    found: Mapping[str, Column],
    told: set[str],
    where: str,
) -> dict[str, str]:
    trl = set(TRL_OWN) <= shapes.keys()
    used = {name for column in found.values() for name in (column.name, *map(".".join, column.paths))}
    made: dict[str, str] = {}
    for ours in ALIASES:
        if ours in told or (trl and ours == "reward"):
            continue
        present = [name for name in keys_of(ours, shapes) if name not in used]
        fitting = [name for name in present if _suits(ours, shapes[name])]
        if not fitting and ours in JUDGED_BY:  # reading it names what is wrong with it
            fitting = present
        if fitting:
            if ours in JUDGED_BY:
                fitting = [name for name in fitting if shapes[name] != "nothing"] or fitting
                _check_choice(ours, fitting, rows, where)
            made[ours] = fitting[0]
            used.add(fitting[0])
    if made.get("prompt", "").lower() == "instruction" and "input" in shapes and "input" not in used:
        made["prompt"] += "+input"  # what an Alpaca instruction speaks of
    return made


def _check_choice(ours: str, fitting: Sequence[str], rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse to choose among columns that each may be one of ours, unless one has our own name or all are the same.

    Raises:
        DataError: they differ, with their names.
    """
    if len(fitting) == 1 or (ours != "label" and fitting[0].lower() == ours):
        return
    values = [[flattened(row).get(name, ((), None))[1] for row in rows] for name in fitting]
    if any(other != values[0] for other in values[1:]):
        raise DataError(
            f"{where}: {' and '.join(map(repr, fitting))} may each be the {ours}; say which, with --column"
            f" {ours}={written(fitting[0])} or another (--column {ours}= for none)"
        )


def passed_over(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Column], guessed: Collection[str]) -> list[str]:
    """Return, in words, which columns could each have been one of ours but for another that has its very name."""
    flat, shapes = _seen(rows)
    used = {path for column in found.values() for path in column.paths}
    said = []
    for ours in JUDGED_BY:
        if ours not in guessed or len(found[ours].paths) > 1 or found[ours].name.lower() != ours:
            continue
        values = {name: [flattened(row).get(name, ((), None))[1] for row in rows] for name in keys_of(ours, shapes)}
        own = values.get(found[ours].name)
        fitting = (name for name in values if flat[name] not in used and _suits(ours, shapes[name]))
        others = [name for name in fitting if shapes[name] != "nothing" and values[name] != own]
        if others:
            told = f"{listed(others)} may be it, too: --column {ours}={written(others[0])} takes that"
            said.append(f"The {ours} is the column {found[ours].name}; {told}.")
    return said


def _parts(shapes: Mapping[str, Shape], found: Mapping[str, Column], told: set[str]) -> dict[str, Column]:
    """Return prompt and response as the two parts of a whole exchange, where there is neither."""
    if {"prompt", "response"} & ({*found} | told):
        return {}
    lower = {name.lower(): name for name in shapes if shapes[name] == "messages"}
    name = next((lower[alias] for alias in CONVERSATIONS if alias in lower), None)
    if name is None:
        return {}
    parts: tuple[Literal["prompt", "response"], ...] = ("prompt", "response")
    return {part: Column(((name,),), ("messages",), name, part) for part in parts}


def _check_apart(found: Mapping[str, Column], where: str) -> None:
    """Refuse a column that is both the reward, or a part of it, and what says whether the reward is right."""
    for ours in ("utility", "label"):
        if {"reward", ours} <= found.keys() and (both := set(found["reward"].paths) & set(found[ours].paths)):
            name = written(".".join(min(both)))
            raise DataError(
                f"{where}: {name} is the {ours} and part of the reward, so that neither could be judged by the other;"
                f" leave it out of one of them, with --column reward=... or --column {ours}="
            )


def _check_rewards(names: Iterable[str], found: Mapping[str, Column], where: str) -> None:
    """Refuse a log of no reward where columns of numbers call themselves one."""
    used = {".".join(path) for column in found.values() for path in column.paths}
    if left := [written(name) for name in names if "reward" in name.lower() and name not in used]:
        raise DataError(
            f"{where}: {listed(left)} may be the reward or a part of it; say it with --column reward={left[0]}, or with"
            f" a sum such as --column reward={'+'.join([*left, 'NAME'][:2])} (--column reward= for none)"
        )


def _suits(ours: str, shape: Shape) -> bool:
    if ours in NUMBERS:
        return shape in ("number", "quoted", "truth", "mixed", "nothing")  # labels may begin after the first rows
    if ours == "response" or ours == "prompt":
        return shape != "truth"
    return shape in ("text", "number", "quoted", "mixed")


def _paid_by(shapes: Mapping[str, Shape], taken: Mapping[str, str], paid_by: PaidBy | None) -> str | None:
    """Return what TRL's reward is made of: the columns of numbers that it writes between its own, and nothing taken."""
    names = list(shapes)
    between = names[names.index("completion") + 1 : names.index("advantage")]
    used = {part.strip() for name in taken.values() for part in (name, *name.split("+"))}
    numbers = [n for n in between if shapes[n] in ("number", "nothing") and "." not in n and n not in used]
    if len(numbers) > 1 and paid_by is not None:
        numbers = list(paid_by(numbers))
    return "+".join(numbers) or None


def _check_objects(found: Mapping[str, Column], names: Sequence[str], where: str) -> None:
    for ours, column in found.items():
        if ours in NUMBERS and "object" in column.shapes:
            inner = next((name for name in names if name.startswith(f"{column.name}.")), f"{column.name}.KEY")
            raise DataError(
                f"{where}: {written(column.name)} holds several values; say which one is the {ours}, for example"
                f" --column {ours}={written(inner)} (--column {ours}= for none)"
            )


def _check_needed(found: Mapping[str, Column], names: Sequence[str], where: str, file_name: str) -> None:
    missing = []
    if "round" not in found and not NUMBER_OF_FILE.search(file_name):
        missing.append("round")
    if not {"reward", "utility", "label"} & set(found):
        missing.append("reward")
    if missing:
        hints = [f"--column {ours}={_nearest_alias(ours, names)}" for ours in missing]
        raise DataError(
            f"{where}: no column tells the {' or the '.join(missing)}; it has {listed(names)};"
            f" say which, for example {' '.join(hints)}"
        )


def _nearest_alias(ours: str, names: Sequence[str]) -> str:
    close = (difflib.get_close_matches(alias, names, n=1, cutoff=0.7) for alias in ALIASES[ours])
    inside = (name for name in names if set(re.split(r"[/ ]", name.lower())) & set(ALIASES[ours]))
    return written(next((found[0] for found in close if found), None) or next(inside, "NAME"))
