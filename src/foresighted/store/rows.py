"""Rows in files, JSON and dataclasses: written, appended, read back with their types checked.

A line that is not what it should be is named with its file, its number and the value that does not belong there.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from foresighted.errors import DataError, NumericalError
from foresighted.inputs import regular
from foresighted.store import files
from foresighted.store.formats import MARK, parsed

NULL = "null"
"""Key in the metadata of a dataclass's field of floats: the number that `null` stands for there, an infinite one that
JSON has no word for."""
SPARSE = {"sparse": True}
"""Metadata of a row's field that is written where it is not what it is by default."""
_SHOWN = 60  # characters of a value in a message

Row = TypeVar("Row")


def to_line(row: Any) -> str:
    """Return a record as one line of JSON.

    Raises:
        NumericalError: a float that is not finite, which never comes into a file; names the column.
    """
    mapping = row if isinstance(row, Mapping) else _written(row)
    for name, value in mapping.items():
        if isinstance(value, float) and not math.isfinite(value):
            where = f"round {mapping['round']}: " if "round" in mapping else ""
            raise NumericalError(f"{where}{name} is {value}; lower gamma or a learning rate, and choose another --out")
    return json.dumps(mapping, ensure_ascii=False, allow_nan=False) + "\n"


def _written(row: Any) -> dict[str, Any]:
    left = {item.name for item in fields(row) if "sparse" in item.metadata and getattr(row, item.name) == item.default}
    return {name: value for name, value in asdict(row).items() if name not in left}


def append(path: Path, rows: Iterable[Any]) -> None:
    """Append rows to a file as whole lines, flushed to the disk before returning."""
    files.append(path, "".join(map(to_line, rows)))


def write(path: Path, rows: Iterable[Any]) -> None:
    """Write a file of rows, whole or not at all."""
    files.write(path, "".join(map(to_line, rows)))


def plain(value: Any) -> Any:
    """Return dataclasses and what they hold as plain JSON values; a number that is not finite becomes None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a dataclass or a mapping as JSON, whole or not at all."""
    files.write(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(
    path: Path,
    kind: type[Row],
    *,
    what: str,
    again: str,
    earlier: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> Row:
    """Read what `write_json` wrote.

    Messages call its content `what` and end with `again`, what to do where the file is no such thing; `earlier` knows
    what an earlier version wrote.

    Raises:
        DataError: it cannot be read, is not JSON, or lacks something, with the place of the fault.
    """
    try:
        value = parsed(regular(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {again}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); {again}") from None
    try:
        return decode(value, kind, what)
    except DataError as error:
        if isinstance(value, Mapping) and earlier(value):
            raise DataError(f"{path}: of an earlier version of foresighted; {again}") from None
        raise DataError(f"{path}: damaged ({error}); {again}") from None


_SEAL = "seal"
"""Key of the SHA-256 of all that follows its line in a sealed file."""


def write_sealed(path: Path, value: Any) -> None:
    """Write a dataclass or a mapping as `write_json` does, with a hash of itself, whole or not at all."""
    body = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)[1:] + "\n"
    files.write(path, f'{{\n "{_SEAL}": "{_seal(body.encode("utf-8", "replace"))}",{body}')


def read_sealed(path: Path, kind: type[Row], *, what: str, again: str, since: str) -> tuple[Row, bool]:
    """Read what `write_sealed` wrote; messages as those of `read_json`.

    Args:
        path: the file.
        kind: what it holds.
        what: the name of that in messages.
        again: what to do where it is damaged.
        since: a key that every sealed file has: without both, an earlier version wrote it.

    Returns:
        What it holds, and whether it is sealed.

    Raises:
        DataError: it cannot be read, or is not as it was written.
    """
    row = read_json(path, kind, what=what, again=again)
    data = path.read_bytes()
    head, _, body = data.partition(b",")
    found = re.fullmatch(rb'\{\n "seal": "([0-9a-f]{64})"', head)
    if found is not None and found[1].decode() == _seal(body):
        return row, True
    keys = json.loads(data).keys()
    if found is None and _SEAL not in keys and since not in keys:
        return row, False
    raise DataError(f"{path}: damaged (its content does not fit its seal); {again}")


def _seal(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def read_mappings(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file of ours as `numbered` does, without the numbers."""
    return [row for _, row in numbered(path)]


def object_of(line: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a line; raises `DataError` with the reason where it holds none."""
    told = "it holds another value"
    try:
        row = parsed(line)
    except ValueError as error:
        row, told = None, str(error)
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object ({told}); restore the file, or mend or remove this line")
    return row


def numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read a JSONL file of ours: JSON objects, each with the number of its line.

    Lines end in a newline and in nothing else that Unicode calls a line's end, every whole one: what follows the last
    newline is torn (a process died while writing) and is left out. A byte-order mark is passed over.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object in UTF-8.
    """
    try:
        lines = regular(path).read_bytes().removeprefix(MARK).split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); is the path right?") from None
    found = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [(number, object_of(line, f"{path}, line {number}")) for number, line in found]


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Read a record file as rows of `kind`; columns that a later version added are passed over, those that an earlier
    one did not have yet take their default.

    Raises:
        DataError: a line lacks a column that `kind` has, or a value is of another type or not finite, with its line.
    """
    return [decode(row, kind, f"{path}, line {number}") for number, row in numbered(path)]


def decode(mapping: Any, kind: type[Row], where: str) -> Row:
    """Return a JSON object as a dataclass, everything inside it included.

    Types are those of the annotations: numbers (finite, unless the field's metadata says what `null` stands for), text,
    `Literal`, enums, dataclasses, tuples, lists, mappings, and unions of these with None.

    Keys that it does not have are passed over, fields that are missing take their default, messages begin with `where`.

    Raises:
        DataError: a field is missing, or a value is not of its type.
    """
    made: Row = _dataclass(mapping, kind, f"{where}: ", "")
    return made


@lru_cache(maxsize=256)
def _columns(kind: type) -> tuple[tuple[Field[Any], Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field, hints[field.name]) for field in fields(kind) if field.init)


def _dataclass(value: Any, kind: type, where: str, at: str) -> Any:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}{at or kind.__name__} is {repr(value)[:_SHOWN]}; expected an object")
    columns = _columns(kind)
    missing = [f.name for f, _ in columns if f.name not in value and f.default is f.default_factory is MISSING]
    if missing:
        raise DataError(f"{where}{at + ' ' if at else ''}lacks {', '.join(missing)}; a {kind.__name__} needs them")
    values = {}
    for field, hint in columns:
        if field.name in value:
            item = value[field.name]
            known = item is None and NULL in field.metadata
            inside = f"{at}.{field.name}" if at else field.name
            values[field.name] = field.metadata[NULL] if known else _value(item, hint, where, inside)
    return kind(**values)


def _value(value: Any, hint: Any, where: str, at: str) -> Any:
    """Return a JSON value as the type `hint`; `where` and `at` say where it stands."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        for part in parts:
            if isinstance(value, list | Mapping) == _holds(part):
                return _value(value, part, where, at) if _holds(part) else _scalar(value, hint, f"{where}{at}")
    elif isinstance(hint, type) and is_dataclass(hint):
        return _dataclass(value, hint, where, at)
    elif origin in (tuple, list) and isinstance(value, list):
        return origin(_value(item, parts[0], where, f"{at}[{i}]") for i, item in enumerate(value))
    elif origin in (dict, abc.Mapping) and isinstance(value, Mapping):
        return {str(key): _value(item, parts[1], where, f"{at}.{key}") for key, item in value.items()}
    return _scalar(value, hint, f"{where}{at}")


def _holds(hint: Any) -> bool:
    """Return whether values of a type hold others."""
    return (isinstance(hint, type) and is_dataclass(hint)) or get_origin(hint) in (tuple, list, dict, abc.Mapping)


def _scalar(value: Any, hint: Any, where: str) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        known = {Literal: get_args(kind), Any: (value,)}.get(get_origin(kind) or kind, ())
        if any(type(one) is type(value) and one == value for one in known):
            return value
        if kind is float and _finite(value):
            return float(value)
        if isinstance(kind, type) and issubclass(kind, Enum) and value in [one.value for one in kind]:
            return kind(value)
        if isinstance(kind, type) and kind is not float and type(value) is kind:
            return value
    raise DataError(f"{where} is {repr(value)[:_SHOWN]}; expected {_described(hint)}")


def _finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_described, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(one.value) for one in hint)
    names = {
        int: "a whole number", float: "a finite number", str: "text", bool: "true or false", type(None): "null",
    }  # fmt: skip
    return names.get(hint) or ("a list" if get_origin(hint) in (tuple, list) else "an object")
