"""What a Python file of the user's own holds, named FILE.py:NAME: a game, a labeller, a judge."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from foresighted.errors import ConfigError, nearest, one_line


def load_from_file(setting: str, text: str, kind: str, fits: Callable[[Any], bool]) -> Any:
    """Run FILE.py and return what it calls NAME.

    Args:
        setting: what the file was given for; error messages begin with it.
        text: FILE.py:NAME.
        kind: of object, as error messages call it.
        fits: whether an object is of that kind.

    Returns:
        The object.

    Raises:
        ConfigError: no such file, a file that fails or exits when it is run, no such name, or another kind of object.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ConfigError(f"{setting}: got {text!r}, expected FILE.py:NAME")
    module = _run(setting, Path(path))
    found = getattr(module, name, None)
    if not fits(found):
        names = [key for key, value in vars(module).items() if not key.startswith("_") and fits(value)]
        shown = ", ".join(names[:8]) or "none"
        raise ConfigError(f"{setting}: {path} has no {kind} {name!r}{nearest(name, names)}; it has {shown}")
    return found


def _run(setting: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"foresighted_file_{path.stem}", path)
    if not path.is_file() or spec is None:
        raise ConfigError(f"{setting}: no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        # Compiled here: a cache of bytecode would run an old text of the same length and second, and litter the folder.
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file does when it is run, sys.exit included
        sys.modules.pop(spec.name, None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f" (line {lines[-1]})" if lines else ""
        raise ConfigError(f"{setting}: {path} fails with {one_line(error)}{where}") from error
    return module
