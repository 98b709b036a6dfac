"""The reliability diagram: what the reward model predicts of a labelled pair, against what the label says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from foresighted.reporting.charts import Chart, Point, Series, drawn
from foresighted.reporting.responses import Response
from foresighted.statistics.intervals import mean_interval

BINS = 10
FEWEST_PROMPTS = 5
"""A bin with fewer prompts is left out: its interval would fill the chart."""
RESAMPLES = 1000
RELIABILITY_NOTE = (
    " Predicted against labelled preference: all labelled candidates in ten bins; on the diagonal the reward model is"
    " as sure as it should be. Where only winners are labelled, they are winners because their reward is high, so"
    " some overconfidence is to be expected."
)


def reliability_chart(
    responses: Sequence[Response], arms: Iterable[tuple[str, int]], level: float
) -> tuple[Chart, ...]:
    """Return labelled against predicted preference over the reference, an arm a line, in bins of equal width.

    Args:
        responses: with `label` and `overestimation` (predicted less labelled) where they are known.
        arms: label and look of each arm.
        level: of the intervals.

    Returns:
        One chart, or none where no bin of any arm has enough labelled prompts.
    """
    series = []
    for label, index in arms:
        pairs = [
            (f"{one.seed} {one.prompt_id}", over + preference, preference)
            for one in responses
            if one.arm == label
            and (preference := one.numbers.get("label")) is not None
            and (over := one.numbers.get("overestimation")) is not None
        ]
        points = tuple(reliability_points(pairs, level))
        if points:
            series.append(Series(label, index, points))
    return drawn(
        Chart(
            "reliability", "Predicted against labelled preference", "predicted preference over the reference",
            "labelled preference", tuple(series), band=f"{level:.0%} interval", guide="diagonal", whole=False,
        )
    )  # fmt: skip


def reliability_points(pairs: Sequence[tuple[str, float, float]], level: float) -> Iterable[Point]:
    """Return mean label by mean prediction for each bin.

    Args:
        pairs: prompt (of a seed), predicted preference in [0, 1], label in [0, 1].
        level: of the intervals, which resample prompts: the labels of a prompt are averaged first.
    """
    if not pairs:
        return
    predicted = np.array([pair[1] for pair in pairs])
    label = np.array([pair[2] for pair in pairs])
    prompts = np.array([pair[0] for pair in pairs])
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    for number in range(BINS):
        here = bins == number
        names, code, counts = np.unique(prompts[here], return_inverse=True, return_counts=True)
        if len(names) >= FEWEST_PROMPTS:
            means = [np.bincount(code, weights=values[here]) / counts for values in (predicted, label)]
            interval = mean_interval(means[1][None], seed=0, level=level, resamples=RESAMPLES)
            low, high = max(interval.low, 0.0), min(interval.high, 1.0)  # a preference has no more room
            yield Point(round(float(means[0].mean()), 4), interval.mean, low, high)
