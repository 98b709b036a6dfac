"""A JSONL file that somebody goes on writing, read as it grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from foresighted.errors import DataError
from foresighted.inputs import regular
from foresighted.store.formats import MARK
from foresighted.store.rows import object_of

T = TypeVar("T")


class Tail(Generic[T]):
    """The rows of a JSONL file of ours. Only what was appended is read again, unless the file is another one.

    A line counts once its newline is there, as in `store.rows.numbered`; a file that is not there has none.

    Args:
        path: of the file.
        make: makes a row of a JSON object and of where it stands, `FILE, line N`, for messages.
    """

    def __init__(self, path: Path, make: Callable[[dict[str, Any], str], T]) -> None:
        self.path = path
        self._make = make
        self._stamp: tuple[int, int, int] | None = None
        self._read = b""
        self._lines = 0
        self._rows: list[T] = []

    def rows(self) -> list[T]:
        """Return all rows as the file is now.

        Raises:
            DataError: the file cannot be read, or what `make` and `object_of` raise.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._forget()
            return self._rows
        stamp = found.st_ino, found.st_size, found.st_mtime_ns
        if stamp != self._stamp:
            try:
                data = regular(self.path).read_bytes()
            except OSError as error:
                raise DataError(f"{self.path} cannot be read ({error.strerror}); is the path right?") from None
            self._take(data[: data.rfind(b"\n") + 1])
            self._stamp = stamp
        return self._rows

    def _take(self, data: bytes) -> None:
        if not data.startswith(self._read):
            self._forget()
        new: list[T] = []
        number = self._lines
        for number, line in enumerate(data[len(self._read) :].split(b"\n")[:-1], start=self._lines + 1):
            own = line if number > 1 else line.removeprefix(MARK)
            if own.strip():
                where = f"{self.path}, line {number}"
                new.append(self._make(object_of(own, where), where))
        self._read, self._lines, self._rows = data, number, [*self._rows, *new]

    def _forget(self) -> None:
        self._stamp, self._read, self._lines, self._rows = None, b"", 0, []
