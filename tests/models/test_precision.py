"""The precision that a device is faster in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.alignment import players
from foresighted.models import precision
from foresighted.store.directory import CONFIG


@pytest.mark.parametrize("slow", ["float32", "bfloat16"])
def test_the_faster_one_is_found(monkeypatch, slow):
    monkeypatch.setattr(
        precision, "products_a_second", lambda _device, _rows, dtype: float(str(dtype) != f"torch.{slow}")
    )
    assert precision.faster(torch.device("cpu"), 16) == {"float32": "bfloat16", "bfloat16": "float32"}[slow]


@pytest.mark.slow
def test_products_are_counted(monkeypatch):
    monkeypatch.setattr(precision, "_SECONDS", 0.02)
    few, many = (precision.products_a_second(torch.device("cpu"), rows, torch.float32) for rows in (2000, 8))
    assert many > few > 0


def test_auto_is_settled_once(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(players, "faster", lambda _device, _rows: "bfloat16")
    asked = replace(tiny, dtype="auto")
    assert players.with_dtype(asked, tmp_path, 1).dtype == "bfloat16"
    assert "dtype: bfloat16 is the faster one here for 6 rows" in caplog.text
    (tmp_path / CONFIG).write_text("dtype: float32\n")
    assert players.with_dtype(asked, tmp_path, 1).dtype == "float32"
    assert players.with_dtype(tiny, tmp_path, 1) == tiny
