"""The forms themselves, for any loss: a residual e_i, products S and G or the kernels of a batch.

`pairwise` and `pointwise` put in their losses; nobody else needs this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from array_api_compat import array_namespace, device

from foresighted.errors import ConfigError, DataError, NumericalError
from foresighted.steering.checks import Array, check_finite, check_loss_weights, check_rank, check_weight, holds
from foresighted.steering.kernels import Kernels


def practical(gram: Array, *, gamma: float | Array) -> Array:
    """Penalty of the practical form: no label of any candidate is needed.

        penalty = gamma S

    Args:
        gram: S, any shape, in squared units of the reward model's gradient. Pointwise, S = |g|^2.
        gamma: steering weight, in units of the reward model's step size.

    Returns:
        Penalty, the shape of `gram`, in units of reward.

    Raises:
        ConfigError: a negative gamma.
        NumericalError: an entry that is not finite.

    References:
        arXiv 2605.04266, practical FPO.
    """
    check_weight("gamma", gamma)
    check_finite(gram=gram)
    return gamma * gram


def squared_length(spread: Array) -> Array:
    """Return G with what rounding leaves below 0 (two equal responses, from a Gram matrix) as 0."""
    xp = array_namespace(spread)
    return xp.where(spread < 0, xp.zeros_like(spread), spread)


def inverse_products(kernels: Kernels, curvature: Array, *, damping: float, weights: Array | None = None) -> Array:
    """Return <t_i, C^-1 d_i> for C = H + damping I, H = sum_k w_k curvature_k d_k d_k^T.

    H is the Hessian of the reward model's loss for a linear head, and its Gauss-Newton matrix for any other. With K
    the loss kernel and A = diag(w curvature), C^-1 D^T = D^T (damping I + A K)^-1: only an n n system is solved,
    however many parameters there are, and to machine precision.

    Args:
        kernels: products of M candidates among n loss terms.
        curvature: second derivative of each term's loss in its margin or reward, shape n, at least 0.
        damping: above 0, in units of the Hessian's eigenvalues.
        weights: of the terms in the loss, shape n; 0 for a candidate that the loss does not hold. Default 1 / n.

    Returns:
        Shape M.

    Raises:
        ConfigError: a damping that is not above 0.
        DataError: shapes that do not match, or a negative weight.
        NumericalError: C is not positive (the kernel is no Gram matrix), or an entry is not finite.

    References:
        arXiv 2605.04266, the exact term; the push-through form is ours (docs/steering.md).
    """
    check_weight("damping", damping, above=0.0)
    check_finite(kernel=kernels.loss, test=kernels.test, curvature=curvature)
    xp, kind, weights = _loss_terms(kernels, curvature, weights)
    scale = weights * curvature
    root = xp.sqrt(scale)
    lowest = xp.min(xp.linalg.eigvalsh(root[:, None] * kernels.loss * root[None, :])) + damping
    if not holds(lowest > 0):
        raise NumericalError(
            f"Hessian: smallest eigenvalue {float(lowest):.3g} after damping {damping:g}, must be above 0;"
            " raise the damping, or give a kernel that is a Gram matrix"
        )
    system = damping * xp.eye(curvature.shape[0], **kind) + scale[:, None] * kernels.loss
    count = kernels.test.shape[0]
    solution = xp.linalg.solve(system, xp.eye(curvature.shape[0], **kind)[:, :count])
    return xp.sum(kernels.test * solution.T, axis=1)


def unrolled(
    kernels: Kernels,
    start: Array,
    slope: Callable[[Array], tuple[Array, Array]],
    *,
    steps: int,
    rate: float,
    damping: float,
    weights: Array | None,
) -> Array:
    """Return -d r(t_i; phi_K) / d w_i, shape M, after K steps on sum_k w_k l_k + damping / 2 |phi - phi_0|^2.

    `start` holds the margins (or rewards) of the n terms, of which `slope` gives first and second derivative of their
    losses; with damping the limit of many steps is the exact form. `pairwise.unrolled` tells the rest.
    """
    check_weight("rate", rate, above=0.0)
    check_weight("damping", damping)
    if steps < 1:
        raise ConfigError(f"steps: got {steps}, must be at least 1")
    check_finite(kernel=kernels.loss, test=kernels.test, start=start)
    xp, kind, weights = _loss_terms(kernels, start, weights)
    count = kernels.test.shape[0]
    own = xp.eye(start.shape[0], **kind)[:, :count]
    moved = xp.zeros(start.shape, **kind)  # phi_s = phi_0 - sum_k moved_k d_k
    tangent = xp.zeros((start.shape[0], count), **kind)  # its derivative in the weight of candidate i
    for _ in range(steps):
        first, second = slope(start - kernels.loss @ moved)
        change = own * first[:, None] - (weights * second)[:, None] * (kernels.loss @ tangent)
        moved = moved + rate * (weights * first - damping * moved)
        tangent = tangent + rate * (change - damping * tangent)
    result = xp.sum(kernels.test * tangent.T, axis=1)
    if not holds(xp.isfinite(result)):
        raise NumericalError(f"unrolled: {steps} steps of size {rate:g} diverge; lower the step size")
    return result


def _loss_terms(kernels: Kernels, value: Array, weights: Array | None) -> tuple[Any, dict[str, Any], Array]:
    xp = cast(Any, array_namespace(kernels.loss, value))
    kind = {"dtype": kernels.loss.dtype, "device": device(kernels.loss)}
    check_rank("loss terms", value, ("n",))
    terms = value.shape[0]
    candidates = kernels.test.shape[0]
    if kernels.loss.shape != (terms, terms) or kernels.test.shape[1] != terms or candidates > terms:
        raise DataError(
            f"kernels: got test {tuple(kernels.test.shape)} and loss {tuple(kernels.loss.shape)} for {terms} loss"
            " terms; expected (M, n) and (n, n) with M <= n"
        )
    if weights is None:
        weights = xp.ones((terms,), **kind) / terms
    elif tuple(weights.shape) != (terms,):
        raise DataError(f"weights: got shape {tuple(weights.shape)}, expected ({terms},)")
    else:
        check_loss_weights(weights)
    return xp, kind, weights
