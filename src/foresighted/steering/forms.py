"""Forms of the steering penalty for a pairwise (Bradley-Terry) reward model.

The choice between candidates is made by `reward - penalty`. With g the reward model's gradient at a candidate, g' at
its reference response, the reward model enters only through numbers:

    margin   r(y) - r(y')              gram    S = <g, g - g'>
    label    p*, preference of y       spread  G = |g - g'|^2

All functions are pure, elementwise and written once for NumPy, JAX and torch arrays (array API).
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any
"""A NumPy, JAX or torch array."""

NEWTON_STEPS = 100
"""Bound on `implicit_margin`'s iterations; bisection alone is at machine precision by then."""


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), without overflow on either side.

    Args:
        x: any shape.

    Returns:
        Array of the same shape, in (0, 1).
    """
    xp = array_namespace(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))


def practical(gram: Array, *, gamma: float) -> Array:
    """Penalty of the practical form, gamma * S: no label of any candidate is needed.

    Args:
        gram: S, any shape, in squared units of the reward model's gradient.
        gamma: steering weight, in units of the reward model's step size.

    Returns:
        Penalty, the shape of `gram`, in units of reward.

    References:
        arXiv 2605.04266, practical FPO, pairwise reward model.
    """
    return gamma * gram


def relaxed(gram: Array, margin: Array, label: Array, *, gamma: float) -> Array:
    """Penalty of the relaxed form, gamma * S * (sigmoid(margin) - p*): one explicit step of the follower.

    Args:
        gram: S, any shape.
        margin: r(y) - r(y'), the same shape.
        label: p* in [0, 1], the same shape.
        gamma: steering weight.

    Returns:
        Penalty, the same shape: positive where the reward model is more confident in y than the label.

    References:
        arXiv 2605.04266, relaxed FPO, pairwise reward model.
    """
    return gamma * gram * (sigmoid(margin) - label)


def implicit_margin(margin: Array, spread: Array, label: Array, *, gamma: float) -> Array:
    """Return the margin after an implicit step of the follower: the root of m = margin - gamma G (sigmoid(m) - p*).

    The right side falls in m, so the root is unique and lies within gamma G of `margin`. Newton's method, kept
    inside that bracket by bisection, runs to machine precision.

    Args:
        margin: r(y) - r(y'), any shape.
        spread: G >= 0, the same shape.
        label: p* in [0, 1], the same shape.
        gamma: steering weight.

    Returns:
        Margin after the step, the same shape; it never passes the label's own margin.

    References:
        Ours; DESIGN in docs/concepts.md ("proximal").
    """
    xp = array_namespace(margin, spread, label)
    reach = gamma * spread
    low, high = margin - reach, margin + reach
    root = margin
    for _ in range(NEWTON_STEPS):
        p = sigmoid(root)
        excess = root - margin + reach * (p - label)
        low, high = xp.where(excess <= 0, root, low), xp.where(excess >= 0, root, high)
        newton = root - excess / (1 + reach * p * (1 - p))
        inside = (newton >= low) & (newton <= high)
        following = xp.where(inside, newton, (low + high) / 2)
        if bool(xp.all(following == root)):
            break
        root = following
    return root


def proximal(gram: Array, spread: Array, margin: Array, label: Array, *, gamma: float) -> Array:
    """Penalty of the proximal form, gamma * S * (sigmoid(m) - p*) with m the margin after an implicit step.

    `relaxed` predicts a reward model that overshoots the label once gamma G is large; the implicit step
    argmin_phi gamma loss(phi) + |phi - phi_t|^2 / 2 never does.

    Args:
        gram: S, any shape.
        spread: G, the same shape.
        margin: r(y) - r(y'), the same shape.
        label: p* in [0, 1], the same shape.
        gamma: steering weight.

    Returns:
        Penalty, the same shape.

    References:
        Ours; derivation in docs/concepts.md ("proximal").
    """
    settled = implicit_margin(margin, spread, label, gamma=gamma)
    return gamma * gram * (sigmoid(settled) - label)
