"""Which kinds of prompts fell first."""

from __future__ import annotations

import numpy as np
import pytest

from foresighted.auditing.audit import fallen_kinds
from foresighted.statistics.layout import choose_layout


def test_kinds_that_fell_first_come_first(logs):
    rounds, asked, runs, columns = logs.panel((0.0,) * 6, noise=0.1, prompts=30)
    fall = np.array([0, 0, -2, -2, -2, -2]), np.array([0, 0, 0, 0, -1, -1]), np.zeros(6)
    place = np.array(rounds) // 10
    utility = np.array(columns["utility"]) + np.stack(fall)[np.array(asked) % 3, place]
    kinds = tuple(("early", "late", "never")[i % 3] for i in range(30))
    table = logs.rollouts(rounds, asked, run=runs, kinds=kinds, utility=utility)
    known = table.known("utility")
    layout = choose_layout(table, known)
    found = fallen_kinds(utility, table, known, layout, best=1, threshold=0.4)
    assert [(kind.kind, kind.fell_by) for kind in found] == [("early", 20), ("late", 40), ("never", None)]
    assert found[0].fall.mean == pytest.approx(2, abs=0.2)
    assert found[0].prompts == 10
