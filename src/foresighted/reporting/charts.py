"""Charts of the page as Vega-Lite specifications, each with its data table and a description in words.

One colour, dash and marker an arm, the same in every chart and in the legend, so that arms can be told apart in print
and without colour vision. Colours are CSS variables of the page, so light, dark and print need one drawing; a picture
outside of the page puts the light ones in their place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from foresighted.statistics.intervals import Interval, Share
from foresighted.statistics.wording import interval_text, number

COLOURS = ("#c24a00", "#0069a8", "#00785a", "#a8437f", "#7a5c00", "#3b6fd4", "#6a45b0", "#5c6670")
"""Okabe and Ito's hues, darkened until each has a contrast of 3 to 1 on white; the baseline is first."""
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (9, 2, 2, 2))
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
MAX_TICKS = 8  # rounds up to which each has its tick
MAX_MARKERS = 15
MAX_HOVERS = 200
"""Longer lines have no value to point at; their table has every one."""
BOUNDED = {"filter": "isValid(datum.low) && isValid(datum.high)"}
SHOWN = {"filter": "indexof(shown, datum.index) >= 0"}
HEIGHT = 240
ROW_HEIGHT = 34
MARK_ROW = 12

_UNQUOTED = re.compile(r'["\\]')
"""What Vega-Lite does not escape where it writes the title of a tooltip into an expression."""
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

NUMERIC = tuple("0123456789-+<.")

Cells = tuple[str, ...]
Guide = Literal["none", "zero", "diagonal", "half"]


class Look(NamedTuple):
    """Places of an arm's colour, dash and marker: no two of the first 64 arms have the same three."""

    colour: int
    dash: int
    marker: int


def look_of(index: int) -> Look:
    """Return how the arm at a place among the planned ones is drawn; where colours repeat, dash and marker differ."""
    turn, colour = divmod(index, len(COLOURS))
    return Look(colour, (colour + turn) % len(DASHES), (colour + turn) % len(MARKERS))


class Point(NamedTuple):
    """One value of a line with its band; `low` and `high` are None where there is no band."""

    x: float
    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The value with its bounds, for people."""
        if self.low is None or self.high is None:
            return number(self.value)
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def of_interval(x: float, interval: Interval | Share) -> Point:
    """Return an interval or a share as a point at `x`; bounds that are infinite are left out."""
    if not math.isfinite(interval.low):
        return Point(x, interval.mean, None, None)
    return Point(x, interval.mean, interval.low, interval.high)


@dataclass(frozen=True)
class Series:
    """One arm's line (or row) in a chart; `index` sets colour, dash and marker."""

    label: str
    index: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Mark:
    """Where something happened on the x axis, with the interval of its place where one is known."""

    text: str
    index: int
    x: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading."""

    caption: str
    head: Cells
    rows: tuple[Cells, ...]
    looks: tuple[int, ...] = ()
    """The arm of each row, where each row is one."""

    @property
    def worded(self) -> tuple[bool, ...]:
        """Whether a column holds words rather than numbers."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.head)
        return tuple(not any(cell[:1] in NUMERIC for cell in column if cell) for column in columns)


@dataclass(frozen=True)
class Chart:
    """One chart of the page.

    Attributes:
        name: unique in the page; letters, digits and hyphens.
        title: heading above the chart.
        x: title of the x axis, with its unit.
        y: title of the y axis, with its unit; of a forest, what the rows are.
        series: what is drawn.
        kind: `line`, points joined along x; `forest`, one row for each series with its interval along x.
        band: what the bounds are, in words (`95% interval`); empty where there are none.
        guide: a line for the eye: at 0 or 0.5 of the values, or along y = x.
        marks: vertical markers.
        whole: x takes whole numbers only.
    """

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    kind: Literal["line", "forest"] = "line"
    band: str = ""
    guide: Guide = "none"
    marks: tuple[Mark, ...] = ()
    whole: bool = True

    @property
    def description(self) -> str:
        """What a screen reader says: what is drawn, and where each line starts and ends."""
        if self.kind == "forest":
            said = [f"{one.label}: {one.points[0].text}" for one in self.series]
            return f"{self.title}. {self.x}{self._bounds}. {'; '.join(said)}."
        said = [_course(one) for one in self.series]
        marked = [f"Marked: {mark.text}." for mark in self.marks]
        return " ".join([f"{self.title}. {self.y} by {self.x}{self._bounds}. {'; '.join(said)}.", *marked])

    @property
    def _bounds(self) -> str:
        return f", with {self.band}" if self.band else ""

    @property
    def table(self) -> Table:
        """The numbers behind the chart."""
        bounds = f" [{self.band}]" if self.band else ""
        if self.kind == "forest":
            rows = tuple((one.label, one.points[0].text) for one in self.series)
            return Table(f"{self.title}{bounds}", (self.y, f"{self.x}{bounds}"), rows)
        values = [{point.x: point.text for point in one.points} for one in self.series]
        places = sorted({x for column in values for x in column})
        head = (self.x, *(one.label for one in self.series))
        return Table(
            f"{self.y}{bounds}",
            head,
            tuple((_place(x), *(column.get(x, "") for column in values)) for x in places),
        )


def series_of(lines: Mapping[str, Iterable[Point]], planned: Sequence[str]) -> tuple[Series, ...]:
    """Return the lines that have a point, by arm; the arm's place among the planned ones sets its look."""
    made = (Series(label, planned.index(label), tuple(points)) for label, points in lines.items())
    return tuple(one for one in made if one.points)


def drawn(chart: Chart) -> tuple[Chart, ...]:
    """Return the chart if it has anything to draw."""
    return (chart,) if any(one.points for one in chart.series) else ()


def _place(x: float) -> str:
    return str(int(x)) if x == int(x) else number(x)


def _course(series: Series) -> str:
    first, last = series.points[0], series.points[-1]
    if first == last:
        return f"{series.label}: {last.text} at {_place(last.x)}"
    return f"{series.label}: from {first.text} at {_place(first.x)} to {last.text} at {_place(last.x)}"


def specification(chart: Chart, height: int = HEIGHT) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart, its lines drawn `height` pixels high; in a chart that is lower
    than others the unit of y stands below its name.

    Its parameter `shown` holds the indices of the arms that are drawn. No text of a record is used as an expression,
    a field name or a template: labels are values only.
    """
    layers = _forest_layers(chart) if chart.kind == "forest" else _line_layers(chart, height)
    rows = len(chart.series)
    drawn: dict[str, Any] = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": chart.description,
        "width": "container",
        "height": height if chart.kind == "line" else ROW_HEIGHT * max(rows, 2),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": list(_rows(chart.series))},
        "params": [{"name": "shown", "value": sorted({one.index for one in chart.series})}],
        "transform": [SHOWN],
        "layer": layers,
        "config": _config(),
    }
    readable: dict[str, Any] = _readable(drawn)
    return readable


def _readable(part: Any) -> Any:
    """Return a part of a specification with spaces for line separators and controls: Vega writes texts into expressions
    of its own, whose reader takes U+2028 for the end of a line and stops."""
    if isinstance(part, dict):
        return {name: _readable(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_readable(value) for value in part]
    return _UNREADABLE.sub(" ", part) if isinstance(part, str) else part


def _rows(series: Iterable[Series]) -> Iterable[dict[str, Any]]:
    for one in series:
        for point in one.points:
            yield {
                "index": one.index, "arm": one.label, "x": point.x, "y": point.value,
                "low": point.low, "high": point.high, "text": point.text,
            }  # fmt: skip


def _looks(series: Sequence[Series]) -> dict[str, Any]:
    """Return the encodings of colour, dash and marker by arm."""
    domain = list(dict.fromkeys(one.index for one in series))
    looks = [look_of(index) for index in domain]
    ranges: dict[str, list[Any]] = {
        "color": [f"var(--arm-{look.colour})" for look in looks],
        "strokeDash": [list(DASHES[look.dash]) for look in looks],
        "shape": [MARKERS[look.marker] for look in looks],
    }
    return {
        channel: {"field": "index", "type": "nominal", "legend": None, "scale": {"domain": domain, "range": values}}
        for channel, values in ranges.items()
    }


def _tooltip(chart: Chart) -> list[dict[str, Any]]:
    titles = {"arm": "arm", "x": chart.x, "text": chart.y}
    if chart.kind == "forest":
        titles = {"arm": chart.y, "text": chart.x}
    return [
        {"field": field, "type": "quantitative" if field == "x" else "nominal", "title": _UNQUOTED.sub("'", title)}
        for field, title in titles.items()
    ]


def _line_layers(chart: Chart, height: int) -> list[dict[str, Any]]:
    looks = _looks(chart.series)
    colour, dash, shape = looks["color"], looks["strokeDash"], looks["shape"]
    axis: dict[str, Any] = {"format": "d", "tickMinStep": 1} if chart.whole else {}
    places = sorted(point.x for one in chart.series for point in one.points)
    if chart.whole and places and places[-1] - places[0] <= MAX_TICKS:  # else 1 stands at 0.5, too
        axis["values"] = list(range(int(places[0]), int(places[-1]) + 1))
    x = {"field": "x", "type": "quantitative", "title": chart.x, "axis": {"grid": False, **axis}}
    x["scale"] = {"zero": False, "nice": False, "padding": 8}
    title = chart.y if height >= HEIGHT else chart.y.replace(" (", "\n(", 1).split("\n", 1)
    y = {"field": "y", "type": "quantitative", "title": title, "scale": {"zero": False}}
    longest = max((len(one.points) for one in chart.series), default=0)
    layers = _guides(chart)
    if _bounded(chart):
        mark = {"type": "area", "opacity": 0.16}
        encoding = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour}
        layers.append({"transform": [BOUNDED], "mark": mark, "encoding": encoding})
    mark = {"type": "line", "strokeWidth": 2}
    layers.append({"mark": mark, "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash}})
    if longest <= MAX_MARKERS:
        mark = {"type": "point", "filled": True, "size": 45, "opacity": 1}
        layers.append({"mark": mark, "encoding": {"x": x, "y": y, "color": colour, "shape": shape}})
    if longest <= MAX_HOVERS:
        mark = {"type": "point", "filled": True, "size": 260, "opacity": 0}
        layers.append({"mark": mark, "encoding": {"x": x, "y": y, "color": colour, "tooltip": _tooltip(chart)}})
    return layers + _mark_layers(chart.marks, colour)


def _bounded(chart: Chart) -> bool:
    return any(point.low is not None for one in chart.series for point in one.points)


def _guides(chart: Chart) -> list[dict[str, Any]]:
    mark: dict[str, Any] = {"type": "rule", "color": "var(--soft)", "strokeDash": [3, 3], "opacity": 0.8}
    if chart.guide == "zero":
        return [{"data": {"values": [{}]}, "mark": mark, "encoding": {"y": {"datum": 0}}}]
    if chart.guide == "diagonal":
        ends = {channel: {"datum": value} for channel, value in (("x", 0), ("x2", 1), ("y", 0), ("y2", 1))}
        return [{"data": {"values": [{}]}, "mark": mark, "encoding": ends}]
    return []


def _mark_layers(marks: Sequence[Mark], colour: dict[str, Any]) -> list[dict[str, Any]]:
    if not marks:
        return []
    rows = [{"index": mark.index, "x": mark.x, "low": mark.low, "high": mark.high, "text": mark.text} for mark in marks]
    x = {"field": "x", "type": "quantitative"}
    coloured: dict[str, Any] = {"color": colour, "tooltip": [{"field": "text", "type": "nominal", "title": "marked"}]}
    rule: dict[str, Any] = {"type": "rule", "strokeWidth": 1.5, "strokeDash": [1, 3]}
    data: dict[str, Any] = {"data": {"values": rows}, "transform": [SHOWN]}
    layers: list[dict[str, Any]] = [{**data, "mark": rule, "encoding": {"x": x, **coloured}}]
    for place, mark in enumerate(marks):  # each in a row of its own above the plot
        own, row = {**data, "data": {"values": [rows[place]]}}, {"value": -MARK_ROW * (place + 1)}
        if mark.low is not None and mark.high is not None:
            bar = {"type": "rule", "strokeWidth": 2.5}
            reach = {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": row, **coloured}
            layers.append({**own, "mark": bar, "encoding": reach})
        dot = {"type": "point", "shape": MARKERS[look_of(mark.index).marker], "filled": True, "size": 90, "opacity": 1}
        layers.append({**own, "mark": dot, "encoding": {"x": x, "y": row, **coloured}})
    return layers


def _forest_layers(chart: Chart) -> list[dict[str, Any]]:
    looks = _looks(chart.series)
    labels = [one.label for one in chart.series]
    y = {"field": "arm", "type": "nominal", "sort": labels, "title": None, "axis": {"labelLimit": 190, "grid": False}}
    x = {"field": "x", "type": "quantitative", "title": chart.x, "scale": {"zero": False}}
    x["axis"] = {"titleAnchor": "end"}  # a long title may reach below the labels of the rows
    value = {**x, "field": "y"}
    layers: list[dict[str, Any]] = []
    if _bounded(chart):
        bounds = {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": looks["color"]}
        layers.append({"transform": [BOUNDED], "mark": {"type": "rule", "strokeWidth": 2.5}, "encoding": bounds})
    look = {"color": looks["color"], "shape": looks["shape"]}
    dot = {"type": "point", "filled": True, "size": 90, "opacity": 1}
    layers.append({"mark": dot, "encoding": {"x": value, "y": y, **look, "tooltip": _tooltip(chart)}})
    middle = {"zero": 0, "half": 0.5}.get(chart.guide)
    if middle is not None:
        mark = {"type": "rule", "color": "var(--soft)", "strokeDash": [3, 3]}
        layers.insert(0, {"data": {"values": [{}]}, "mark": mark, "encoding": {"x": {"datum": middle}}})
    return layers


def _config() -> dict[str, Any]:
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
        "aria": False,  # the page describes the chart, and its table holds every value
        "view": {"stroke": None},
        "axis": {
            "labelColor": "var(--ink)", "titleColor": "var(--ink)", "titleFontWeight": "normal", "labelFontSize": 12,
            "titleFontSize": 12, "gridColor": "var(--line)", "domainColor": "var(--soft)", "tickColor": "var(--soft)",
            "tickCount": 5, "labelOverlap": True,
        },
    }  # fmt: skip


def interval_cell(value: Interval | None, otherwise: str = "unknown") -> str:
    """Return an interval as the text of a cell."""
    return otherwise if value is None else interval_text(value)
