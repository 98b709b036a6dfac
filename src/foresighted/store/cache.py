"""The user's folder of what is made once: the converted policy, and the library that draws a page's charts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from foresighted.errors import ConfigError
from foresighted.store.files import make_folder, write


def cache_directory() -> Path:
    """Return that folder: $FORESIGHTED_CACHE, or `foresighted` in the user's cache folder.

    Raises:
        ConfigError: a user without a home folder.
    """
    if own := os.environ.get("FORESIGHTED_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foresighted"
    except RuntimeError:
        raise ConfigError("cache: this user has no home folder; set FORESIGHTED_CACHE to a folder") from None


def made_once(name: str, make: Callable[[], str]) -> str:
    """Return a text that a user's processes make once, and again where the file does not match its SHA-256.

    Args:
        name: of its file in `cache_directory()`; another content has another name. Where none can be kept it is made
            each time.
        make: makes it.
    """
    with suppress(OSError, UnicodeDecodeError, ConfigError):
        digest, _, kept = (cache_directory() / name).read_bytes().partition(b"\n")
        if _digest(kept) == digest:
            return kept.decode()
    text = make()
    data = text.encode()
    with suppress(OSError, ConfigError):
        folder = cache_directory()
        make_folder(folder)
        write(folder / name, _digest(data) + b"\n" + data)  # of two at once the digest tells
    return text


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
