"""What the page and the notebook about Python show: names exist, and the notebook's cells run one after another."""

from __future__ import annotations

import ast
import importlib.util
import re
import warnings
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


@pytest.mark.campaign
@pytest.mark.skipif(encoder_source() == ENCODER_HUB_ID, reason="needs the wheels of the embedded models")
def test_the_notebook_runs(tmp_path):
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries around Jupyter
        cells = run.executed(run.NOTEBOOK, tmp_path).cells
    assert len(cells) == 10
    shown = [output.data for cell in cells for output in cell.get("outputs", []) if output.output_type != "stream"]
    assert sum("image/png" in data for data in shown) >= 2
    assert any("did not collapse" in str(data) or "cannot tell" in str(data).lower() for data in shown), shown
