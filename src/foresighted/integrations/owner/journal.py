"""The journal of an owner: a file that only grows, by whole lines that are on the disk before anybody hears of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from foresighted.errors import DataError
from foresighted.integrations.owner.events import Event, Group, event_of
from foresighted.store import files
from foresighted.store.rows import object_of, plain, to_line

JOURNAL = "journal.jsonl"


class Journal:
    """Appends events and reads them again.

    Args:
        folder: of the owner; nobody else writes there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        files.drop_torn_line(self.path)
        self._size = self.path.stat().st_size if self.path.exists() else 0

    @property
    def size(self) -> int:
        """Where the next line begins, in bytes."""
        return self._size

    def append(self, events: Sequence[Event]) -> list[int]:
        """Write events; return where each begins, in bytes, once all are on the disk.

        Raises:
            OSError: the disk refuses; none of them is written.
        """
        lines = [to_line(plain(event)) for event in events]
        sizes = [len(line.encode("utf-8", "replace")) for line in lines]
        try:
            files.append(self.path, "".join(lines))
        except OSError:
            with suppress(OSError):  # of a disk that takes nothing: the next line begins a line all the same
                files.cut(self.path, self._size)
            raise
        *places, self._size = accumulate(sizes, initial=self._size)
        return places

    def group(self, place: int) -> Group:
        """Return the group whose line begins at a place."""
        with self.path.open("rb") as file:
            file.seek(place)
            found = event_of(object_of(file.readline(), f"{self.path}, byte {place}"), f"{self.path}, byte {place}")
        if not isinstance(found, Group):
            raise DataError(f"{self.path}, byte {place}: a {found.event} where a group was; restore the file")
        return found


def read(path: Path, start: int = 0) -> Iterator[tuple[int, Event]]:
    """Yield each whole line's place in bytes and its event, from the place of a line on.

    Raises:
        DataError: a line that is no event, with its place.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        place = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            where = f"{path}, byte {place}"
            yield place, event_of(object_of(line, where), where)
            place += len(line)
