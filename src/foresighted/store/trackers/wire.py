"""Records of TensorBoard and Weights & Biases, read without their libraries: framing, and protobuf on the wire.

Checksums are checked of W&B's records, and of the lengths of TensorBoard's (CRC-32C, which Python computes slowly).
The libraries take hundreds of megabytes; what is needed of them is this page.

References:
    https://protobuf.dev/programming-guides/encoding/; TFRecord: tensorflow/core/lib/io/record_writer.h; the LevelDB log
    format, https://github.com/google/leveldb/blob/main/doc/log_format.md, with W&B's seven bytes in front.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache

LEVELDB_BLOCK = 32768
_HEADER = 7
_FULL, _LAST = 1, 4


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field: whole numbers, or the bytes of anything else.

    Raises:
        ValueError: it is no message, or is cut.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"a field of wire type {kind}")
        size, place = _varint(message, place) if kind == 2 else (8 if kind == 1 else 4, place)
        if place + size > len(message):
            raise ValueError("a message that is cut")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number that is cut")


def signed(value: int) -> int:
    """Return a field of type int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def tf_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a TFRecord file; a last one that is cut is left out, for its writer goes on or died.

    Raises:
        ValueError: a length whose checksum is wrong.
    """
    place = 0
    while place + 12 <= len(data):
        size, check = struct.unpack_from("<QI", data, place)
        if _masked(data[place : place + 8]) != check:
            raise ValueError(f"checksum of the length at byte {place}")
        end = place + 12 + size
        if end + 4 > len(data):
            return
        yield data[place + 12 : end]
        place = end + 4


@lru_cache(maxsize=4096)
def _masked(head: bytes) -> int:
    """Return the masked CRC-32C of a few bytes."""
    check = 0xFFFFFFFF
    for byte in head:
        check ^= byte
        for _ in range(8):
            check = check >> 1 ^ (0x82F63B78 if check & 1 else 0)
    check ^= 0xFFFFFFFF
    return ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF


def leveldb_records(data: bytes, start: int) -> Iterator[bytes]:
    """Yield the records of W&B's LevelDB log, which has `start` bytes of its own in front; a last one that is cut is
    left out.

    Raises:
        ValueError: a checksum that is wrong.
    """
    place, parts = start, b""
    while place + _HEADER <= len(data):
        left = LEVELDB_BLOCK - place % LEVELDB_BLOCK
        if left < _HEADER:
            place += left
            continue
        check, size, kind = struct.unpack_from("<IHB", data, place)
        body = data[place + _HEADER : place + _HEADER + size]
        if len(body) < size or (check, size, kind) == (0, 0, 0):
            return
        if not _FULL <= kind <= _LAST or zlib.crc32(body, zlib.crc32(bytes([kind]))) != check:
            raise ValueError(f"checksum of the record at byte {place}")
        parts = body if kind in (_FULL, 2) else parts + body
        if kind in (_FULL, _LAST):
            yield parts
        place += _HEADER + size
