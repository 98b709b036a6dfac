"""Charts as one picture, for a README or a notebook: the page's own specifications, in its light colours."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vl_convert

from foresighted.alignment.comparison import summarise
from foresighted.reporting.charts import COLOURS, Chart, specification
from foresighted.reporting.comparison import curves
from foresighted.store.files import write

WIDTH = 400
SCALE = 1.6
INK = {"ink": "#1c2126", "soft": "#56606b", "line": "#d5dae0"}


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
    write(path, png(curves(summarise(out))))
    return path


def png(charts: Sequence[Chart]) -> bytes:
    """Return charts side by side as a PNG."""
    made: bytes = vl_convert.vegalite_to_png(_whole(charts), scale=SCALE)
    return made


def svg(charts: Sequence[Chart]) -> str:
    """Return charts side by side as an SVG."""
    made: str = vl_convert.vegalite_to_svg(_whole(charts))
    return made


def _whole(charts: Sequence[Chart]) -> dict[str, Any]:
    first = specification(charts[0])  # a parameter belongs to the whole picture
    config = first["config"] | {"background": "white", "font": "sans-serif"}
    whole = {"hconcat": [_panel(chart) for chart in charts], "params": first["params"], "config": config}
    colours = {f"arm-{i}": colour for i, colour in enumerate(COLOURS)} | INK
    made: dict[str, Any] = json.loads(
        re.sub(r"var\(--(arm-\d|ink|soft|line)\)", lambda found: colours[found[1]], json.dumps(whole))
    )
    return made


def _panel(chart: Chart) -> dict[str, Any]:
    panel = specification(chart) | {"width": WIDTH, "title": {"text": chart.title, "anchor": "start"}}
    kept = {key: value for key, value in panel.items() if key not in ("$schema", "config", "autosize", "params")}
    named: dict[str, Any] = _with_legend(kept, {one.index: one.label for one in chart.series})
    return named


def _with_legend(value: Any, names: dict[int, str]) -> Any:
    """Return a specification whose arms are told apart by label, with a legend: a picture has no legend beside it."""
    if isinstance(value, list):
        return [_with_legend(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("field") == "index" and "scale" in value:
        domain = [names[index] for index in value["scale"]["domain"]]
        legend = {"orient": "bottom", "title": None, "symbolOpacity": 1, "symbolSize": 110, "labelLimit": 400}
        return value | {"field": "arm", "legend": legend, "scale": value["scale"] | {"domain": domain}}
    named = {key: _with_legend(item, names) for key, item in value.items()}
    if isinstance(named.get("shape"), dict):  # the legend shows markers; an arm's dash would fray their edges
        named["shape"]["legend"] |= {"symbolStrokeWidth": 0}
    return named
