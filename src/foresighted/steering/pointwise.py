"""Forms of the penalty for a pointwise reward model, fitted to a utility by squared error.

Its loss is l = (r - U)^2 / 2, so the residual is e = r - U, in units of reward, and the direction d = g. `steering`
has the same forms for a pairwise reward model in `pairwise`; names and arguments correspond. In place of the utility
U of each candidate one number may stand, a baseline b (such as the mean label of the data that the reward model
learns from): a form that needs no label of any candidate.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from foresighted.steering import forms
from foresighted.steering.checks import Array, check_finite, check_same_shape, check_weight
from foresighted.steering.forms import practical
from foresighted.steering.kernels import Kernels

__all__ = ["exact", "practical", "proximal", "relaxed", "unrolled"]


def slopes(reward: Array, utility: Array | float) -> tuple[Array, Array]:
    """Return first and second derivative of the loss in the reward: the residual r - U, and 1."""
    return reward - utility, array_namespace(reward).ones_like(reward)


def relaxed(gram: Array, reward: Array, utility: Array | float, *, gamma: float | Array) -> Array:
    """Penalty of the relaxed form, one explicit step of the follower.

        penalty = gamma S (r - U)

    Args:
        gram: S, any shape: |g|^2 for influence `self`.
        reward: r(y), the same shape.
        utility: U(y), the same shape, or one number (a baseline).
        gamma: steering weight, in units of the reward model's step size.

    Returns:
        Penalty, the same shape. Past gamma S = 1 it predicts a reward that passes U, past 2 one that diverges.

    Raises:
        ConfigError: a negative gamma.
        DataError: shapes that do not match.
        NumericalError: an entry that is not finite.

    References:
        arXiv 2605.04266, relaxed FPO, pointwise reward model.
    """
    _check(gamma, utility, gram=gram, reward=reward)
    return gamma * gram * (reward - utility)


def proximal(gram: Array, spread: Array, reward: Array, utility: Array | float, *, gamma: float | Array) -> Array:
    """Penalty of the proximal form: the follower's implicit step in closed form.

        penalty = gamma S (r - U) / (1 + gamma G)

    For influence `self`, S = G = |g|^2 and this is (r - U) kappa with kappa = gamma |g|^2 / (1 + gamma |g|^2) < 1.

    Args:
        gram: S, any shape.
        spread: G >= 0, the same shape; what rounding leaves below 0 counts as 0.
        reward: r(y), the same shape.
        utility: U(y), the same shape, or one number (label-free: a baseline).
        gamma: steering weight.

    Returns:
        Penalty, the same shape.

    Raises:
        ConfigError: a negative gamma.
        DataError: shapes that do not match.
        NumericalError: an entry that is not finite.

    References:
        Ours; derivation in docs/steering.md ("proximal").
    """
    _check(gamma, utility, gram=gram, spread=spread, reward=reward)
    return gamma * gram * (reward - utility) / (1 + gamma * forms.squared_length(spread))


def exact(
    kernels: Kernels,
    reward: Array,
    utility: Array | float,
    *,
    damping: float,
    gamma: float | Array = 1.0,
    weights: Array | None = None,
) -> Array:
    """Penalty of the exact form, with the damped inverse Hessian of the reward model's own loss on the batch.

        penalty = gamma <t, (H + damping I)^-1 d> (r - U),      H = sum_k w_k d_k d_k^T

    Args:
        kernels: of M candidates among n loss terms (`kernels` with reference "none").
        reward: of the M candidates.
        utility: of the M candidates, or one number.
        damping: above 0, in units of the Hessian's eigenvalues.
        gamma: 1 is the paper's term; without a unit.
        weights: of the n terms in the loss; default 1 / n.

    Returns:
        Penalty, shape M.

    Raises:
        ConfigError: a negative gamma, or a damping that is not above 0.
        DataError: shapes that do not match.
        NumericalError: a Hessian that is not positive after damping, or an entry that is not finite.

    References:
        arXiv 2605.04266, the parameter-steering term; closed form from a Gram matrix ours (docs/steering.md).
    """
    _check(gamma, utility, reward=reward)
    xp = array_namespace(kernels.loss)
    curvature = xp.ones_like(kernels.loss[:, 0])
    return gamma * forms.inverse_products(kernels, curvature, damping=damping, weights=weights) * (reward - utility)


def unrolled(
    kernels: Kernels,
    reward: Array,
    utility: Array,
    *,
    steps: int,
    rate: float,
    gamma: float | Array = 1.0,
    damping: float = 0.0,
    weights: Array | None = None,
) -> Array:
    """Penalty of the unrolled form: K gradient steps of a linear reward model, differentiated through.

        penalty = -gamma d r(t_i; phi_K) / d w_i

    Args:
        kernels: of M candidates among n loss terms.
        reward: of the n terms before the first step, shape n.
        utility: of the n terms, shape n.
        steps: K, at least 1.
        rate: step size of the reward model.
        gamma: 1 is the derivative itself.
        damping: of a pull to the start, damping / 2 |phi - phi_0|^2 in the loss.
        weights: of the terms; default 1 / n.

    Returns:
        Penalty, shape M.

    Raises:
        ConfigError: a negative gamma, no step, a step size that is not above 0.
        DataError: shapes that do not match.
        NumericalError: steps that diverge, or an entry that is not finite.

    References:
        Ours after bilevel optimisation by unrolling (docs/steering.md).
    """
    _check(gamma, utility, reward=reward)
    return gamma * forms.unrolled(
        kernels, reward, lambda r: slopes(r, utility), steps=steps, rate=rate, damping=damping, weights=weights
    )


def _check(gamma: float | Array, utility: Array | float, **arrays: Array) -> None:
    check_weight("gamma", gamma)
    check_same_shape(**arrays, utility=utility)
    check_finite(**arrays, **({"utility": utility} if hasattr(utility, "shape") else {}))
