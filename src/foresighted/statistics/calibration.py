"""Is a reward model as sure as it should be: its preferences against labels, whoever trains the policy.

A pair has a margin m = r(y) - r(y') and a label p, the preference of y over y' in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from foresighted.statistics.numbers import Floats, mean, sigmoid


def overconfidence(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Return how much more than the labels a reward model prefers what it prefers.

        mean of  sigma(|m|) - q,   q = p if m > 0, 1 - p if m < 0;  a pair with m = 0 contributes 0

    Args:
        pairs: margin and label of every pair that was labelled.

    Returns:
        In [-1/2, 1]; above 0 the model believes too much. None without a pair.

    Example:
        >>> overconfidence([(0.0, 1.0), (2.0, 0.5)]) == (sigmoid(2.0) - 0.5) / 2
        True
    """
    return mean(sigmoid(abs(m)) - (p if m > 0 else 1 - p) if m else 0.0 for m, p in pairs)


def accuracy(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Return the share of pairs that a reward model orders as their label does; a margin of 0 counts one half.

    Args:
        pairs: margin and label of every pair that was labelled; a label of 1/2 orders nothing and is passed over.

    Returns:
        In [0, 1]; None without a pair that has an order.

    Example:
        >>> accuracy([(1.0, 0.9), (0.0, 0.9), (-1.0, 0.5)])
        0.75
    """
    margins, labels = np.array(list(pairs), np.float64).reshape(-1, 2).T
    right = right_order(margins, labels)
    return mean(right[~np.isnan(right)].tolist())


def right_order(margins: Floats, labels: Floats) -> Floats:
    """Return 1 for each pair that is ordered as its label has it, else 0; 1/2 for a margin of 0, nan for a label of
    1/2. `accuracy` is its mean."""
    return np.where(labels == 0.5, np.nan, np.where(margins == 0, 0.5, (margins > 0) == (labels > 0.5)))
