"""Is the reward model as sure as it should be: predicted preference against label, by rows of the table.

    p = sigma(m),   m = r(y) - r(y'),   y the response that the reward model prefers, so p >= 1/2
    q = the label's preference of y over y'
    Brier = mean (p - q)^2,   overconfidence = mean (p - q)
    accuracy = share of pairs with q > 1/2 among those whose label is not 1/2; m = 0 counts one half
    ECE = sum over ten bins of p of (share of the bin) |mean p - mean q|

Pairs are (response, its reference) where the log holds both rewards and a label, otherwise two responses to one prompt
in one round whose utilities (or labels) are known: q is then 1, 0, or 1/2 for a tie. Pairs of a prompt are averaged
first; intervals are Student's over prompts, that of ECE a basic bootstrap over prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foresighted.auditing.result import Calibration
from foresighted.auditing.rollouts import Rollouts
from foresighted.statistics.calibration import right_order
from foresighted.statistics.intervals import Interval, Method, student_interval
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Floats, Ints, Mask
from foresighted.statistics.profile import LEVEL

BINS = 10
RESAMPLES = 200
MOST_PAIRS = 4000
"""Pairs of a row that ECE reads."""
FEWEST_PAIRS = 20


@dataclass(frozen=True)
class Pairs:
    """Pairs of responses, the one that the reward model prefers first."""

    row: Ints
    prompt: Ints
    predicted: Floats
    label: Floats
    right: Floats
    """Whether the label has them in the same order; nan where it has them in none."""

    def only(self, rows: Mask) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.row[rows], self.prompt[rows], self.predicted[rows], self.label[rows], self.right[rows])


def calibrate(rollouts: Rollouts, layout: Layout) -> tuple[Calibration, ...]:
    """Return the calibration of the reward model in each row that has enough pairs."""
    pairs = reference_pairs(rollouts, layout) or prompt_pairs(rollouts, layout)
    of_rows = [(row, pairs.only(pairs.row == row)) for row in np.unique(pairs.row).tolist()] if pairs else []
    return tuple(_of_row(layout.span(row), own) for row, own in of_rows if len(own.row) >= FEWEST_PAIRS)


def reference_pairs(rollouts: Rollouts, layout: Layout) -> Pairs | None:
    """Return (response, reference) pairs with a label, or None where there is none."""
    rows = layout.rows_of(rollouts.round)
    use = rollouts.known("reference_reward") & rollouts.known("reward") & rollouts.known("label") & (rows >= 0)
    if not use.any():
        return None
    margin = rollouts.numbers["reward"][use] - rollouts.numbers["reference_reward"][use]
    return _oriented(rows[use], rollouts.prompt[use], margin, rollouts.numbers["label"][use])


def prompt_pairs(rollouts: Rollouts, layout: Layout) -> Pairs | None:
    """Return disjoint pairs of responses to one prompt in one round of one run, or None where nothing is known."""
    measure = "utility" if "utility" in rollouts.numbers else "label"
    rows = layout.rows_of(rollouts.round)
    use = np.flatnonzero(rollouts.known("reward") & rollouts.known(measure) & (rows >= 0))
    if not len(use):
        return None
    order = use[np.lexsort((rollouts.prompt[use], rollouts.round[use], rollouts.run[use]))]
    keys = np.stack([rollouts.run[order], rollouts.round[order], rollouts.prompt[order]])
    new = np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)]
    group = np.cumsum(new) - 1
    rank = np.arange(len(order)) - np.flatnonzero(new)[group]
    first = np.flatnonzero((rank[:-1] % 2 == 0) & (group[:-1] == group[1:]))
    one, other = order[first], order[first + 1]
    margin = rollouts.numbers["reward"][one] - rollouts.numbers["reward"][other]
    gain = rollouts.numbers[measure][one] - rollouts.numbers[measure][other]
    return _oriented(rows[one], rollouts.prompt[one], margin, np.sign(gain) / 2 + 0.5)


def _oriented(row: Ints, prompt: Ints, margin: Floats, label: Floats) -> Pairs:
    right = right_order(margin, label)
    label = np.where(margin < 0, 1 - label, np.where(margin == 0, 0.5, label))
    return Pairs(row, prompt, 1 / (1 + np.exp(-np.abs(margin))), label, right)


def _of_row(span: tuple[int, int], pairs: Pairs) -> Calibration:
    off, ordered = pairs.predicted - pairs.label, ~np.isnan(pairs.right)
    return Calibration(
        *span, len(off), _over_prompts(off**2, pairs.prompt), _ece(pairs.prompt, pairs.predicted, pairs.label),
        _over_prompts(off, pairs.prompt),
        _over_prompts(pairs.right[ordered], pairs.prompt[ordered]) if ordered.any() else None,
    )  # fmt: skip


def _over_prompts(values: Floats, prompt: Ints) -> Interval:
    _, code, counts = np.unique(prompt, return_inverse=True, return_counts=True)
    return student_interval(np.bincount(code, weights=values) / counts, level=LEVEL)


def _ece(prompt: Ints, predicted: Floats, label: Floats) -> Interval:
    if len(predicted) > MOST_PAIRS:
        kept = np.linspace(0, len(predicted) - 1, MOST_PAIRS).astype(np.int64)
        prompt, predicted, label = prompt[kept], predicted[kept], label[kept]
    edges = np.quantile(predicted, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, predicted)
    names, code = np.unique(prompt, return_inverse=True)
    off = np.zeros((len(names), BINS))
    np.add.at(off, (code, bins), predicted - label)
    sizes = np.bincount(code).astype(np.float64)
    random = np.random.default_rng(0)
    weights = np.vstack(
        [np.ones(len(names)), random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)]
    )
    errors = np.abs(weights @ off).sum(axis=1) / (weights @ sizes)
    low, high = np.quantile(errors[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(errors[0])
    low, high = max(0.0, 2 * mean - float(high)), max(mean, 2 * mean - float(low))
    return Interval(mean, low, high, LEVEL, 1, len(names), Method.BOOTSTRAP)
