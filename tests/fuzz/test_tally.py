"""The counting itself: what must fail, fails."""

from __future__ import annotations

import pytest

from foresighted.errors import DataError


def _refuse(text: str) -> None:
    raise DataError(text)


def test_right_and_refused_are_counted(tally):
    counts = tally("the tally")
    counts.call(int, "4", right=lambda value: value == 4)
    counts.call(_refuse, "FILE: mend it", right=bool)
    assert (counts.counts["read"], counts.counts["refused"]) == (1, 1)
    counts.counts.clear()  # the table at the end counts what the program did


def test_a_wrong_result_an_escape_and_a_traceback_fail(tally):
    counts = tally("the tally, failing")
    with pytest.raises(AssertionError):
        counts.call(int, "4", right=lambda value: value == 5)
    with pytest.raises(AssertionError):
        counts.call(_refuse, "\x1b[2J gone", right=bool)
    with pytest.raises(ValueError, match="four"):
        counts.call(int, "four", right=bool)
    assert (counts.counts["silent wrong"], counts.counts["traceback"]) == (2, 1)
    counts.counts.clear()
