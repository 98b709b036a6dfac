"""What is given to be read: a file is a regular one of a size that memory holds, a value is shown in a few words."""

from __future__ import annotations

import errno
import os
import re
import reprlib
import stat
from pathlib import Path
from typing import Any

MOST = 2 << 30
"""Bytes of a file that is read as a whole."""
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def regular(path: Path, *, most: int | None = MOST) -> Path:
    """Return a path to read from, as it is: a FIFO would be waited for without end, and a device has no end.

    Args:
        path: of a file.
        most: bytes that it may have; None where it is not read as a whole.

    Raises:
        OSError: it is not there or no regular file, or has more; `strerror` says so in words.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}; give a regular file", str(path))
    if most is not None and found.st_size > most:
        told = f"it has {found.st_size} bytes, more than the {most} that are read; give a smaller file"
        raise OSError(errno.EFBIG, told, str(path))
    return path


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**40 else "a whole number of more than 40 digits"


KEY = re.compile(r"\b(?:sk|pk|gsk|hf|xai|pplx|ghp|glpat|nvapi|AIza|eyJ|Bearer)[-_ ]?[\w.-]{12,}")
"""What keys look like: they are given in the wrong place, and no message shows them."""
_short = _Short()
_short.maxlevel, _short.maxother = 2, 60
_short.maxstring = 60


def shown(value: Any, most: int = 60) -> str:
    """Return a value as a message shows it, of at most `most` characters, however much stands behind it.

    Example:
        >>> shown([["a"] * 1000] * 1000, most=40)
        "[['a', 'a', 'a', 'a', 'a', 'a', ...],..."
    """
    text = KEY.sub("***", _short.repr(value))
    return text if len(text) <= most else f"{text[: most - 3]}..."
