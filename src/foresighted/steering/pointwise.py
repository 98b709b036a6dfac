"""Forms of the penalty for a pointwise reward model, fitted to a utility by squared error.

Its loss is l = (r - U)^2 / 2, so the residual is e = r - U, in units of reward, and the direction d = g. Each function
is that of `pairwise` by the same name, with the reward r(y) for the margin, the utility U(y), any number, for the
label, and `kernels` with reference "none"; shapes, errors and sources are told there.
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
    """Penalty of the relaxed form, gamma S (r - U), in units of reward: one explicit step of the follower.

    Past gamma S = 1 it predicts a reward that passes U, past 2 one that diverges. For influence `self`, S = |g|^2.
    """
    _check(gamma, utility, gram=gram, reward=reward)
    return gamma * gram * (reward - utility)


def proximal(gram: Array, spread: Array, reward: Array, utility: Array | float, *, gamma: float | Array) -> Array:
    """Penalty of the proximal form, gamma S (r - U) / (1 + gamma G): the follower's implicit step in closed form.

    For influence `self`, S = G = |g|^2 and this is (r - U) kappa with kappa = gamma |g|^2 / (1 + gamma |g|^2) < 1.
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
    """Penalty of the exact form, gamma <t, (H + damping I)^-1 d> (r - U) with H = sum_k w_k d_k d_k^T.

    `reward` and `utility` are those of the M candidates: the curvature of the loss is 1 whatever the n rewards are.
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
    """Penalty of the unrolled form, -gamma d r(t_i; phi_K) / d w_i; `reward` and `utility` are of the n loss terms."""
    _check(gamma, utility, reward=reward)
    return gamma * forms.unrolled(
        kernels, reward, lambda r: slopes(r, utility), steps=steps, rate=rate, damping=damping, weights=weights
    )


def _check(gamma: float | Array, utility: Array | float, **arrays: Array) -> None:
    check_weight("gamma", gamma)
    check_same_shape(**arrays, utility=utility)
    check_finite(**arrays, **({"utility": utility} if hasattr(utility, "shape") else {}))
