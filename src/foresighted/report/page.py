"""One self-contained HTML page of a comparison or a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from foresighted.evaluate.comparison import Arm, Comparison, read_plan, summarise
from foresighted.evaluate.intervals import Interval, interval_text, number
from foresighted.report import charts
from foresighted.report.samples import read_samples

REPORT = "report.html"


@dataclass(frozen=True)
class TableRow:
    """One arm in the summary table; cells are text."""

    label: str
    index: int
    """Place among the planned arms, which sets colour, dash and marker."""
    labels: str
    utility: str
    utility_difference: str
    reward: str
    kl: str
    collapsed: str


@dataclass(frozen=True)
class ChartGroup:
    """Charts that stand side by side under one heading."""

    title: str
    charts: tuple[charts.Chart, ...]
    caption: str


def write_report(out: Path) -> Path:
    """Write `OUT/report.html` from the records of a comparison, or of one run, atomically.

    Args:
        out: a comparison directory (`config.yaml` names `arms`) or the run directory of `foresighted train`.

    Returns:
        The path of the page.

    Raises:
        DataError: the records cannot be summarised, for example because nothing was evaluated yet.
        ConfigError: `config.yaml` cannot be read.
    """
    comparison = summarise(out)
    environment = Environment(
        loader=PackageLoader("foresighted.report", "."),
        autoescape=True,  # every text of a record is hostile input
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _known
    page = environment.get_template("template.html").render(_content(out, comparison))
    part = out / f".{REPORT}.part"
    # Records may hold a lone surrogate (JSON allows it); UTF-8 does not.
    part.write_bytes(page.encode("utf-8", "replace"))
    os.replace(part, out / REPORT)
    return out / REPORT


def _content(out: Path, comparison: Comparison) -> dict[str, Any]:
    planned = {label: index for index, label in enumerate(comparison.planned_arms)}
    return {
        "title": _title(out, comparison),
        "single": read_plan(out).single,
        "comparison": comparison,
        "sentences": comparison.sentences(),
        "baseline": comparison.planned_arms[0],
        "planned": planned,
        "symbols": Markup("".join(charts.legend_symbol(planned[arm.label]) for arm in comparison.arms)),
        "looks": [charts.look(index).colour for index in range(len(planned))],
        "table": [_table_row(arm, comparison, planned[arm.label]) for arm in comparison.arms],
        "groups": [group for group in _groups(comparison) if group.charts],
        "samples": read_samples(out, comparison),
        "config": _text(out / "config.yaml"),
        "environment": _text(out / "environment.json"),
    }


def _title(out: Path, comparison: Comparison) -> str:
    name = out.resolve().name
    if len(comparison.planned_arms) == 1:
        return f"{comparison.planned_arms[0]}: one arm of iterative RLHF ({name})"
    baseline, *others = comparison.planned_arms
    versus = others[0] if len(others) == 1 else f"{len(others)} other arms"
    return f"{baseline} and {versus} in iterative RLHF ({name})"


def _known(value: float | None) -> str:
    return "unknown" if value is None else number(value)


def _interval(value: Interval | None, otherwise: str = "unknown") -> str:
    return otherwise if value is None else interval_text(value)


def _table_row(arm: Arm, comparison: Comparison, index: int) -> TableRow:
    totals = sorted({labels.total for labels in arm.labels})
    share = arm.collapsed_share
    is_baseline = arm.label == comparison.planned_arms[0]
    return TableRow(
        label=arm.label if arm.finished else f"{arm.label} (unfinished, round {arm.last_round})",
        index=index,
        labels=str(totals[0]) if len(totals) == 1 else f"{totals[0]} to {totals[-1]}",
        utility=_interval(arm.final_utility),
        utility_difference="baseline" if is_baseline else _interval(arm.utility_difference),
        reward=interval_text(arm.final_reward),
        kl=interval_text(arm.evaluated[-1].kl),
        collapsed="unknown" if share is None else f"{share.successes} of {share.total}",
    )


def _groups(comparison: Comparison) -> list[ChartGroup]:
    level = f"{comparison.level:.0%}"
    first = comparison.arms[0].evaluated[0]
    resampled = first.reward.resampled
    band = f"Bands: {level} bootstrap intervals; resampled: {resampled}."
    return [
        ChartGroup(
            "What was meant and what was measured",
            tuple(charts.result_charts(comparison)),
            f"Means over {comparison.prompts} held-out prompts and all seeds. {band} They hold the spread between"
            " prompts, which all arms share: overlapping bands can still go with a clear paired difference (table).",
        ),
        ChartGroup(
            "Where the two part",
            tuple(charts.gap_charts(comparison)),
            "Gap: how far proxy reward has grown since the first evaluated round, minus how far true utility has, each"
            " divided by its own prompt-to-prompt standard deviation at that round so that the two can be compared. At"
            f" 0 they moved together; above 0 the reward model is more pleased than it should be. {band}",
        ),
        ChartGroup(
            "In training",
            tuple(charts.training_charts(comparison)),
            "Penalty: what foresight took off the winner's reward (0 for plain RLHF). Overconfidence: the reward"
            " model's preference for the chosen answer over the reference, less the label, before it was retrained."
            " Lines are means over seeds, bands the range of the seeds.",
        ),
        ChartGroup("What the answers look like", tuple(charts.text_charts(comparison)), band),
    ]


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace").rstrip()
    except OSError:
        return None
