"""From when on utility fell: the top of the best rising-then-falling fit, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Floats
from foresighted.statistics.profile import LEVEL, Profile, drawn

ONSET_SHARE = 0.1
"""The onset is the last row at which less than this share of the fall had happened."""
ONSET_DRAWS = 1000


@dataclass(frozen=True)
class Onset:
    """The last row at which less than a tenth of the fall had happened, with an interval of rounds."""

    round: int
    low: int
    high: int
    level: float


def onset(utility: Profile, layout: Layout) -> Onset:
    """Return from when on utility fell: the end of the top of the best rising-then-falling fit.

        f = argmin sum_k (mean_k - f_k)^2   over sequences that rise (weakly) to some row and fall (weakly) after it
        onset = the last row k with  f_k >= max f - 0.1 (max f - f_last)

    The interval is the central part of the onsets of means that are drawn around these ones with their covariance.

    References:
        Unimodal least squares: Frisén, "Unimodal regression" (1986).
    """
    random = np.random.default_rng(0)
    means = np.tile(utility.means, (ONSET_DRAWS, 1))
    for part, freedom in utility.parts:
        means += drawn(part, freedom, ONSET_DRAWS, random)
    point = int(_onset_rows(utility.means[None])[0])
    low, high = np.quantile(_onset_rows(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest").astype(int)
    return Onset(
        layout.span(point)[0], layout.span(min(int(low), point))[0], layout.span(max(int(high), point))[1], LEVEL
    )


def _onset_rows(means: Floats) -> Floats:
    """Return the onset row of each sequence, (B, K) -> (B,)."""
    fits = unimodal(means)
    top, end = fits.max(axis=1), fits[:, -1]
    above = fits >= (top - ONSET_SHARE * (top - end))[:, None]
    rows: Floats = means.shape[1] - 1 - np.argmax(above[:, ::-1], axis=1)
    return rows


def unimodal(values: Floats) -> Floats:
    """Return the closest sequences that rise weakly to some place and fall weakly after it, (B, K) -> (B, K)."""
    count = values.shape[1]
    best, error = np.empty_like(values), np.full(len(values), np.inf)
    for mode in range(count):
        fit = np.concatenate([_rising(values[:, : mode + 1]), _rising(values[:, :mode:-1])[:, ::-1]], axis=1)
        here = ((fit - values) ** 2).sum(axis=1)
        better = here < error - 1e-12
        best[better], error[better] = fit[better], here[better]
    return best


def _rising(values: Floats) -> Floats:
    """Return isotonic least squares by its min-max formula: max over a <= k of min over b >= k of mean(a..b)."""
    batch, count = values.shape
    if count == 0:
        return values
    total = np.concatenate([np.zeros((batch, 1)), np.cumsum(values, axis=1)], axis=1)
    places = np.arange(count)
    lengths = (places[None, :] - places[:, None] + 1).clip(min=1)
    means = (total[:, None, 1:] - total[:, :-1, None]) / lengths
    means = np.where(places[None, :] >= places[:, None], means, np.inf)  # (B, a, b)
    lowest = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]  # over b >= k
    lowest = np.where(places[None, :, None] <= places[None, None, :], lowest, -np.inf)  # a <= k
    made: Floats = lowest.max(axis=1)
    return made
