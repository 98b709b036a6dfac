"""Forms of the penalty for a pairwise (Bradley-Terry) reward model.

A candidate y is chosen by `reward - penalty`. Its loss is l = -p* log s(m) - (1 - p*) log s(-m), m = r(y) - r(y') its
margin over the reference and p* the label, so the residual is e = s(m) - p* and the direction d = g - g'.

All functions are pure and written once for NumPy, JAX and torch arrays (array API). A label may be an array, or one
number for all candidates: a baseline (such as the mean label of the data that the reward model learns from) makes a
form that needs no label of any candidate.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from foresighted.steering import forms
from foresighted.steering.checks import Array, check_finite, check_label, check_same_shape, check_weight
from foresighted.steering.forms import practical
from foresighted.steering.kernels import Kernels

__all__ = ["carried", "exact", "implicit_margin", "practical", "proximal", "relaxed", "sigmoid", "unrolled"]

SURE = 1e-6
"""How near to 0 and 1 a label counts whose log-odds are taken."""
NEWTON_STEPS = 5
"""Of `implicit_margin`; machine precision takes 4 from its first guess (tests/steering), derivatives one more."""


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), in (0, 1), without overflow on either side."""
    xp = array_namespace(x)
    small = xp.exp(xp.where(x >= 0, -x, x))  # not of -|x|, whose derivative at 0 is 0
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))


def slopes(margin: Array, label: Array | float) -> tuple[Array, Array]:
    """Return first and second derivative of the loss in the margin: the residual s(m) - p*, and s(m) (1 - s(m))."""
    p = sigmoid(margin)
    return p - label, p * (1 - p)


def carried(label: Array, own: Array, margin: Array) -> Array:
    """Return what the label of one candidate of a prompt says of the others.

        logit p*_i = logit p*_j + m_i - m_j

    The reward model is trusted on how the candidates differ, the label on where they stand: its error in log-odds at
    the labelled candidate, m_j - logit p*_j, is taken for its error at all of them. A bit, whose log-odds are infinite,
    says of the others what it says of its own.

    Args:
        label: p* of the labelled candidate in [0, 1], shape B 1.
        own: its margin, or its reward, shape B 1.
        margin: those of the prompt's candidates, shape B N.

    Returns:
        Shape B N, in (0, 1).

    Raises:
        DataError: a label outside [0, 1].

    References:
        Ours; derivation in docs/steering.md ("group").
    """
    check_label(label)
    xp = array_namespace(margin)
    sure = xp.where(label < SURE, xp.full_like(label, SURE), label)
    sure = xp.where(sure > 1 - SURE, xp.full_like(label, 1 - SURE), sure)
    return sigmoid(xp.log(sure) - xp.log1p(-sure) + margin - own)


def relaxed(gram: Array, margin: Array, label: Array | float, *, gamma: float | Array) -> Array:
    """Penalty of the relaxed form, one explicit step of the follower.

        penalty = gamma S (s(m) - p*)

    Args:
        gram: S, any shape.
        margin: m = r(y) - r(y'), the same shape.
        label: p* in [0, 1], the same shape, or one number.
        gamma: steering weight, in units of the reward model's step size.

    Returns:
        Penalty, the same shape: for S > 0 positive where the reward model believes in y more than the label does.

    Raises:
        ConfigError: a negative gamma.
        DataError: shapes that do not match, or a label outside [0, 1].
        NumericalError: an entry that is not finite.

    References:
        arXiv 2605.04266, relaxed FPO, pairwise reward model.
    """
    _check(gamma, label, gram=gram, margin=margin)
    return gamma * gram * (sigmoid(margin) - label)


def proximal(gram: Array, spread: Array, margin: Array, label: Array | float, *, gamma: float | Array) -> Array:
    """Penalty of the proximal form, with m+ the margin after an implicit step of the follower.

        penalty = gamma S (s(m+) - p*),      m+ = m - gamma G (s(m+) - p*)

    `relaxed` predicts a reward model that overshoots the label once gamma G is large; the implicit step
    argmin_phi gamma l(phi) + |phi - phi_t|^2 / 2 never does.

    Args:
        gram: S, any shape.
        spread: G >= 0, the same shape; what rounding leaves below 0 counts as 0.
        margin: m = r(y) - r(y'), the same shape.
        label: p* in [0, 1], the same shape, or one number (label-free: a baseline).
        gamma: steering weight.

    Returns:
        Penalty, the same shape.

    Raises:
        ConfigError: a negative gamma.
        DataError: shapes that do not match, or a label outside [0, 1].
        NumericalError: an entry that is not finite.

    References:
        Ours; derivation in docs/steering.md ("proximal").
    """
    _check(gamma, label, gram=gram, spread=spread, margin=margin)
    xp = array_namespace(margin, spread)
    settled = implicit_margin(margin, spread, label, gamma=gamma)
    reach = gamma * spread
    far = reach > 1 + xp.abs(margin)  # s(m+) - p* would cancel; by its equation it is (m - m+) / reach
    residual = xp.where(far, (margin - settled) / xp.where(far, reach, xp.ones_like(reach)), sigmoid(settled) - label)
    return gamma * gram * residual


def implicit_margin(margin: Array, spread: Array, label: Array | float, *, gamma: float | Array) -> Array:
    """Return the margin after an implicit step of the follower: the root of m + c s(m) = margin + c p*, c = gamma G.

    The left side rises in m, so the root is unique. Mirrored to the side m <= 0, where it is convex, Newton's method
    starts from the root with exp(m) in place of s(m), which Lambert's W gives, and is held inside a bracket. It takes
    what `proximal` takes; the result never passes the label's own margin.
    """
    xp = array_namespace(margin, spread)
    reach = forms.squared_length(spread) * gamma
    level = margin + reach * label
    mirrored = level > reach / 2
    level = xp.where(mirrored, reach * (1 - label) - margin, level)  # now the root is at most min(0, level)
    high = xp.where(level < 0, level, xp.zeros_like(level))
    low = xp.where(level - reach > high, high, level - reach)
    root = _first_guess(reach, level)
    for _ in range(NEWTON_STEPS):  # held before each step, not after the last, so that it carries the derivative
        root = xp.where(root > high, high, xp.where(root < low, low, root))
        p = sigmoid(root)
        root = root - (root + reach * p - level) / (1 + reach * p * (1 - p))
    return xp.where(mirrored, -root, root)


def _first_guess(reach: Array, level: Array) -> Array:
    """Return the root of m + c exp(m) = level to a few per cent: level - W or, the same, log W - log c.

    W is Lambert's W at c exp(level). The first of the two cancels where W is large, the second fails where it vanishes.
    """
    xp = array_namespace(level)
    moves = reach > 0
    log_reach = xp.log(xp.where(moves, reach, xp.ones_like(level)))
    w = _lambert(log_reach + level)
    large = w > 1
    root = xp.where(large, xp.log(xp.where(large, w, xp.ones_like(w))) - log_reach, level - w)
    return xp.where(moves, root, level)


def _lambert(log_argument: Array) -> Array:
    """Return Lambert's W(exp(log_argument)) to a few per cent."""
    xp = array_namespace(log_argument)
    large = xp.where(log_argument > 0, log_argument, xp.zeros_like(log_argument))
    w = large + xp.log1p(xp.exp(-xp.abs(log_argument)))  # log(1 + z)
    return w * (1 - xp.log1p(w) / (2 + w))


def exact(
    kernels: Kernels,
    margin: Array,
    label: Array | float,
    *,
    damping: float,
    gamma: float | Array = 1.0,
    weights: Array | None = None,
) -> Array:
    """Penalty of the exact form, with the damped inverse Hessian of the reward model's own loss on the batch.

        penalty = gamma <t, (H + damping I)^-1 d> (s(m) - p*),      H = sum_k w_k s(m_k) s(-m_k) d_k d_k^T

    H is the Hessian for a linear head, the Gauss-Newton matrix otherwise.

    Args:
        kernels: of M candidates among n loss terms.
        margin: of the n terms, shape n (the first M are the candidates').
        label: p* of the M candidates, shape M, or one number.
        damping: above 0, in units of the Hessian's eigenvalues.
        gamma: 1 is the paper's term; without a unit.
        weights: of the terms in the loss; default 1 / n.

    Returns:
        Penalty, shape M, in units of reward.

    Raises:
        ConfigError: a negative gamma, or a damping that is not above 0.
        DataError: shapes that do not match, a label outside [0, 1].
        NumericalError: a Hessian that is not positive after damping, or an entry that is not finite.

    References:
        arXiv 2605.04266, the parameter-steering term; closed form from a Gram matrix ours (docs/steering.md).
    """
    own = margin[: kernels.test.shape[0]]
    _check(gamma, label, margin=own)
    check_finite(margin=margin)
    products = forms.inverse_products(kernels, slopes(margin, 0.0)[1], damping=damping, weights=weights)
    return gamma * products * (sigmoid(own) - label)


def unrolled(
    kernels: Kernels,
    margin: Array,
    label: Array,
    *,
    steps: int,
    rate: float,
    gamma: float | Array = 1.0,
    damping: float = 0.0,
    weights: Array | None = None,
) -> Array:
    """Penalty of the unrolled form: K gradient steps of a linear reward model, differentiated through.

        penalty = -gamma d r(t_i; phi_K) / d w_i,    phi_{s+1} = phi_s - rate grad(sum_k w_k l_k)

    w_i is the weight of candidate i in the loss. One step is `relaxed` with gamma = rate; many are `exact`. For a
    reward model that is not linear in its parameters this is its linearisation; `foresighted.influence` has the form
    that differentiates through real optimiser steps.

    Args:
        kernels: of M candidates among n loss terms.
        margin: of the n terms before the first step, shape n.
        label: p* of the n terms, shape n.
        steps: K, at least 1.
        rate: step size of the reward model.
        gamma: 1 is the derivative itself.
        damping: of a pull to the start, damping / 2 |phi - phi_0|^2 in the loss.
        weights: of the terms; default 1 / n.

    Returns:
        Penalty, shape M, in units of reward.

    Raises:
        ConfigError: a negative gamma, no step, a step size that is not above 0.
        DataError: shapes that do not match, a label outside [0, 1].
        NumericalError: steps that diverge, or an entry that is not finite.

    References:
        Ours after bilevel optimisation by unrolling (docs/steering.md).
    """
    _check(gamma, label, margin=margin)
    return gamma * forms.unrolled(
        kernels, margin, lambda m: slopes(m, label), steps=steps, rate=rate, damping=damping, weights=weights
    )


def _check(gamma: float | Array, label: Array | float, **arrays: Array) -> None:
    check_weight("gamma", gamma)
    check_same_shape(**arrays, label=label)
    check_label(label)
    check_finite(**arrays)
