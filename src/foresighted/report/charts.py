"""Charts of a comparison: inline SVG for the page, one PNG for a README.

One colour, dash and marker an arm, the same in every chart and in the legend, so that arms can be told apart in print
and without colour vision. Ink is drawn in a stand-in colour that becomes `currentColor`: the page's text colour, light
or dark.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foresighted.evaluate.comparison import Arm, Comparison, Evaluated, summarise
from foresighted.evaluate.intervals import Interval

INK = "#010203"
"""Stand-in for the page's text colour; no arm has it."""
COLOURS = ("#d55e00", "#0077bb", "#009e73", "#cc6fa8", "#b8860b", "#56a5d8", "#8a63c9", "#7f7f7f")
"""Okabe and Ito's colours, some darkened for a white page; the baseline is first."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MAX_MARKERS = 15


class Look(NamedTuple):
    """How an arm is drawn everywhere."""

    colour: str
    dash: Any
    marker: str


@dataclass(frozen=True)
class Chart:
    """One chart of the page."""

    title: str
    svg: str


class Point(NamedTuple):
    """One value of a line with its band; `low` and `high` are None where there is no band."""

    round: int
    value: float
    low: float | None
    high: float | None


def look(index: int) -> Look:
    """Return the look of the arm at `index` of the planned arms."""
    return Look(COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)])


def _style() -> dict[str, Any]:
    return {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "lines.markersize": 4.5,
        "axes.facecolor": "none",
        "text.parse_math": False,  # an arm's label may hold a dollar sign
        "axes.unicode_minus": True,
        "svg.fonttype": "none",
        "svg.hashsalt": "foresighted",
    }


@contextmanager
def _drawing(background: str = "none") -> Iterator[None]:
    style = {**_style(), "figure.facecolor": background, "savefig.facecolor": background}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a label in a script that matplotlib's font lacks
        yield


def of_interval(evaluated: Evaluated, column: str) -> Point | None:
    """Return a held-out column of one evaluated round as a point, or None where it is not known."""
    interval: Interval | None = getattr(evaluated, column)
    if interval is None:
        return None
    if not math.isfinite(interval.low):
        return Point(evaluated.round, interval.mean, None, None)
    return Point(evaluated.round, interval.mean, interval.low, interval.high)


def heldout_line(arm: Arm, column: str) -> list[Point]:
    """Return a held-out column of an arm by evaluated round."""
    return [point for evaluated in arm.evaluated if (point := of_interval(evaluated, column))]


def training_line(arm: Arm, column: str) -> list[Point]:
    """Return a training column of an arm by round: mean over seeds, with their range where there are several."""
    several = len(arm.seeds) > 1
    return [
        Point(trained.round, spread.mean, spread.lowest if several else None, spread.highest if several else None)
        for trained in arm.trained
        if (spread := trained.columns.get(column))
    ]


def _draw(axes: Axes, comparison: Comparison, line: Callable[[Arm], list[Point]], ylabel: str) -> None:
    planned = {label: index for index, label in enumerate(comparison.planned_arms)}
    for arm in comparison.arms:
        points = line(arm)
        if not points:
            continue
        colour, dash, marker = look(planned[arm.label])
        rounds, values = [point.round for point in points], [point.value for point in points]
        axes.plot(
            rounds, values, color=colour, linestyle=dash, marker=marker if len(points) <= MAX_MARKERS else "",
            label=arm.label,
        )  # fmt: skip
        band = [point for point in points if point.low is not None and point.high is not None]
        low, high = [point.low or 0.0 for point in band], [point.high or 0.0 for point in band]
        axes.fill_between([point.round for point in band], low, high, color=colour, alpha=0.14, linewidth=0)
    axes.set_xlabel("rounds done")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)


def _chart(
    comparison: Comparison, name: str, title: str, ylabel: str, line: Callable[[Arm], list[Point]], zero: bool = False
) -> Chart | None:
    """Return a chart, or None where no arm has a value."""
    if not any(line(arm) for arm in comparison.arms):
        return None
    with _drawing():
        figure = Figure(figsize=(4.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, comparison, line, ylabel)
        if zero:
            axes.axhline(0, color=INK, linewidth=0.8, alpha=0.5)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(title, inline_svg(buffer.getvalue(), name, f"{title}: {ylabel} by rounds done"))


def inline_svg(svg: str, name: str, description: str) -> str:
    """Return matplotlib's SVG document as an element for HTML: no prolog, ids of its own, scalable, ink as text colour.

    Args:
        svg: the document.
        name: prefix of every id, unique in the page.
        description: what a screen reader says; plain text of ours.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)
    element = element.replace(INK, "currentColor")
    head, rest = element.split(">", 1)
    head = re.sub(r' (width|height|version|xmlns:xlink)="[^"]*"', "", head)
    rest = rest.replace("xlink:href", "href")
    return f'{head} class="chart" role="img" aria-label="{description}">{rest}'


def result_charts(comparison: Comparison) -> list[Chart]:
    """Return held-out true utility and proxy reward by round."""
    charts = [
        _chart(comparison, "utility", "True utility, held out", "true utility (labeller's unit)",
               lambda arm: heldout_line(arm, "utility")),
        _chart(comparison, "reward", "Proxy reward, held out", "proxy reward (reward model's unit)",
               lambda arm: heldout_line(arm, "reward")),
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def gap_charts(comparison: Comparison) -> list[Chart]:
    """Return the gap between proxy reward and true utility, and the distance from the first policy."""
    charts = [
        _chart(comparison, "gap", "Gap: growth of proxy less of true utility", "gap (standard deviations)",
               lambda arm: heldout_line(arm, "gap"), zero=True),
        _chart(comparison, "kl", "Distance from the frozen policy", "KL(policy ‖ frozen) (nats an answer)",
               lambda arm: heldout_line(arm, "kl")),
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def training_charts(comparison: Comparison) -> list[Chart]:
    """Return the winner's penalty and the reward model's overconfidence by training round."""
    charts = [
        _chart(comparison, "penalty", "Penalty of the winner", "penalty (reward model's unit)",
               lambda arm: training_line(arm, "penalty_chosen")),
        _chart(comparison, "overconfidence", "Overconfidence of the reward model",
               "predicted - labelled preference", lambda arm: training_line(arm, "overconfidence"), zero=True),
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def text_charts(comparison: Comparison) -> list[Chart]:
    """Return the length and the variety of held-out answers."""
    charts = [
        _chart(comparison, "tokens", "Length of answers, held out", "length (tokens)",
               lambda arm: heldout_line(arm, "tokens")),
        _chart(comparison, "distinct", "Variety of answers, held out", "distinct word pairs (share)",
               lambda arm: heldout_line(arm, "distinct_2")),
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def legend_symbol(index: int) -> str:
    """Return an SVG symbol `swatch-INDEX` of an arm's colour, dash and marker, for the page's legends to refer to."""
    with _drawing():
        figure = Figure(figsize=(0.5, 0.17))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        colour, dash, marker = look(index)
        axes.plot([0, 0.5, 1], [0, 0, 0], color=colour, linestyle=dash)
        axes.plot([0.5], [0], color=colour, marker=marker)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    _, content = inline_svg(buffer.getvalue(), f"arm{index}", "").split(">", 1)
    content = content[: content.rindex("</svg>")]
    return f'<symbol id="swatch-{index}" viewBox="0 0 36 12.24">{content}</symbol>'


def write_picture(out: Path, path: Path) -> Path:
    """Write a PNG of held-out true utility and proxy reward by round, atomically.

    Args:
        out: a comparison directory or the directory of one run.
        path: the PNG file to write.

    Returns:
        The path written.

    Raises:
        DataError: the records cannot be summarised.
    """
    comparison = summarise(out)
    panels: Sequence[tuple[str, str]] = (
        ("utility", "true utility (labeller's unit)"),
        ("reward", "proxy reward (reward model's unit)"),
    )
    known = [panel for panel in panels if any(heldout_line(arm, panel[0]) for arm in comparison.arms)]
    with _drawing("white"):
        figure = Figure(figsize=(4.4 * len(known), 3.5), layout="constrained")
        for position, (column, ylabel) in enumerate(known, start=1):
            axes = figure.add_subplot(1, len(known), position)
            _draw(axes, comparison, partial(heldout_line, column=column), ylabel)
            axes.set_title("Held-out true utility" if column == "utility" else "Held-out proxy reward")
        handles, _ = figure.axes[0].get_legend_handles_labels()
        labels = [arm.label for arm in comparison.arms]
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False)
        part = path.with_name(f".{path.name}.part")
        figure.savefig(part, format="png", dpi=160, metadata={"Software": None})
    os.replace(part, path)
    return path
