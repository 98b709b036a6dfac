"""Anybody's logs as tables of canonical columns: JSON lines, CSV and Parquet, in blocks, through pyarrow.

A block that pyarrow refuses is read again line by line, or row by row: either its values can be used after all (a
column of numbers with some in quotes), or the line that cannot is named.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json
from pyarrow import parquet

from foresighted.errors import DataError
from foresighted.inputs import regular
from foresighted.store.columns import MISSING, NUMBERS, Column, Table, as_text, canonical, flattened, number_of
from foresighted.store.rows import object_of

Format = Literal["jsonl", "csv", "parquet"]
SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
}  # fmt: skip
BLOCK_BYTES = 16 << 20
BATCH_ROWS = 65536
LONGEST_LINE = 4 << 20
"""Bytes of a line that pyarrow takes; a block with a longer one is read line by line."""
PEEKED_ROWS = 200
_DAMAGED = (OSError, EOFError, zlib.error)


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

    @property
    def format(self) -> Format:
        """How it is written, by its name.

        Raises:
            DataError: the name ends in none of the known ways.
        """
        suffix = Path(self.plain_name).suffix.lower()
        if suffix not in SUFFIXES or (suffix == ".parquet" and self.path.suffix == ".gz"):
            raise DataError(
                f"{self.path}: not a kind of file that is read here; expected .jsonl, .csv or .parquet"
                " (.gz too for text), or a directory of them"
            )
        return SUFFIXES[suffix]


def peek(part: Part) -> list[dict[str, Any]]:
    """Return the first rows of a file, for finding its columns; none where it is empty.

    Raises:
        DataError: it cannot be read, or its first lines are not what its name says.
    """
    try:
        if part.format == "parquet":
            return _peek_parquet(part)
        return _peek_csv(part) if part.format == "csv" else _peek_jsonl(part)
    except _DAMAGED as error:
        raise _unreadable(part, error) from None


def read_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    """Return the file's rows in blocks, each as canonical name -> array and its number of rows.

    Raises:
        DataError: a line that cannot be read, or a value of the wrong type; with its line number where there are lines.
    """
    readers = {"jsonl": _jsonl_tables, "csv": _csv_tables, "parquet": _parquet_tables}
    try:
        yield from readers[part.format](part, columns)
    except _DAMAGED as error:
        raise _unreadable(part, error) from None


def _unreadable(part: Part, error: Exception) -> DataError:
    told = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return DataError(f"{part.path}: cannot be read ({told}); check the path and that the file is whole")


def _open(part: Part) -> Any:
    regular(part.path, most=None)
    return gzip.open(part.path, "rb") if part.path.suffix == ".gz" else part.path.open("rb")


# JSON lines


def _peek_jsonl(part: Part) -> list[dict[str, Any]]:
    rows = []
    with _open(part) as file:
        for number, line in enumerate(itertools.islice(file, PEEKED_ROWS), start=1):
            if number == 1 and line.lstrip()[:1] == b"[":
                raise DataError(f"{part.path}: one JSON array; write one object a line (jq -c '.[]' FILE > FILE.jsonl)")
            if not line.endswith(b"\n") and not _whole(line):
                break
            if line.strip() and (row := object_of(line, f"{part.path}, line {number}")):
                rows.append(row)
    return rows


def _whole(line: bytes) -> bool:
    """Whether the last line, which no newline ends, is JSON: a process may have died while it wrote."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _jsonl_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    options = _json_options(columns)
    number, rest = 1, b""
    with _open(part) as file:
        while True:
            data = file.read(BLOCK_BYTES)
            block = rest + data
            if data:
                cut = block.rfind(b"\n") + 1
                block, rest = block[:cut], block[cut:]
            else:
                last = block[block.rfind(b"\n") + 1 :]
                block = block if _whole(last) else block[: len(block) - len(last)]
            if block.strip():
                yield _json_block(block, part, number, columns, options)
            number += block.count(b"\n")
            if not data:
                return


def _json_block(
    block: bytes, part: Part, number: int, columns: Mapping[str, Column], options: Any
) -> tuple[Table, int]:
    try:
        table = arrow_json.read_json(pa.py_buffer(block), arrow_json.ReadOptions(block_size=LONGEST_LINE), options)
        return canonical(table, columns), table.num_rows
    except pa.ArrowException:  # line by line
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
    messages = pa.list_(pa.struct([("content", text)]))
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
    if ours not in NUMBERS:
        return as_text(found[0]) if len(found) == 1 else " ".join(as_text(value) or "" for value in found)
    total = 0.0
    for value in found:
        try:
            known = number_of(value)
        except (TypeError, ValueError, OverflowError):
            raise _no_number(where, column.name, value, ours) from None
        if known is None:
            return None
        total += known
    return total


def _no_number(where: str, name: str, value: Any, ours: str) -> DataError:
    return DataError(
        f"{where}: {name} is {_short(value)}, expected a number; mend it, or take another column with"
        f" --column {ours}=NAME (--column {ours}= for none)"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


# CSV


def _delimiter(part: Part) -> str:
    return "\t" if part.plain_name.lower().endswith(".tsv") else ","


def _csv_rows(part: Part) -> Iterator[tuple[int, list[str]]]:
    """Return the records of a CSV file with the line that each ends on, the header first."""
    with io.TextIOWrapper(_open(part), encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=_delimiter(part))
        try:
            for row in reader:
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            told = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise DataError(f"{part.path}, near line {reader.line_num + 1}: {told}; mend the file") from None


def _peek_csv(part: Part) -> list[dict[str, Any]]:
    rows = _csv_rows(part)
    _, header = next(rows, (0, []))
    seen = []
    for line, row in itertools.islice(rows, PEEKED_ROWS):
        if row and len(row) != len(header):
            raise DataError(f"{part.path}, line {line}: has {len(row)} fields, the header has {len(header)}")
        seen.append({name: _guessed(text) for name, text in zip(header, row, strict=False)})
    return seen


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
    reading = arrow_csv.ReadOptions(block_size=BLOCK_BYTES)
    parsing = arrow_csv.ParseOptions(delimiter=_delimiter(part), newlines_in_values=True)
    converting = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=["NaN", *(form for word in MISSING for form in (word, word.upper(), word.title()))],
    )
    compression = "gzip" if part.path.suffix == ".gz" else None
    try:
        with pa.input_stream(str(part.path), compression=compression) as stream:
            for batch in arrow_csv.open_csv(stream, reading, parsing, converting):
                table = pa.Table.from_batches([batch])
                yield canonical(table, columns), table.num_rows
    except pa.ArrowException as error:
        raise _csv_fault(part, columns, error) from None


def _csv_fault(part: Part, columns: Mapping[str, Column], error: Exception) -> DataError:
    """Name the first line that is at fault; pyarrow's own words where none is found."""
    rows = _csv_rows(part)
    _, header = next(rows, (0, []))
    numbers = [(ours, header.index(path[-1])) for ours, c in columns.items() if ours in NUMBERS for path in c.paths]
    for line, row in rows:
        if not row:
            continue
        if len(row) != len(header):
            return DataError(f"{part.path}, line {line}: has {len(row)} fields, the header has {len(header)}")
        for ours, place in numbers:
            if isinstance(_guessed(row[place]), str):
                return _no_number(f"{part.path}, line {line}", header[place], row[place], ours)
    return DataError(f"{part.path}: not CSV that can be read ({str(error).splitlines()[0]})")


# Parquet


def _peek_parquet(part: Part) -> list[dict[str, Any]]:
    try:
        with parquet.ParquetFile(regular(part.path, most=None)) as file:
            for batch in file.iter_batches(batch_size=PEEKED_ROWS):
                rows: list[dict[str, Any]] = batch.to_pylist()
                return rows
    except pa.ArrowException as error:
        raise _unreadable(part, error) from None
    return []


def _parquet_tables(part: Part, columns: Mapping[str, Column]) -> Iterator[tuple[Table, int]]:
    tops = list(dict.fromkeys(path[0] for column in columns.values() for path in column.paths))
    try:
        with parquet.ParquetFile(regular(part.path, most=None)) as file:
            row = 1
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=tops):
                yield _parquet_batch(batch, part, row, columns)
                row += batch.num_rows
    except pa.ArrowException as error:
        raise _unreadable(part, error) from None


def _parquet_batch(batch: Any, part: Part, first: int, columns: Mapping[str, Column]) -> tuple[Table, int]:
    try:
        return canonical(pa.Table.from_batches([batch]), columns), batch.num_rows
    except pa.ArrowException:
        rows = enumerate(batch.to_pylist(), start=first)
        return _by_row(((f"{part.path}, row {number}", row) for number, row in rows), columns)
