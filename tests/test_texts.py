"""Words, repetition and variety, counted in one way."""

from __future__ import annotations

import pytest

from foresighted.texts import distinct, repetition, words


def test_words():
    assert words("Don't stop, it's 3 o'clock!") == ["don't", "stop", "it's", "3", "o'clock"]
    assert words("...") == []


@pytest.mark.parametrize(
    ("text", "share"), [("a b a b a b", 1 - 2 / 5), ("all of these differ", 0), ("", 0), ("one", 0)]
)
def test_repetition(text, share):
    assert repetition(text) == pytest.approx(share)


def test_distinct():
    assert distinct("a b A b", 1) == 0.5
    assert distinct("a b A b", 2) == pytest.approx(2 / 3)
    assert distinct("one", 2) == 1.0
