"""Means by row of the table with everything that is needed for intervals of what is built from them.

Rows of the table are rounds, or neighbouring rounds pooled where one alone has too few prompts. Within a row, the
responses of one run to one prompt are averaged first, so that a unit is (seed, prompt). Three designs:

    paired      the same P prompts answered in every row:  x_ksp,  mean_k = mean over s, p
    panel       prompts come back, but not all in every row (labels are missing):  x_kc = a_c + b_k + e,  least squares
    unpaired    prompts differ:  mean_k = mean over seeds of the mean over that row's prompts

The means have covariance  C = C_S / S + C_P / P  (seeds and prompts resampled crosswise; the residual is in both, which
errs on the wide side, as in `intervals`). A contrast w has variance w'Cw and Welch and Satterthwaite's degrees
of freedom. Everything is closed, so a million responses cost what a thousand do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from foresighted.statistics.intervals import Interval, Method, mean_interval, student
from foresighted.statistics.layout import Layout, Responses, connected
from foresighted.statistics.numbers import Floats, Ints, Mask

LEVEL = 0.95
RESAMPLED_PROMPTS = 1000
"""Paired differences of at most so many prompts get a bootstrap interval, larger ones Student's."""
DRAWS = 20000


@dataclass(frozen=True)
class Profile:
    """Means (K,), in rounds order, and the parts of their covariance with degrees of freedom each."""

    means: Floats
    parts: tuple[tuple[Floats, float], ...]
    counts: Ints
    """Units by row."""
    seeds: int
    deviation: float
    """Prompt-to-prompt standard deviation in the first row."""
    grid: Floats | None
    """(K, S, P) where paired."""

    def contrast(self, weights: Floats, *, level: float = LEVEL) -> Interval:
        """Return weights' means with Student's interval; infinite where nothing is known of the spread."""
        error, freedom = self.error(weights)
        mean = float(weights @ self.means)
        half = student((1 + level) / 2, freedom) * error if freedom > 0 else math.inf
        prompts = int(self.counts[weights != 0].min()) if weights.any() else int(self.counts.min())
        return Interval(mean, mean - half, mean + half, level, self.seeds, prompts, Method.STUDENT)

    def error(self, weights: Floats) -> tuple[float, float]:
        """Return the standard error of a contrast and its degrees of freedom (0: unknown)."""
        variances = [(max(float(weights @ part @ weights), 0.0), freedom) for part, freedom in self.parts]
        total = sum(variance for variance, _ in variances)
        if not self.parts:
            return math.inf, 0.0
        if total == 0:
            return 0.0, min(freedom for _, freedom in variances)
        spread = sum(variance**2 / freedom for variance, freedom in variances if variance)
        return math.sqrt(total), total**2 / spread

    def difference(self, later: int, earlier: int) -> Interval:
        """Return mean[later] - mean[earlier]: by the bootstrap where it is paired and small enough, else Student's."""
        if self.grid is not None and self.grid.shape[2] <= RESAMPLED_PROMPTS:
            return mean_interval(self.grid[later] - self.grid[earlier], seed=0, level=LEVEL)
        rows = np.eye(len(self.means))
        return self.contrast(rows[later] - rows[earlier])

    def row(self, row: int) -> Interval:
        """Return the mean of one row."""
        return self.contrast(np.eye(len(self.means))[row])

    def corrected_low(self, best: int, end: int, *, family: int) -> float:
        """Return the lower end of mean[best] - mean[end] that allows for `best` having been picked among the rows.

            d_best - q se_best,   q: the 1 - (1 - level) / 2 / family quantile of  max over rows of |t_row|

        one-sided, t_row the studentised differences from row `end`, jointly multivariate t (drawn once, seed 0).

        Args:
            best: row that is compared.
            end: row that it is compared with.
            family: how many runs are judged together.

        References:
            Dunnett, "A multiple comparison procedure for comparing several treatments with a control" (1955).
        """
        rows = np.eye(len(self.means))
        contrasts = np.delete(rows - rows[end], end, axis=0)
        place = best - (best > end)
        errors = np.array([self.error(row)[0] for row in contrasts])
        if not np.isfinite(errors).all():
            return -math.inf
        fall = float(contrasts[place] @ self.means)
        if not errors.any():
            return fall
        parts = [(contrasts @ part @ contrasts.T, freedom) for part, freedom in self.parts]
        noise: Floats = sum(drawn(parts, DRAWS), np.zeros(1))
        scaled = noise[:, errors > 0] / errors[errors > 0]
        quantile = float(np.quantile(scaled.max(axis=1), 1 - (1 - LEVEL) / 2 / family))
        return fall - quantile * float(errors[place])


def drawn(parts: Sequence[tuple[Floats, float]], draws: int) -> Iterator[Floats]:
    """Give draws of a multivariate t with mean 0 for each covariance (K, K) and its degrees of freedom, (draws, K)."""
    standard = _standard(tuple(freedom for _, freedom in parts), len(parts[0][0]) if parts else 0, draws)
    for (covariance, _), (normal, scale) in zip(parts, standard, strict=True):
        values, vectors = np.linalg.eigh(covariance)
        yield normal @ (vectors * np.sqrt(values.clip(min=0))).T * scale


@lru_cache(maxsize=4)
def _standard(freedoms: tuple[float, ...], size: int, draws: int) -> tuple[tuple[Floats, Floats], ...]:
    """Return, for each number of degrees of freedom, normal draws (draws, size) and what makes them t (draws, 1)."""
    random = np.random.default_rng(0)
    return tuple(
        (random.standard_normal((draws, size)), np.sqrt(freedom / random.chisquare(freedom, draws))[:, None])
        for freedom in freedoms
    )


@dataclass(frozen=True)
class Units:
    """Responses gathered into units, one for each row, seed and prompt: what every column's profile starts from."""

    rows: int
    seeds: int
    design: Literal["paired", "panel", "unpaired"]
    places: Ints
    """Which responses count."""
    unit: Ints
    """Unit of each of them."""
    counts: Floats
    """Responses by unit."""
    cell: Ints
    """row * seeds + seed of each unit."""
    prompt: Ints
    """Prompt of each unit, codes from 0."""
    whole: Mask
    """Of each unit: whether its prompt is in every cell."""


def gather(responses: Responses, known: Mask, layout: Layout) -> Units | None:
    """Return the units of the responses that `known` marks; None where a row of the layout has none.

    Args:
        responses: of one arm.
        known: (R,), which of them count.
        layout: rows of the table.
    """
    rows = layout.rows_of(responses.round)
    places = np.flatnonzero(known & (rows >= 0))
    if not len(places):
        return None
    _, runs = np.unique(responses.run[places], return_inverse=True)
    seeds = int(runs.max()) + 1
    cells = layout.rows * seeds
    codes, unit, counts = np.unique(
        responses.prompt[places] * cells + rows[places] * seeds + runs, return_inverse=True, return_counts=True
    )
    cell, prompt = codes % cells, codes // cells
    if len(np.unique(cell // seeds)) < layout.rows:
        return None
    _, prompt = np.unique(prompt, return_inverse=True)
    whole = (np.bincount(prompt) == cells)[prompt]
    design = _design(layout, cell // seeds, prompt * seeds + cell % seeds, whole)
    return Units(layout.rows, seeds, design, places, unit, counts.astype(np.float64), cell, prompt, whole)


def _design(layout: Layout, row: Ints, cluster: Ints, whole: Mask) -> Literal["paired", "panel", "unpaired"]:
    """Return how units can be compared: whole prompts if they are half of all, else what comes back, else neither."""
    if not layout.paired:
        return "unpaired"
    if 2 * whole.sum() >= len(whole):
        return "paired"
    return "panel" if connected(row, cluster, layout.rows) else "unpaired"


def profile(values: Floats, units: Units) -> Profile:
    """Return the profile of a column.

    Args:
        values: (R,), one a response; finite where the units were gathered.
        units: from `gather`.
    """
    means: Floats = np.bincount(units.unit, weights=values[units.places]) / units.counts
    if units.design == "panel":
        return _panel(means, units)
    if units.design == "paired":  # codes are prompt-major
        grid = means[units.whole].reshape(-1, units.rows, units.seeds).transpose(1, 2, 0)
        return of_grid(np.ascontiguousarray(grid))
    return _unpaired(means, units)


def of_grid(grid: Floats) -> Profile:
    """Return the profile of a paired grid, (K, S, P)."""
    rows, seeds, prompts = grid.shape
    parts = []
    if seeds > 1:
        parts.append((_covariance(grid.mean(axis=2)) / seeds, float(seeds - 1)))
    if prompts > 1:
        parts.append((_covariance(grid.mean(axis=1)) / prompts, float(prompts - 1)))
    deviation = math.sqrt(float(grid[0].var(axis=1, ddof=1).mean())) if prompts > 1 else 0.0
    counts = np.full(rows, prompts, np.int64)
    return Profile(grid.mean(axis=(1, 2)), tuple(parts), counts, seeds, deviation, grid)


def _panel(values: Floats, units: Units) -> Profile:
    """Return the profile of an incomplete panel.

        x_kc = a_c + b_k + e,   c = (seed, prompt),   b = A^+ sum_c (x_c - mean x_c),   A = sum_c (D_c - d_c d_c' / n_c)

    with d_c which rows c is in, D_c = diag(d_c), n_c how many. The covariance is the sandwich over prompts, and over
    seeds where there are several; the level is the mean of a_c.
    """
    row, seed = units.cell // units.seeds, units.cell % units.seeds
    _, cluster = np.unique(units.prompt * units.seeds + seed, return_inverse=True)
    sizes = np.bincount(cluster).astype(np.float64)
    count = len(sizes)
    here = np.zeros((count, units.rows))
    here[cluster, row] = 1.0
    centred = values - (np.bincount(cluster, weights=values) / sizes)[cluster]
    inverse = np.linalg.pinv(np.diag(here.sum(axis=0)) - here.T @ (here / sizes[:, None]))
    effects = inverse @ np.bincount(row, weights=centred, minlength=units.rows)
    rest = values - effects[row]
    level = np.bincount(cluster, weights=rest) / sizes
    scores = np.zeros((count, units.rows))
    scores[cluster, row] = rest - level[cluster]
    pulls = scores @ inverse + ((level - level.mean()) / count)[:, None]
    parts = []
    for codes in (seed, units.prompt):
        of_cluster = np.zeros(count, np.int64)
        of_cluster[cluster] = codes
        groups = int(of_cluster.max()) + 1
        if groups > 1:
            sums = np.zeros((groups, units.rows))
            np.add.at(sums, of_cluster, pulls)
            parts.append((sums.T @ sums * groups / (groups - 1), float(groups - 1)))
    first = values[row == 0]
    deviation = float(first.std(ddof=1)) if len(first) > 1 else 0.0
    counts = np.bincount(row, minlength=units.rows)
    return Profile(effects + level.mean(), tuple(parts), counts, units.seeds, deviation, None)


def _unpaired(means: Floats, units: Units) -> Profile:
    cells, shape = units.rows * units.seeds, (units.rows, units.seeds)
    counts = np.bincount(units.cell, minlength=cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_cell = np.bincount(units.cell, weights=means, minlength=cells) / counts
        squares = np.bincount(units.cell, weights=(means - of_cell[units.cell]) ** 2, minlength=cells)
        variances = (squares / (counts - 1)).reshape(shape)
    counts, of_cell = counts.reshape(shape), of_cell.reshape(shape)
    present = counts > 0
    of_row: Floats = np.where(present, of_cell, 0.0).sum(axis=1) / present.sum(axis=1)
    parts = []
    if units.seeds > 1:
        parts.append((_covariance(np.where(present, of_cell, of_row[:, None])) / units.seeds, float(units.seeds - 1)))
    if (counts[present] > 1).all():  # else the spread of prompts is unknown, and seeds tell it only if none is absent
        shares = np.where(present, variances / np.maximum(counts, 1), 0.0).sum(axis=1) / present.sum(axis=1) ** 2
        parts.append((np.diag(shares), float(counts[present].min() - 1)))
    elif not present.all():
        parts = []
    first = variances[0][counts[0] > 1]
    deviation = math.sqrt(float(first.mean())) if len(first) else 0.0
    return Profile(of_row, tuple(parts), counts.sum(axis=1), units.seeds, deviation, None)


def _covariance(columns: Floats) -> Floats:
    """Return the covariance (K, K) of K quantities seen n times, (K, n)."""
    centred = columns - columns.mean(axis=1, keepdims=True)
    made: Floats = centred @ centred.T / (columns.shape[1] - 1)
    return made
