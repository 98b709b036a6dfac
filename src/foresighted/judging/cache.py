"""Replies that were paid for, kept in one file: no question is asked twice."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from foresighted.errors import RunError
from foresighted.inputs import regular


class Cache:
    """Replies that were paid for, in one SQLite file that threads and processes share: no question is asked twice.

    Args:
        path: of the file, made if it is not there; None keeps nothing.

    Raises:
        RunError: the file cannot be opened or is something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                regular(path, most=None)
            self._connection = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise RunError(f"cache: {path} cannot be used ({error}); choose another --cache, or off") from None

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under a key, or None; what is no reply is passed over.

        Raises:
            RunError: the file cannot be read.
        """
        if self._connection is None:
            return None
        try:
            with self._lock:
                row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        except (sqlite3.Error, OverflowError) as error:
            raise RunError(f"cache: {self._path} cannot be read ({error}); choose another --cache, or off") from None
        try:
            found = json.loads(row[0]) if row else None
        except (ValueError, TypeError, RecursionError):
            return None
        return found if isinstance(found, dict) and isinstance(found.get("text"), str) else None

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a reply; it is on the disk when this returns.

        Raises:
            RunError: the file cannot be written.
        """
        if self._connection is None:
            return
        try:
            with self._lock:
                self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(reply)))
        except sqlite3.Error as error:
            raise RunError(f"cache: {self._path} cannot be written ({error}); free some space, then --resume") from None

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
