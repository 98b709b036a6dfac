"""Is the reward model as sure as it should be: predicted preference against label, by rows of the table.

    p = sigma(m),   m = r(y) - r(y'),   y the response that the reward model prefers, so p >= 1/2
    q = the label's preference of y over y'
    Brier = mean (p - q)^2,   overconfidence = mean (p - q),   accuracy = mean q
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
from foresighted.statistics.intervals import Interval, Method, student_interval
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Floats, Ints
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


def calibrate(rollouts: Rollouts, layout: Layout) -> tuple[Calibration, ...]:
    """Return the calibration of the reward model in each row that has enough pairs."""
    pairs = reference_pairs(rollouts, layout) if "reference_reward" in rollouts.numbers else None
    if pairs is None or not len(pairs.row):
        pairs = prompt_pairs(rollouts, layout)
    made = []
    for row in np.unique(pairs.row).tolist():
        here = pairs.row == row
        if here.sum() >= FEWEST_PAIRS:
            made.append(_of_row(layout.span(row), pairs.prompt[here], pairs.predicted[here], pairs.label[here]))
    return tuple(made)


def reference_pairs(rollouts: Rollouts, layout: Layout) -> Pairs:
    """Return (response, reference) pairs with a label."""
    rows = layout.rows_of(rollouts.round)
    use = rollouts.known("reference_reward") & rollouts.known("reward") & rollouts.known("label") & (rows >= 0)
    if not use.any():
        return Pairs(rows[use], rollouts.prompt[use], np.zeros(0), np.zeros(0))
    margin = rollouts.numbers["reward"][use] - rollouts.numbers["reference_reward"][use]
    return _oriented(rows[use], rollouts.prompt[use], margin, rollouts.numbers["label"][use])


def prompt_pairs(rollouts: Rollouts, layout: Layout) -> Pairs:
    """Return disjoint pairs of responses to one prompt in one round of one run."""
    measure = "utility" if "utility" in rollouts.numbers else "label"
    rows = layout.rows_of(rollouts.round)
    use = np.flatnonzero(rollouts.known("reward") & rollouts.known(measure) & (rows >= 0))
    if not len(use):
        return Pairs(rows[use], rollouts.prompt[use], np.zeros(0), np.zeros(0))
    order = use[np.lexsort((rollouts.prompt[use], rollouts.round[use], rollouts.run[use]))]
    keys = np.stack([rollouts.run[order], rollouts.round[order], rollouts.prompt[order]])
    starts = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)])
    group = np.cumsum(np.r_[False, (keys[:, 1:] != keys[:, :-1]).any(axis=0)])
    rank = np.arange(len(order)) - starts[group]
    first = np.flatnonzero((rank[:-1] % 2 == 0) & (group[:-1] == group[1:]))
    one, other = order[first], order[first + 1]
    margin = rollouts.numbers["reward"][one] - rollouts.numbers["reward"][other]
    gain = rollouts.numbers[measure][one] - rollouts.numbers[measure][other]
    return _oriented(rows[one], rollouts.prompt[one], margin, np.sign(gain) / 2 + 0.5)


def _oriented(row: Ints, prompt: Ints, margin: Floats, label: Floats) -> Pairs:
    label = np.where(margin < 0, 1 - label, np.where(margin == 0, 0.5, label))
    return Pairs(row, prompt, 1 / (1 + np.exp(-np.abs(margin))), label)


def _of_row(span: tuple[int, int], prompt: Ints, predicted: Floats, label: Floats) -> Calibration:
    return Calibration(
        *span, len(predicted), _over_prompts((predicted - label) ** 2, prompt), _ece(prompt, predicted, label),
        _over_prompts(predicted - label, prompt), _over_prompts(label, prompt),
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
    weights = np.vstack([np.ones(len(names)), random.multinomial(len(names), np.full(len(names), 1 / len(names)),
                                                                 size=RESAMPLES)])  # fmt: skip
    errors = np.abs(weights @ off).sum(axis=1) / (weights @ sizes)
    low, high = np.quantile(errors[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(errors[0])
    low, high = max(0.0, 2 * mean - float(high)), max(mean, 2 * mean - float(low))
    return Interval(mean, low, high, LEVEL, 1, len(names), Method.BOOTSTRAP)
