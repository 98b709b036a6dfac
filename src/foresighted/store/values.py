"""A log's values as ours, once it is known which column means what: numbers as doubles, everything else as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from foresighted.store.columns import NUMBERS, Column
from foresighted.store.exchanges import MISSING, parts_of

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
        if column.part is not None:
            parts = (as_text(getattr(parts_of(value), column.part)) for value in arrays[0].to_pylist())
            made[ours] = pa.array(parts, pa.large_string())
        elif ours in NUMBERS:
            numbers = [_numbers(array) for array in arrays]
            made[ours] = _sum_of_known(numbers) if column.abstain else reduce(pc.add, numbers)
        else:
            made[ours] = _in_words(list(map(_texts, arrays)))
    return made


def _sum_of_known(arrays: list[pa.Array]) -> pa.Array:
    """Return the sum of the numbers that are known in each row, null where none is."""
    known = [pc.fill_null(pc.is_finite(array), False) for array in arrays]
    total = reduce(pc.add, [pc.if_else(there, array, 0.0) for there, array in zip(known, arrays, strict=True)])
    return pc.if_else(reduce(pc.or_, known), total, pa.scalar(None, pa.float64()))


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
    array.validate(full=True)  # a damaged file may hold what is no UTF-8
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
