"""Numbers: the types of arrays of them, means of what is known, the logistic function."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known, or None where none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)) for an x of any size."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def spread(values: Floats) -> float:
    """Return the standard deviation of values, 0 where they differ by rounding alone."""
    deviation = float(values.std()) if len(values) else 0.0
    return deviation if len(values) and deviation > 1e-12 * float(np.abs(values).max()) else 0.0
