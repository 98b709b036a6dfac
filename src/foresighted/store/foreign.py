"""Rows of anybody's files, whatever they are written in: one reader for prompts, answers, judgements and logs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from foresighted.errors import DataError
from foresighted.store.aliases import key_of
from foresighted.store.formats import (
    EXPECTED,
    LARGEST_DOCUMENT,
    MARK,
    Format,
    columns_of,
    format_of,
    lines_of,
    opened,
    parsed,
    readable,
    rows_in,
    suffix_of,
    told_by,
)
from foresighted.store.rows import object_of

BATCH_ROWS = 4096
_TEXTS = ("", ".txt", ".text")
csv.field_size_limit(1 << 30)  # the library's own limit is 128 KiB a cell


class Row(NamedTuple):
    """One row, and where it stands."""

    where: str
    """File and place, for messages."""
    place: int
    """Line, or row where a file has no lines."""
    values: dict[str, Any]


def rows_of(path: Path, *, lines: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file.

    Args:
        path: JSON lines, a JSON array or known export, CSV with any usual separator, or Parquet; gzip of each.
        lines: column that the lines of a plain text (`.txt`, or a name without an end) fill; None: text is no table.

    Raises:
        DataError: unreadable, something else, or a line that is none, with its number and what is wrong with it.
    """
    found = format_of(path)
    if found.kind != "text":
        yield from rows_as(path, found)
        return
    numbered = list(_text(path, found))
    _check_no_table(path, [line for _, line in numbered])
    if numbered and (lines is None or suffix_of(path) not in _TEXTS):
        also = "" if lines is None else ", or one a line in a file that ends in .txt"
        raise DataError(f"{path}: begins with {numbered[0][1][:40]!r}, which is no row of a table; {EXPECTED}{also}")
    for number, line in numbered:
        where = f"{path}, line {number}"
        if lines is not None:
            _check_text(where, line, lines)
            yield Row(where, number, {lines: line})


def rows_as(path: Path, found: Format, *, torn: bool = False) -> Iterator[Row]:
    """Yield the rows of a file that is known to be JSON, CSV or Parquet.

    Args:
        path: the file.
        found: what `format_of` says.
        torn: pass over a last line of JSON that no newline ends and that is none: its writer died, or goes on.

    Raises:
        DataError: as `rows_of`.
    """
    read = {"json": _document, "csv": _table, "parquet": _parquet}.get(found.kind)
    with readable(path):
        yield from read(path, found) if read else _json_lines(path, found, torn)


def _json_lines(path: Path, found: Format, torn: bool) -> Iterator[Row]:
    with opened(path, found.packed) as file:
        for number, line in enumerate(lines_of(path, file), start=1):
            text = line.removeprefix(MARK) if number == 1 else line
            if not text.strip():
                continue
            where = f"{path}, line {number}"
            if torn and not text.endswith(b"\n") and not whole(text):
                return
            row = object_of(text, where)
            for one in (columns_of(row) or [row]) if found.kind == "batches" else [row]:
                yield Row(where, number, one)


def whole(line: bytes) -> bool:
    """Return whether the last line, which no newline ends, is JSON: a process may have died while it wrote."""
    try:
        parsed(line)
    except ValueError:
        return False
    return True


def _document(path: Path, found: Format) -> Iterator[Row]:
    with opened(path, found.packed) as file:
        data = file.read(LARGEST_DOCUMENT + 1)
    if len(data) > LARGEST_DOCUMENT:
        raise DataError(f"{path}: a JSON document of more than 1 GiB; write one object a line (jq -c '.[]')")
    try:
        rows = rows_in(parsed(data.removeprefix(MARK)))
    except ValueError as error:
        raise DataError(f"{path}: not whole JSON ({error}); {EXPECTED}") from None
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            row = {"prompt": row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            raise DataError(f"{where}: {str(row)[:40]!r} is no object with keys; {EXPECTED}")
        yield Row(where, number, row)


def header_of(path: Path, found: Format) -> tuple[list[str], int]:
    """Return the names in a table's first line, and how many lines it takes."""
    with readable(path):
        number, names = next(_records(path, found), (0, []))
    return names, number


def _table(path: Path, found: Format) -> Iterator[Row]:
    records = _records(path, found)
    _, names = next(records, (0, []))
    for number, cells in records:
        yield Row(f"{path}, line {number}", number, dict(zip(names, cells, strict=True)))


def _records(path: Path, found: Format) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a table with the line that each ends on, the header first; all have as many cells."""
    names: list[str] | None = None
    with io.TextIOWrapper(opened(path, found.packed), encoding="utf-8-sig", newline="") as file:
        for _ in range(found.skipped):
            file.readline()
        reader = csv.reader(file, delimiter=found.delimiter, strict=True)
        try:
            for cells in reader:
                number = reader.line_num + found.skipped
                if not cells:
                    continue
                if names is None:
                    cells = names = [cell.strip() for cell in cells]
                    _check_names(path, names, number)
                elif len(cells) != len(names):
                    raise DataError(
                        f"{path}, line {number}: has {len(cells)} fields, the header has {len(names)}; is a separator"
                        f" ({_named(found.delimiter)}) not quoted, or the line torn?"
                    )
                yield number, cells
        except (csv.Error, UnicodeDecodeError) as error:
            told = "not UTF-8 text; save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else told_by(error)
            near = reader.line_num + found.skipped + 1
            raise DataError(f"{path}, near line {near}: not CSV that can be read ({told}); mend the file") from None


def _check_names(path: Path, names: list[str], number: int) -> None:
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise DataError(f"{path}, line {number}: the column {twice[0]!r} stands twice; rename or remove one")


def _named(delimiter: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}.get(delimiter, repr(delimiter))


def _parquet(path: Path, found: Format) -> Iterator[Row]:
    rows = (row for batch in batches(path, found, BATCH_ROWS) for row in in_python(path, batch))
    for number, row in enumerate(rows, start=1):
        yield Row(f"{path}, row {number}", number, row)


def batches(path: Path, found: Format, size: int, columns: list[str] | None = None) -> Iterator[Any]:
    """Yield a Parquet file's record batches.

    Raises:
        DataError: it is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with readable(path):
            source = path
            if found.packed:
                with opened(path, True) as packed:
                    source = pa.BufferReader(packed.read())
            with parquet.ParquetFile(source) as file:
                yield from file.iter_batches(batch_size=size, columns=columns)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise _damaged(path, error) from None


def in_python(path: Path, batch: Any) -> list[dict[str, Any]]:
    """Return a batch's rows as plain values; raises `DataError` where one cannot be."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError, TypeError) as error:  # dates of the year 30000, text that is no UTF-8
        raise _damaged(path, error) from None
    return rows


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({told_by(error)}); check the path and that the file is whole")


def _text(path: Path, found: Format) -> Iterator[tuple[int, str]]:
    with readable(path), opened(path, found.packed) as file:
        for number, line in enumerate(lines_of(path, file), start=1):
            try:
                text = line.removeprefix(MARK if number == 1 else b"").decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                raise DataError(f"{path}, line {number}: not UTF-8 text; save the file as UTF-8") from None
            if text.strip():
                yield number, text


def _check_no_table(path: Path, lines: list[str]) -> None:
    """Refuse lines that a separator parts alike, as it does in a table whose header has no name that is known."""
    for delimiter in "\t;|,":
        counts = {line.count(delimiter) for line in lines}
        enough = len(lines) > (1 if delimiter != "," else 3)
        short = all(len(cell.split()) < 4 for cell in lines[0].split(delimiter)) if lines else False
        if enough and short and len(counts) == 1 and counts != {0}:
            raise DataError(
                f"{path}: a table ({_named(delimiter)} between its columns) without a column that is known; its first"
                f" line is {lines[0][:40]!r}; {EXPECTED}"
            )


def _check_text(where: str, line: str, column: str) -> None:
    """Refuse what is a line of data: JSON, or YAML with a key that is known."""
    start = line.lstrip(" \t-").removeprefix('"')
    value = parsed_or_none(line) if line.lstrip()[:1] in "{[" else None
    key = start.partition(":")[0].strip().strip('"')
    if isinstance(value, dict | list) or (start != line and key_of(column, [key])) or line.lstrip().startswith('{"'):
        raise DataError(f"{where}: {line.strip()[:40]!r} is data, no text of one {column} a line; {EXPECTED}")


def parsed_or_none(line: str) -> Any:
    """Return a line's JSON value, None where it is none."""
    try:
        return parsed(line)
    except ValueError:
        return None


def first(rows: Iterable[Row], most: int) -> list[Mapping[str, Any]]:
    """Return the values of the first rows that hold any."""
    found: list[Mapping[str, Any]] = []
    for row in rows:
        if row.values:
            found.append(row.values)
        if len(found) == most:
            break
    return found
