"""Anybody's logs as tables of canonical columns, in blocks: JSON lines, CSV and Parquet through pyarrow.

A block that pyarrow refuses is read again line by line, or row by row: either its values can be used after all (a
column of numbers with some in quotes), or the line that cannot is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json

from foresighted.errors import DataError
from foresighted.store import formats
from foresighted.store.aliases import written
from foresighted.store.columns import NUMBERS, Column, flattened
from foresighted.store.exchanges import MISSING, number_of, parts_of
from foresighted.store.foreign import batches, first, header_of, in_python, rows_as, whole
from foresighted.store.formats import EXPECTED, MARK, Format, format_of, opened, readable, told_by
from foresighted.store.rows import object_of
from foresighted.store.values import Table, as_text, canonical

BLOCK_BYTES = 16 << 20
BATCH_ROWS = 65536
LONGEST_LINE = 4 << 20
"""Bytes of a line that pyarrow takes; a block with a longer one is read line by line."""
PEEKED_ROWS = 200


@dataclass(frozen=True)
class Part:
    """One file, and what its place says of its rows."""

    path: Path
    run: str
    seed: str = "0"
    round: int | None = None
    """Round of all its rows, where no column tells it."""

    @property
    def plain_name(self) -> str:
        """The file's name without `.gz`."""
        return self.path.name.removesuffix(".gz")

    @cached_property
    def format(self) -> Format:
        """How it is written, by its content.

        Raises:
            DataError: it is no table of any kind that is known.
        """
        found = format_of(self.path)
        if found.kind == "text" and peeked(self.path, found):
            raise DataError(f"{self.path}: text, no table; {EXPECTED}, or a directory of them")
        return found


def peeked(path: Path, found: Format) -> bytes:
    """Return the first bytes of a file, blanks aside."""
    with readable(path), opened(path, found.packed) as file:
        return file.read(PEEKED_ROWS).removeprefix(MARK).strip()


def peek(part: Part) -> list[Mapping[str, Any]]:
    """Return the first rows of a file, for finding its columns; none where it is empty.

    Raises:
        DataError: it cannot be read, or its first lines are not what they begin as.
    """
    if part.format.kind == "text":
        return []
    rows = first(rows_as(part.path, part.format, torn=True), PEEKED_ROWS)
    if part.format.kind != "csv":
        return rows
    return [{name: _guessed(text) for name, text in row.items()} for row in rows]


def read_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    """Return the file's rows in blocks, each as canonical name -> array and its number of rows.

    Raises:
        DataError: a line that cannot be read, or a value of the wrong type; with its line number where there are lines.
    """
    readers = {"jsonl": _jsonl_tables, "csv": _csv_tables, "parquet": _parquet_tables}
    with readable(part.path):
        yield from readers.get(part.format.kind, _row_tables)(part, columns)


def _row_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    rows = ((row.where, row.values) for row in rows_as(part.path, part.format, torn=True))
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        yield _by_row(block, columns)


# JSON lines


def _jsonl_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    options = _json_options(columns)
    number, rest = 1, b""
    with opened(part.path, part.format.packed) as file:
        while True:
            data = file.read(BLOCK_BYTES)
            block = rest + data
            if data:
                cut = block.rfind(b"\n") + 1
                block, rest = block[:cut], block[cut:]
                if len(rest) >= formats.LONGEST_LINE:
                    raise formats.too_long(part.path, number + block.count(b"\n"))
            else:
                last = block[block.rfind(b"\n") + 1 :]
                block = block if whole(last) else block[: len(block) - len(last)]
            block = block.removeprefix(MARK) if number == 1 else block
            if block.strip():
                yield _json_block(block, part, number, columns, options)
            number += block.count(b"\n")
            if not data:
                return


def _json_block(
    block: bytes, part: Part, number: int, columns: Mapping[str, Column], options: Any
) -> tuple[Table, int]:
    try:
        block.decode()  # Arrow does not look
        table = arrow_json.read_json(pa.py_buffer(block), arrow_json.ReadOptions(block_size=LONGEST_LINE), options)
        return canonical(table, columns), table.num_rows
    except (pa.ArrowException, UnicodeDecodeError):  # line by line
        lines = ((f"{part.path}, line {at}", line) for at, line in enumerate(block.split(b"\n"), start=number))
        return _by_row(((where, object_of(line, where)) for where, line in lines if line.strip()), columns)


def _json_options(columns: Mapping[str, Column]) -> Any:
    """Return parse options with the type of every column that is wanted; everything else is passed over."""
    types: dict[str, Any] = {}
    for ours, column in columns.items():
        for path, shape in zip(column.paths, column.shapes, strict=True):
            at = types
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[path[-1]] = _arrow_type(ours, shape)
    schema = pa.schema([pa.field(name, _struct(kind)) for name, kind in types.items()])
    return arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")


def _struct(kind: Any) -> Any:
    return pa.struct([(name, _struct(inner)) for name, inner in kind.items()]) if isinstance(kind, dict) else kind


def _arrow_type(ours: str, shape: str) -> Any:
    text = pa.large_string()
    messages = pa.list_(pa.struct([(name, text) for name in ("role", "content", "from", "value")]))
    known = {"messages": messages, "number": pa.float64(), "truth": pa.bool_(), "text": text, "quoted": text}
    return known.get(shape, pa.float64() if ours in NUMBERS else text)


def _by_row(named: Iterable[tuple[str, Mapping[str, Any]]], columns: Mapping[str, Column]) -> tuple[Table, int]:
    """Return rows, each with its place in words, as `canonical` would; name the first that cannot be used."""
    values: dict[str, list[Any]] = {ours: [] for ours in columns}
    rows = 0
    for where, row in named:
        rows += 1
        flat = flattened(row)
        for ours, column in columns.items():
            found = [flat.get(".".join(path), (path, None))[1] for path in column.paths]
            values[ours].append(_value(ours, found, column, where))
    types = {ours: pa.float64() if ours in NUMBERS else pa.large_string() for ours in columns}
    return {ours: pa.array(values[ours], types[ours]) for ours in columns}, rows


def _value(ours: str, found: list[Any], column: Column, where: str) -> float | str | None:
    if column.part is not None:
        return as_text(getattr(parts_of(found[0]), column.part))
    if ours not in NUMBERS:
        return as_text(found[0]) if len(found) == 1 else " ".join(as_text(value) or "" for value in found)
    known = []
    for value in found:
        try:
            known.append(number_of(value))
        except (TypeError, ValueError, OverflowError):
            raise _no_number(where, column.name, value, ours) from None
    told = [number for number in known if number is not None and not math.isnan(number)]
    return sum(told) if told and (column.abstain or len(told) == len(known)) else None


def _no_number(where: str, name: str, value: Any, ours: str) -> DataError:
    return DataError(
        f"{where}: {written(name)} is {_short(value)}, expected a number; mend it, or take another column with"
        f" --column {ours}=NAME (--column {ours}= for none)"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


# CSV


def _guessed(text: str) -> Any:
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return number_of(text)
    except ValueError:
        return text


def _csv_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    types = {
        path[-1]: pa.float64() if ours in NUMBERS and shape in ("number", "nothing") else pa.large_string()
        for ours, column in columns.items()
        for path, shape in zip(column.paths, column.shapes, strict=True)
    }
    names, lines = header_of(part.path, part.format)
    reading = arrow_csv.ReadOptions(block_size=BLOCK_BYTES, column_names=names, skip_rows=lines)
    parsing = arrow_csv.ParseOptions(delimiter=part.format.delimiter, newlines_in_values=True)
    converting = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=["NaN", *(form for word in MISSING for form in (word, word.upper(), word.title()))],
    )
    compression = "gzip" if part.format.packed else None
    try:
        with pa.input_stream(str(part.path), compression=compression) as stream:
            for batch in arrow_csv.open_csv(stream, reading, parsing, converting):
                table = pa.Table.from_batches([batch])
                yield canonical(table, columns), table.num_rows
    except pa.ArrowException as error:
        raise _csv_fault(part, columns, error) from None


def _csv_fault(part: Part, columns: Mapping[str, Column], error: Exception) -> DataError:
    """Name the first line that is at fault; pyarrow's own words where none is found."""
    numbers = [(ours, path[-1]) for ours, c in columns.items() if ours in NUMBERS for path in c.paths]
    for row in rows_as(part.path, part.format):
        for ours, name in numbers:
            if isinstance(_guessed(row.values[name]), str):
                return _no_number(row.where, name, row.values[name], ours)
    return DataError(f"{part.path}: not CSV that can be read ({told_by(error)})")


# Parquet


def _parquet_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    tops = list(dict.fromkeys(path[0] for column in columns.values() for path in column.paths))
    row = 1
    for batch in batches(part.path, part.format, BATCH_ROWS, tops):
        yield _parquet_batch(batch, part, row, columns)
        row += batch.num_rows


def _parquet_batch(batch: Any, part: Part, start: int, columns: Mapping[str, Column]) -> tuple[Table, int]:
    try:
        return canonical(pa.Table.from_batches([batch]), columns), batch.num_rows
    except (pa.ArrowException, ValueError, OverflowError):
        rows = enumerate(in_python(part.path, batch), start=start)
        return _by_row(((f"{part.path}, row {number}", row) for number, row in rows), columns)
