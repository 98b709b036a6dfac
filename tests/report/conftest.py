"""The synthetic comparison directories of `tests/evaluate/synthetic.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Return the module that writes synthetic records."""
    path = Path(__file__).parent.parent / "evaluate" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_records", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
