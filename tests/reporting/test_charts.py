"""Specifications that the library accepts, and numbers against naive twins."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import vl_convert

from foresighted.reporting import responses as responses_module
from foresighted.reporting.charts import Chart, Guide, Mark, Point, Series, drawn, look_of, of_interval, specification
from foresighted.reporting.page import library
from foresighted.reporting.reliability import reliability_points
from foresighted.reporting.responses import Response, compact, fill_gaps, limited, pack
from foresighted.statistics.intervals import Interval, Method, mean_interval

HOSTILE = "{datum.x} \"'); window.hacked = 1; ('</script>"


def line(label: str = "rlhf", index: int = 0, *, bounded: bool = True) -> Series:
    bounds = (lambda x: (x - 1.0, x + 1.0)) if bounded else (lambda x: (None, None))
    return Series(label, index, tuple(Point(x, 2.0 * x, *bounds(2.0 * x)) for x in range(4)))


def test_no_two_arms_look_alike() -> None:
    assert len({look_of(index) for index in range(32)}) == 32
    assert [look_of(index) for index in (0, 7)] == [(0, 0, 0), (7, 3, 7)]


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("kind", ["line", "forest"])
@pytest.mark.parametrize("guide", ["none", "zero", "diagonal", "half"])
def test_specifications_compile(bounded: bool, kind: str, guide: Guide) -> None:
    series = (line(bounded=bounded), line(HOSTILE, 3, bounded=bounded))
    marks = (Mark("fell", 0, 2), Mark(HOSTILE, 3, 2, 1, 3))
    chart = Chart("c", "Title", "x", "y", series, kind=kind, guide=guide, marks=marks)  # type: ignore[arg-type]
    compiled = vl_convert.vegalite_to_vega(specification(chart))
    assert compiled["marks"]


def test_a_low_chart_has_the_unit_below_the_name() -> None:
    chart = Chart("one", "One", "round", "true utility (labeller's unit)", (Series("a", 0, (Point(0, 1, 0, 2),)),))
    low, plain = specification(chart, 160), specification(chart)
    assert (low["height"], plain["height"]) == (160, 240)
    assert low["layer"][-1]["encoding"]["y"]["title"] == ["true utility", "(labeller's unit)"]
    assert plain["layer"][-1]["encoding"]["y"]["title"] == chart.y
    assert "<svg" in vl_convert.vegalite_to_svg(low | {"width": 400})


def test_text_of_records_is_never_an_expression() -> None:
    chart = Chart("c", "T", "x", "y", (line(HOSTILE),), marks=(Mark(HOSTILE, 0, 1),))
    compiled = vl_convert.vegalite_to_vega(specification(chart))

    def strings(value: object, key: str = "") -> list[tuple[str, str]]:
        if isinstance(value, dict):
            return [pair for name, item in value.items() for pair in strings(item, name)]
        if isinstance(value, list):
            return [pair for item in value for pair in strings(item, key)]
        return [(key, value)] if isinstance(value, str) else []

    holding = {key for key, text in strings(compiled) if "window.hacked" in text}
    assert holding <= {"arm", "text", "description"}  # values of data, and what is said


def test_description_and_table_say_every_value() -> None:
    chart = Chart("c", "Utility", "rounds", "utility (units)", (line(), line("other", 1)), band="95% interval")
    assert "rlhf: from 0.00 [-1.00, 1.00] at 0 to 6.00 [5.00, 7.00] at 3" in chart.description
    assert "utility (units) by rounds, with 95% interval" in chart.description
    assert chart.table.head == ("rounds", "rlhf", "other")
    assert [row[0] for row in chart.table.rows] == ["0", "1", "2", "3"]
    assert chart.table.rows[2] == ("2", "4.00 [3.00, 5.00]", "4.00 [3.00, 5.00]")


def test_nothing_to_draw_is_no_chart() -> None:
    assert drawn(Chart("c", "T", "x", "y", ())) == ()
    assert drawn(Chart("c", "T", "x", "y", (Series("rlhf", 0, ()),))) == ()


def test_infinite_bounds_are_left_out() -> None:
    assert of_interval(1, Interval(2.0, -math.inf, math.inf, 0.95, 1, 1, Method.STUDENT)) == Point(1, 2.0, None, None)


def test_the_library_is_one_script_without_a_closing_tag() -> None:
    text = library()
    assert "</script" not in text
    assert text.startswith("(() => {")
    assert text == library()


def response(number: int, **numbers: float | None) -> Response:
    return Response("candidate", "rlhf", "0", 1, f"p{number % 7}", "Why?", "", f"text {number}", dict(numbers))


def test_gaps_against_a_naive_twin() -> None:
    chance = random.Random(0)
    found = [response(i, reward=chance.gauss(2, 3), utility=chance.gauss(0, 1)) for i in range(50)]
    found += [response(50, reward=1.0, utility=None)]
    fill_gaps(found)
    known = found[:50]
    for one in known:
        parts = []
        for name in ("reward", "utility"):
            values = [other.numbers[name] or 0.0 for other in known]
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
            parts.append(((one.numbers[name] or 0.0) - mean) / deviation)
        assert one.numbers["gap"] == pytest.approx(parts[0] - parts[1])
    assert "gap" not in found[50].numbers


def test_no_gap_where_nothing_varies() -> None:
    found = [response(i, reward=1.0, utility=float(i)) for i in range(5)]
    fill_gaps(found)
    assert all("gap" not in one.numbers for one in found)


def test_reliability_against_a_naive_twin() -> None:
    chance = random.Random(1)
    pairs = [(f"p{chance.randrange(30)}", chance.random(), chance.random()) for _ in range(400)]
    points = list(reliability_points(pairs, 0.95))
    assert len(points) == 10
    for number, point in enumerate(points):
        here = [pair for pair in pairs if number <= pair[1] * 10 < number + 1]
        prompts = sorted({pair[0] for pair in here})
        means = [np.mean([pair[2] for pair in here if pair[0] == prompt]) for prompt in prompts]
        assert point.value == pytest.approx(np.mean(means))
        interval = mean_interval([means], seed=0, level=0.95, resamples=1000)
        assert (point.low, point.high) == pytest.approx((max(interval.low, 0), min(interval.high, 1)))


def test_bins_with_few_prompts_are_left_out() -> None:
    assert list(reliability_points([("a", 0.55, 1.0)] * 50, 0.95)) == []
    assert list(reliability_points([], 0.95)) == []


def test_limited_keeps_extremes_and_is_blind_otherwise() -> None:
    chance = random.Random(2)
    found = [response(i, gap=chance.gauss(0, 1), influence=chance.gauss(0, 1)) for i in range(400)]
    kept = limited(found, 100)
    assert len(kept) == 100
    assert kept == [one for one in found if one in kept]  # in their order
    by_gap = sorted(found, key=lambda one: -(one.numbers["gap"] or 0))[:25]
    by_influence = sorted(found, key=lambda one: -abs(one.numbers["influence"] or 0))[:25]
    assert all(one in kept for one in (*by_gap, *by_influence))
    assert {one.text for one in limited(found[::-1], 100)} == {one.text for one in kept}


def test_too_many_bytes_are_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)
    found = [
        Response(
            "candidate", "rlhf", "0", 1, "p", "Why?", "", f"{chance.random()} {chance.random()}", {"gap": float(i)}
        )
        for i in range(500)
    ]
    whole = pack(found, ["rlhf"], ["rlhf"])
    assert whole
    assert whole.note == "All 500 responses of the records."
    monkeypatch.setattr(responses_module, "MOST_BYTES", 4000)
    cut = pack(found, ["rlhf"], ["rlhf"])
    assert cut
    assert len(compact(cut.payload)) <= 4000
    assert re_count(cut.note) == len(cut.payload["columns"]["text"]) < 500


def re_count(note: str) -> int:
    return int(note.split(" of ", 1)[0])


def test_numbers_that_are_not_finite_are_unknown_and_columns_of_zeros_are_left_out() -> None:
    found = [response(i, reward=float(i), penalty=0.0, kl=None) for i in range(3)]
    packed = pack(found, ["rlhf"], ["rlhf"])
    assert packed
    assert set(packed.payload["numbers"]) == {"reward"}
    assert [responses_module._number(value) for value in (math.nan, math.inf, True, "2", None)] == [None] * 5
    assert math.copysign(1, responses_module._number(-0.0) or 0.0) == 1
    json.loads(json.dumps(packed.payload, allow_nan=False))


def test_no_responses_is_no_browser() -> None:
    assert pack([], ["rlhf"], ["rlhf"]) is None
