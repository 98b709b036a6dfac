"""What is left out is counted, by round where it is uneven."""

from __future__ import annotations

import numpy as np

from foresighted.auditing.sentences import left_out
from foresighted.statistics.layout import Layout

NAN = np.nan


def test_nothing_is_said_where_nothing_is_absent(logs):
    table = logs.rollouts([0, 0, 1, 1], [0, 1, 0, 1], reward=[1, 2, 3, 4], utility=[1, 2, 3, 4])
    assert list(left_out("arm", table, Layout((0, 1), (0, 1), True), "utility")) == []


def test_even_shares_are_one_number(logs):
    table = logs.rollouts([0, 0, 1, 1], [0, 1, 0, 1], reward=[1, NAN, 3, NAN], utility=[1, 2, 3, 4])
    said = list(left_out("arm", table, Layout((0, 1), (0, 1), True), "utility"))
    assert said == ["arm: rewards absent, not finite or beyond 1e+100, and left out: 2 of 4."]


def test_uneven_shares_name_rows_and_rounds_that_have_none(logs):
    table = logs.rollouts([0, 1, 2, 3, 9, 9], [0] * 6, reward=[1.0] * 6, label=[0.5, NAN, 0.5, 0.5, NAN, NAN])
    said = list(left_out("arm", table, Layout((0, 1, 2, 3), (0, 0, 1, 1), True), "label"))
    assert said == [
        "arm: labels absent, not finite or beyond 1e+100, and left out: 3 of 6, most of them here:"
        " 1 of 2 of rounds 0 to 1, 2 of 2 of round 9."
    ]


def test_rounds_are_counted_where_nothing_is_known(logs):
    table = logs.rollouts([3, 9, 9], [0, 0, 0], reward=[1.0, NAN, NAN], utility=[1.0, 2.0, 3.0])
    said = list(left_out("arm", table, Layout((), (), True), None))
    assert said == [
        "arm: rewards absent, not finite or beyond 1e+100, and left out: 2 of 3, most of them here: 2 of 2 of round 9."
    ]
