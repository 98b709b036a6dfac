"""Data goes one way through the house: a room imports only from rooms above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import foresighted

ROOMS = ("types", "errors", "inputs", "texts", "steering", "settings", "store", "statistics", "influence", "prompts",
         "models", "labels", "games", "alignment", "judging", "auditing", "reporting", "integrations", "api",
         "cli")  # fmt: skip
HOME = Path(foresighted.__file__).parent


@cache
def _nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def _imports(path: Path) -> set[str]:
    found = set()
    for node in _nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foresighted"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names if a.name in ROOMS}
    return found


def test_rooms_import_only_from_above():
    wrong = []
    for path in HOME.rglob("*.py"):
        room = path.relative_to(HOME).parts[0].removesuffix(".py")
        if room in ROOMS:
            wrong += [f"{path.name} -> {other}" for other in _imports(path) if ROOMS.index(other) > ROOMS.index(room)]
    assert not wrong


def test_every_room_is_known():
    present = {p.stem for p in HOME.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py")))}
    assert present - {"__init__", "__main__"} <= set(ROOMS)


def test_files_and_functions_can_be_read_at_one_sitting():
    long = [f"{path.name}: {n} lines" for path in HOME.rglob("*.py") if (n := len(path.read_text().splitlines())) > 400]
    for path in HOME.rglob("*.py"):
        for node in _nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                lines = node.end_lineno - first.lineno + 1
                long += [f"{path.name}: {node.name} has {lines} lines"] if lines > 60 else []
    assert not long


def test_import_and_command_line_load_no_heavy_library():
    lines = [
        "import sys",
        "def loaded(*names): print([name for name in names if name in sys.modules])",
        "import foresighted; loaded('numpy', 'torch', 'jax', 'pandas', 'rich')",
        "import foresighted.cli.main as main; main.parser(); loaded('torch', 'jax', 'pyarrow', 'pandas', 'matplotlib')",
        "import foresighted.auditing.result, foresighted.steering, foresighted.alignment.comparison",
        "loaded('torch', 'jax', 'transformers', 'matplotlib', 'jinja2', 'pyarrow')",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", "[]", ""]
