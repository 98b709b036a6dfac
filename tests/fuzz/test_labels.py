"""A label function may return or raise anything: its labels are taken right, or one line says where it stands."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foresighted.errors import ForesightedError
from foresighted.labels.asking import Asker
from foresighted.labels.labellers import as_labeller

PROMPTS, FIRST, SECOND = ["p", "q", "r"], ["a", "b", "c"], ["x", "y", "z"]


class Leaves:
    """Cannot be a number, nor be shown."""

    def __float__(self):
        raise SystemExit(0)

    def __repr__(self):
        raise ValueError("no name")


good = st.floats(0, 1) | st.booleans() | st.sampled_from([0, 1, np.float32(0.25), np.array(1.0), Decimal("0.5")])
bad = st.sampled_from(
    [None, "first", "", "0,5", b"1", [0.5], (1,), {}, 1j, 10**400, -(10**400), 10**5000, math.nan, math.inf, -0.1, 1.5,
     Leaves(), Leaves, object(), np.array([0.1, 0.2]), Fraction(3, 2), ...]
)  # fmt: skip
raised = st.sampled_from(
    [ValueError("no\x1b[2J\nway"), RuntimeError(), SystemExit(0), SystemExit("bye"), StopIteration(), GeneratorExit(),
     KeyError("x"), OSError(28, "No space left on device", "/somewhere"), RecursionError(), MemoryError(),
     type("Panic", (BaseException,), {})("rust"), asyncio.CancelledError(), TimeoutError(), AssertionError("\ud800"),
     UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), type("Dumb", (Exception,), {"__str__": lambda self: 1 / 0})()]
)  # fmt: skip


def fits(value) -> bool:
    """Whether a value is one label."""
    try:
        return 0 <= float(value) <= 1
    except (Exception, SystemExit):
        return False


def _raising(error):
    raise error


def shapes(rows, error):
    """Return functions that say `rows`, or raise, in every way that a labeller may be written."""

    def at(row):
        return _raising(error) if error is not None else row

    def one(prompt, first, second):
        return at(rows[PROMPTS.index(prompt)])

    async def one_later(prompt, first, second):
        await asyncio.sleep(0)
        return at(rows[PROMPTS.index(prompt)])

    def lists(prompts, first, second):
        return at(list(rows))

    async def lists_later(prompts, first, second):
        return at(tuple(rows))

    def lazily(prompts, first, second):
        for row in rows:
            yield at(row)

    class Object:
        def __call__(self, prompts, first, second):
            return at(rows)

    return [one, one_later, lists, lists_later, lazily, Object()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(
    rows=st.lists(good | bad, min_size=3, max_size=3),
    error=st.none() | raised,
    shape=st.integers(0, 5),
    timeout=st.sampled_from([math.inf, 20.0]),
)
def test_one_label_a_pair_or_one_line(tally, rows, error, shape, timeout):
    function = shapes(rows, error)[shape]
    whole = error is None and all(map(fits, rows))

    def right(labels):
        return whole and labels == [float(row) for row in rows]

    asker = Asker(as_labeller("labels", function), timeout=timeout)
    tally("label functions").call(asker.preferences, PROMPTS, FIRST, SECOND, right=right)
    if not whole:
        with pytest.raises(ForesightedError, match=r"^labels: ") as refused:
            asker.preferences(PROMPTS, FIRST, SECOND)
        assert __file__ in str(refused.value) or isinstance(error, asyncio.CancelledError)


@given(
    said=st.one_of(
        bad, good, st.text(max_size=4), st.binary(max_size=4), st.dictionaries(st.sampled_from([0, 1, 0.5]), good),
        st.sets(st.sampled_from([0, 1, 0.5])), st.lists(good, max_size=5), st.just(iter(int, 1)),
    )
)  # fmt: skip
def test_what_is_no_list_of_labels_is_never_taken_for_one(tally, said):
    whole = isinstance(said, list) and len(said) == 3
    asker = Asker(lambda prompts, first, second: said)
    tally("label functions").call(
        asker.preferences, PROMPTS, FIRST, SECOND, right=lambda labels: whole and labels == list(map(float, said))
    )


@given(values=st.lists(good | bad, min_size=3, max_size=3), error=st.none() | raised)
def test_a_utility_is_finite_or_one_line(tally, values, error):
    class Known:
        def utility(self, prompts, responses):
            return _raising(error) if error is not None else values

        def __call__(self, prompts, first, second):
            return [0.5] * len(prompts)

    def number(value):
        try:
            return float(value)
        except (Exception, SystemExit):
            return math.nan

    numbers = list(map(number, values))
    tally("label functions").call(
        Asker(Known()).utility, PROMPTS, FIRST,
        right=lambda found: error is None and all(map(math.isfinite, numbers)) and found == numbers,
    )  # fmt: skip


FILE = """
import sys
calls = []

def raises(prompt, first, second):
    raise RuntimeError("my service is down")

def leaves_later(prompt, first, second):
    calls.append(1)
    if len(calls) > 6:
        sys.exit(0)
    return 0.5

def none(prompt, first, second):
    return None

def big(prompt, first, second):
    return 10**400

async def leaves(prompt, first, second):
    sys.exit(0)
"""
LINES = {"raises": 6, "leaves_later": 11, "none": 14, "big": 17, "leaves": 21}


@pytest.mark.parametrize("name", LINES)
def test_a_run_stops_with_the_line_and_goes_on_when_it_is_mended(tally, name, tiny, tmp_path, capsys):
    from dataclasses import replace

    from foresighted.settings import to_yaml

    path, out = tmp_path / "mine.py", tmp_path / "run"
    path.write_text(FILE)
    config = replace(tiny, rounds=3, labels=f"{path}:{name}", checkpoint_every=2)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    command = ["train", "--config", str(tmp_path / "c.yaml"), "--out", str(out), "--quiet"]
    counts = tally("label functions in a run")
    code, said = counts.command(command, capsys, codes=())
    assert code == 2
    assert f"{path}, line {LINES[name]}" in said
    assert not (out / "policy").exists()
    path.write_text(f"def {name}(prompt, first, second): return 0.5\n")
    assert counts.command([*command, "--resume"], capsys)[0] == 0
    assert len((out / "rounds.jsonl").read_text().splitlines()) == 3
