"""What anybody's file is, by its content: JSON lines, a JSON document, CSV, Parquet or plain text, or gzip of one.

A name decides only where the content leaves it open: a table's header is known by the names in it, or by `.csv`.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from foresighted.errors import DataError
from foresighted.inputs import regular
from foresighted.store.aliases import KNOWN
from foresighted.texts import printable

Kind = Literal["jsonl", "batches", "json", "csv", "parquet", "text"]
"""JSON lines; JSON lines that hold a list a column; one JSON document; a table; Parquet; text of one thing a line."""
HEAD = 1 << 16
"""Bytes of a file by which it is known."""
LONGEST_LINE = 1 << 28
LARGEST_DOCUMENT = 1 << 30
"""Bytes of a JSON document, which is read whole."""
MARK = b"\xef\xbb\xbf"
_DELIMITERS = (",", ";", "\t", "|")
_TABLES: Mapping[str, str] = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
_JSON = (".jsonl", ".ndjson", ".json")
_LISTS = (
    "data", "rows", "examples", "instances", "records", "items", "prompts", "questions", "annotations", "log_history",
)  # fmt: skip
"""Keys under which exports hold their rows."""
_ALIEN: Mapping[bytes, str] = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet", b"\xfd7zXZ": "packed with xz", b"BZh": "packed with bzip2",
    b"\x28\xb5\x2f\xfd": "packed with zstd", b"ARROW1": "an Arrow file", b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file", b"\x89PNG": "a picture", b"%PDF": "a PDF", b"\x80\x04\x95": "a pickle",
    b"\x1f\x8b": "gzip inside gzip (unpack it once)", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text",
}  # fmt: skip
_LOOKED_AT = 20
_MARKUP = re.compile(rb"<(\?xml|!doctype|html|svg)\b", re.IGNORECASE)
EXPECTED = "expected JSON lines, a JSON array, CSV or Parquet (.gz too), as UTF-8"


class Format(NamedTuple):
    """How a file is written."""

    kind: Kind
    packed: bool = False
    """By gzip."""
    delimiter: str = ","
    skipped: int = 0
    """Lines before a table's header: Excel's `sep=;`."""


def opened(path: Path, packed: bool) -> BinaryIO:
    """Return a file's bytes as a stream, unpacked."""
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a `with` block meets in a file that is absent, damaged or too large into one line.

    Raises:
        DataError: in place of these.
    """
    try:
        yield
    except MemoryError:
        raise DataError(f"{path} cannot be read (no memory for what it says it holds); is it whole?") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({told_by(error)}); check the path and that the file is whole"
        ) from None


def told_by(error: Exception) -> str:
    """Return a library's own words in one line that can be printed: they may hold the bytes that it stumbled over."""
    told = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return printable(str(told)).strip()


def format_of(path: Path) -> Format:
    """Return what a file is.

    Raises:
        DataError: it cannot be read, is not whole, or is something else, with what it is.
    """
    with readable(path):
        with regular(path, most=None).open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with opened(path, packed) as file:
            head = file.read(HEAD)
    if head.startswith(b"PAR1"):
        return Format("parquet", packed)
    alien = next((name for mark, name in _ALIEN.items() if head.startswith(mark)), None)
    alien = alien or ("markup" if _MARKUP.match(head.lstrip()) else None)
    alien = alien or ("UTF-16 text, or no text" if b"\x00" in head else None)
    if alien:
        raise DataError(f"{path}: {alien}; {EXPECTED}")
    text = head.removeprefix(MARK).lstrip()
    with readable(path):
        kind = _json_kind(path, packed, text)
    if kind:
        return Format(kind, packed)
    found = _table_or_text(text, suffix_of(path), packed)
    return found._replace(kind="jsonl") if found.kind == "text" and text and suffix_of(path) in _JSON else found


def suffix_of(path: Path) -> str:
    """Return the end of a file's name in lower case, `.gz` aside."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def named_as_rows(path: Path) -> bool:
    """Return whether a file's name says that it holds rows."""
    return suffix_of(path) in (*_JSON, *_TABLES, ".parquet")


def _json_kind(path: Path, packed: bool, text: bytes) -> Kind | None:
    """Return which kind of JSON a text begins as; None for anything else, such as `[INST]` or `{name}`."""
    if re.match(rb'\[\s*([{"\[\]]|$)', text):
        return "json"
    if not re.match(rb'\{\s*(["}]|$)', text):
        return None
    with opened(path, packed) as file:
        line, more = _first_line(path, file)
        rest = bool((more or file.read(HEAD)).strip())
    try:
        row = parsed(line)
    except ValueError:
        return "jsonl" if line.rstrip().endswith(b"}") and rest else "json"
    if isinstance(row, dict) and rows_in(row) != [row]:
        if not rest:
            return "json"
        return "batches" if _listed(row) else "jsonl"
    return "jsonl"


def _first_line(path: Path, file: BinaryIO) -> tuple[bytes, bytes]:
    """Return the first line that holds something, and what was read beyond it."""
    for line in lines_of(path, file):
        if line.removeprefix(MARK).strip():
            return line.removeprefix(MARK), b""
    return b"", b""


def lines_of(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield a stream's lines, which end in a newline alone.

    Raises:
        DataError: a line of more than `LONGEST_LINE` bytes.
    """
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise too_long(path, number)
        yield line


def too_long(path: Path, number: int) -> DataError:
    """Return the error of a line that no memory should hold."""
    return DataError(f"{path}, line {number}: more than {LONGEST_LINE >> 20} MiB long; {EXPECTED}")


def parsed(text: str | bytes) -> Any:
    """Return a JSON value; raises `ValueError` with the reason in few words where it is none."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"{error.msg}: {at}character {error.colno}") from None
    except ValueError:
        raise ValueError("a whole number of thousands of digits") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def rows_in(value: Any) -> list[Any]:
    """Return the rows that a JSON document holds: a list's items, those inside a known export, or the one object.

    Known are `columns` with `data` (Weights & Biases, pandas), a list under a usual key, the Hub's `rows` of `row`,
    pandas' columns or index, and a list a column.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(_fits(row, names) for row in data):
        return [dict(zip(map(str, names), row, strict=True)) for row in data]
    inside = [key for key in _LISTS if isinstance(value.get(key), list) and _are_rows(value[key])]
    if len(inside) == 1:
        rows = value[inside[0]]
        nested = all(isinstance(row.get("row"), dict) and "row_idx" in row for row in rows)
        return [row["row"] for row in rows] if nested else rows
    parts = list(value.values())
    if parts and all(isinstance(part, dict) and part for part in parts):
        if all(key.isdecimal() for key in value):
            return parts
        if all(part.keys() == parts[0].keys() and all(key.isdecimal() for key in part) for part in parts):
            return [{name: part[key] for name, part in value.items()} for key in parts[0]]
    return columns_of(value) or [value]


def _fits(row: Any, names: Sequence[Any]) -> bool:
    return isinstance(row, list) and len(row) == len(names)


def _are_rows(items: Sequence[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and not _is_message(item) for item in items)


def _is_message(item: Mapping[str, Any]) -> bool:
    return {"role", "content"} <= item.keys() or {"from", "value"} <= item.keys()


def _listed(value: Mapping[str, Any]) -> bool:
    """Return whether an object holds a list a column, all as long, and no conversation."""
    lists = list(value.values())
    if len(lists) < 2 or not all(isinstance(one, list) and one and len(one) == len(lists[0]) for one in lists):
        return False
    return not any(isinstance(item, dict) and _is_message(item) for one in lists for item in one)


def columns_of(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of an object that holds a list a column; None where it is no such thing."""
    if not _listed(value):
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _table_or_text(text: bytes, suffix: str, packed: bool) -> Format:
    lines = text.decode("utf-8", "replace").split("\n")
    skipped, delimiter = 0, None
    if found := re.fullmatch(r'"?sep=(.)"?\r?', lines[0]):
        skipped, delimiter, lines = 1, found.group(1), lines[1:]
    header = lines[0].strip() if lines else ""
    delimiter = delimiter or _delimiter(header, _TABLES.get(suffix, ","))
    table = skipped or suffix in _TABLES or _begins_a_table(lines, delimiter)
    return Format("csv" if table else "text", packed, delimiter, skipped)


def _begins_a_table(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether the first lines are a table whose header has a name that is known, and as many cells below it."""
    try:
        rows = [row for row in csv.reader(lines[: len(lines) - 1 or 1][:_LOOKED_AT], delimiter=delimiter) if row]
    except csv.Error:
        return False
    cells = [cell.strip().lower() for cell in rows[0]] if rows else []
    known = any(cell in KNOWN or "_vs_" in cell for cell in cells)
    alike = all(len(row) == len(cells) for row in rows[:-1])  # the last may be cut
    return known and alike and all(len(cell.split()) < 4 for cell in cells)


def _delimiter(header: str, usual: str) -> str:
    """Return what parts the cells of a header: what parts it most, names we know counting first."""
    outside = re.sub(r'"(?:[^"]|"")*"', lambda found: re.sub(r"[,;\t|]", " ", found.group()), header)

    def told(delimiter: str) -> tuple[int, int, bool]:
        cells = [cell.strip().strip('"').lower() for cell in outside.split(delimiter)]
        return sum(cell in KNOWN for cell in cells), len(cells), delimiter == usual

    return max(_DELIMITERS, key=told)
