"""What the page and the notebook about Python show: names exist, and the notebook's cells run one after another."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import foresighted as fpo
from foresighted.models.embedded import ENCODER_HUB_ID, encoder_source

ROOT = Path(__file__).parents[2]


def test_snippets_of_the_page_name_what_exists():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fpo":
                assert node.attr in fpo.__all__


@pytest.mark.slow
@pytest.mark.skipif(encoder_source() == ENCODER_HUB_ID, reason="needs the wheels of the embedded models")
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text())["cells"]
    assert len(cells) == 10
    names: dict[str, object] = {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            *body, last = ast.parse(source).body
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):  # shown, as a notebook does
                shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
                assert shown._repr_html_() if hasattr(shown, "_repr_html_") else shown._repr_png_()
            else:
                exec(compile(ast.Module([last], []), "cell", "exec"), names)
