"""Tests of wins against losses, their correction for several, and the logistic regression behind ratings.

References:
    Holm, "A simple sequentially rejective multiple test procedure" (1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foresighted.statistics.numbers import Floats


def sign_test(wins: int, losses: int) -> float | None:
    """Return the two-sided exact p-value of wins against losses under even odds; None where there are neither.

    Example:
        >>> round(sign_test(188, 144), 3)
        0.018
    """
    if wins + losses == 0:
        return None
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected by Holm's step-down method for how many there are; unknown ones stay unknown.

        p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[place] = highest
    return corrected


def logistic_fit(design: Floats, outcome: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Return the coefficients of a weighted logistic regression by Newton's method, and their covariance.

        maximise sum_i w_i [ y_i log s(z_i) + (1 - y_i) log s(-z_i) ],   z = X b

    Args:
        design: X, rows by coefficients, of full rank.
        outcome: y in [0, 1], one a row.
        weight: w >= 0, one a row.

    Returns:
        Coefficients b, and the inverse of the information matrix.
    """
    from scipy.special import expit

    effect: Floats = np.zeros(design.shape[1])
    information: Floats = np.eye(len(effect))
    for _ in range(100):
        share = expit(design @ effect)
        information = design.T @ (design * (weight * share * (1 - share))[:, None])
        step = np.linalg.solve(information, design.T @ (weight * (outcome - share)))
        # The likelihood is concave: a step of bounded length cannot run away from the optimum.
        effect = effect + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return effect, np.asarray(np.linalg.inv(information), np.float64)
