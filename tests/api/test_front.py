"""The package's names: loaded when asked for, and never hidden by a sub-package of the same name."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import foresighted as fpo

pytestmark = pytest.mark.processes
ROOMS = ("auditing", "reporting", "steering", "api", "api.train", "api.audit", "api.report", "cli.main", "games")
CALLS = ("train", "compare", "rehearse", "simulate", "evaluate", "audit", "report", "label")


def test_every_name_is_shown_and_loads():
    assert dir(fpo) == sorted(fpo.__all__)
    for name in fpo.__all__:
        assert getattr(fpo, name) is getattr(fpo, name)
    with pytest.raises(AttributeError, match="trian"):
        fpo.trian  # noqa: B018


def test_no_room_hides_a_name():
    imports = "".join(f"import foresighted.{room}\n" for room in ROOMS)
    code = f"{imports}import foresighted as fpo\nfor n in {CALLS}: assert callable(getattr(fpo, n)), n\n"
    code += "assert fpo.steering.proximal.__doc__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_and_modules_differ():
    functions = [name for name in fpo.__all__ if not isinstance(getattr(fpo, name), ModuleType)]
    for name in functions:
        with pytest.raises(ModuleNotFoundError):
            import_module(f"foresighted.{name}")
