"""Which column of anybody's log means what (ours, told by flags, or guessed from its name), and its values as ours.

A name may be nested: `scores.rm` is the key `rm` inside the key `scores`. Several columns may make one:
`helpful+polite` is their sum, and `arm+gamma` puts two names side by side.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from foresighted.errors import ConfigError, DataError, nearest
from foresighted.store.aliases import ALIASES

NUMBERS = ("round", "reward", "utility", "label", "reference_reward", "kl", "tokens")
TEXTS = ("prompt", "prompt_id", "response", "kind", "run", "seed")
CANONICAL = (*NUMBERS, *TEXTS)
JUDGED_BY = ("reward", "utility", "label")
"""Columns without which an audit says less: none of them is passed over because its values are no numbers."""
MISSING = ("", "nan", "null", "none", "na", "n/a")
"""Words that stand for an absent number; upper and lower case count alike."""
RECORDS: Mapping[str, str] = {name: name for name in CANONICAL} | {"response": "text"}
"""What our columns are called in records of ours."""

FROM_FILE_NAME = "file name"
TRL_OWN = ("step", "prompt", "completion", "advantage")
"""What TRL writes besides one column a reward function."""
NUMBER_OF_FILE = re.compile(r"(\d+)(?!.*\d)")

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
    known = [value for value in values if not _missing(value)]
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


def number_of(value: Any) -> float | None:
    """Return a value as a number, also one in quotes, and None where it stands for nothing.

    Raises:
        TypeError, ValueError, OverflowError: it is no number.
    """
    if _missing(value):
        return None
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    return float(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def _is_number(text: str) -> bool:
    try:
        return number_of(text) is not None
    except ValueError:
        return False


def find_columns(
    rows: Sequence[Mapping[str, Any]], told: Mapping[str, str], where: str, *, file_name: str, ours_alone: bool = False
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Return where each of our columns is found, and which of them were guessed.

    Args:
        rows: the first rows of the log.
        told: our name -> their name, from `--column`; an empty name: do not use such a column.
        where: the file, for messages.
        file_name: its last part; a number in it can tell the round.
        ours_alone: whether it is a record of ours, where names are known and nothing is guessed.

    Raises:
        ConfigError: `told` names a column that we do not know.
        DataError: a column that was told or is needed is not there (the message has the nearest names), or one of
            numbers holds keys and values.
    """
    flat: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
    for row in rows:
        for name, item in flattened(row).items():
            flat.setdefault(name, []).append(item)
    shapes = {name: shape_of(value for _, value in items) for name, items in flat.items()}

    def column(text: str) -> Column | None:
        names = [text] if text in flat else [part.strip() for part in text.split("+")]
        if not all(name in flat for name in names):
            return None
        return Column(tuple(flat[name][0][0] for name in names), tuple(shapes[name] for name in names), text)

    found: dict[str, Column] = {}
    for ours, theirs in told.items():
        if ours not in CANONICAL:
            raise ConfigError(f"column: {ours!r} is not one of {', '.join(CANONICAL)}{nearest(ours, CANONICAL)}")
        if theirs in ("", FROM_FILE_NAME):
            continue
        if (made := column(theirs)) is None:
            raise DataError(f"{where}: has no column {theirs!r}{nearest(theirs, flat)}; it has {_listed(flat)}")
        found[ours] = made
    if ours_alone:
        names = {ours: name for ours, name in RECORDS.items() if ours not in told and name in flat}
    else:
        names = _guesses(shapes, found, set(told))
    guessed = {ours: made for ours, name in names.items() if (made := column(name))}
    found |= guessed
    _check_objects(found, list(flat), where)
    _check_needed(found, list(flat), where, file_name)
    return found, tuple(guessed)


def _guesses(shapes: Mapping[str, Shape], found: Mapping[str, Column], told: set[str]) -> dict[str, str]:
    lower = {name.lower(): name for name in reversed(list(shapes))}
    used = {column.name for column in found.values()}
    made: dict[str, str] = {}
    for ours, aliases in ALIASES.items():
        if ours in told:
            continue
        present = [lower[alias] for alias in aliases if alias in lower and lower[alias] not in used]
        fitting = [name for name in present if _suits(ours, shapes[name])]
        if not fitting and ours in JUDGED_BY:  # reading it names what is wrong with it
            fitting = present
        if fitting:
            made[ours] = fitting[0]
            used.add(fitting[0])
    if "reward" not in made and "reward" not in told and (functions := _trl_rewards(shapes)):
        made["reward"] = functions
    return made


def _suits(ours: str, shape: Shape) -> bool:
    if ours in NUMBERS:
        return shape in ("number", "quoted", "truth", "mixed", "nothing")  # labels may begin after the first rows
    if ours == "response" or ours == "prompt":
        return shape != "truth"
    return shape in ("text", "number", "quoted", "mixed")


def _trl_rewards(shapes: Mapping[str, Shape]) -> str | None:
    """Return TRL's reward functions as one sum: the columns of numbers between `completion` and `advantage`."""
    names = list(shapes)
    if not set(TRL_OWN) <= set(names):
        return None
    between = names[names.index("completion") + 1 : names.index("advantage")]
    numbers = [name for name in between if shapes[name] == "number" and "." not in name]
    return "+".join(numbers) or None


def _check_objects(found: Mapping[str, Column], names: Sequence[str], where: str) -> None:
    for ours, column in found.items():
        if ours in NUMBERS and "object" in column.shapes:
            inner = next((name for name in names if name.startswith(f"{column.name}.")), f"{column.name}.KEY")
            raise DataError(
                f"{where}: {column.name} holds several values; say which one is the {ours}, for example"
                f" --column {ours}={inner} (--column {ours}= for none)"
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
            f"{where}: no column tells the {' or the '.join(missing)}; it has {_listed(names)};"
            f" say which, for example {' '.join(hints)}"
        )


def _nearest_alias(ours: str, names: Sequence[str]) -> str:
    close = (difflib.get_close_matches(alias, names, n=1, cutoff=0.7) for alias in ALIASES[ours])
    return next((found[0] for found in close if found), "NAME")


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


Table = Mapping[str, pa.Array]
"""Canonical name -> array, all of one length."""


def canonical(table: pa.Table, columns: Mapping[str, Column]) -> Table:
    """Return the columns that are wanted under our names: numbers as doubles, texts as strings; several
    columns for one name are added up or put side by side.

    Raises:
        ArrowException: what is no number, in a column of numbers.
    """
    made = {}
    for ours, column in columns.items():
        arrays = [_at(table, path) for path in column.paths]
        made[ours] = reduce(pc.add, map(_numbers, arrays)) if ours in NUMBERS else _in_words(list(map(_texts, arrays)))
    return made


def _in_words(texts: list[pa.Array]) -> pa.Array:
    """Return several texts as one, with blanks between."""
    if len(texts) == 1:
        return texts[0]
    parts = [pc.fill_null(text, "") for text in texts]
    return pc.binary_join_element_wise(*parts, pa.scalar(" ", pa.large_string()))


def _at(table: pa.Table, path: tuple[str, ...]) -> pa.Array:
    array = table.column(path[0]).combine_chunks()
    for key in path[1:]:
        array = pc.struct_field(array, key)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _numbers(array: pa.Array) -> pa.Array:
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        lower = pc.utf8_trim_whitespace(pc.utf8_lower(array))
        lower = pc.if_else(pc.is_in(lower, pa.array(MISSING, lower.type)), pa.scalar(None, lower.type), lower)
        truth = pc.case_when(
            pc.make_struct(pc.equal(lower, "true"), pc.equal(lower, "false")), pa.scalar("1"), pa.scalar("0"), lower
        )
        return pc.cast(truth, pa.float64())
    return pc.cast(array, pa.float64(), safe=False)


def _texts(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if pa.types.is_struct(kind.value_type) and kind.value_type.get_field_index("content") >= 0:
            inner = pc.struct_field(array.values, "content")
            if pa.types.is_string(inner.type) or pa.types.is_large_string(inner.type):
                return pc.cast(_joined(array, inner), pa.large_string())
        return pa.array([as_text(value) for value in array.to_pylist()], pa.large_string())
    if pa.types.is_floating(kind):
        seen = pc.unique(array.drop_null()).to_pylist()
        if all(math.isnan(value) or float(value).is_integer() for value in seen):
            array = pc.cast(array, pa.int64())
    try:
        return pc.cast(array, pa.large_string())
    except pa.ArrowException:  # nested values, bytes that are no UTF-8
        return pa.array([as_text(value) for value in array.to_pylist()], pa.large_string())


def _joined(array: pa.Array, inner: pa.Array) -> pa.Array:
    """Return chat messages as one text each, their contents on lines of their own."""
    kind = pa.LargeListArray if pa.types.is_large_list(array.type) else pa.ListArray
    lists = kind.from_arrays(array.offsets, pc.fill_null(pc.cast(inner, pa.string()), ""))
    return pc.binary_join(lists, pa.scalar("\n", pa.string()))


def as_text(value: Any) -> str | None:
    """Return a JSON value as text: chat messages as their contents, whole numbers without a point, None as None."""
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return "\n".join(as_text(item.get("content")) or as_text(item.get("text")) or "" for item in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    return text.encode("utf-8", "replace").decode()  # JSON allows a lone surrogate, Arrow does not


def _plain(value: Any) -> str:
    """Return what JSON does not know, such as a date or bytes, as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
