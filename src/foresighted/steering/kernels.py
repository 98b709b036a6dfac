"""From a Gram matrix of reward-model gradients to the products that the forms read.

A response k has the gradient g_k = grad_phi r(x, y_k); the Gram matrix holds <g_k, g_l> of all responses of a batch.
Two linear maps turn responses into what a candidate i needs:

    direction   d_i   the gradient of its loss is residual_i * d_i:  g_i alone (pointwise), g_i - g' (pairwise)
    test point  t_i   whose reward the steering term asks about:     g_i (`self`), or the mean over candidates (`batch`)

so a reward model enters every form through <t_i, d_j> and <d_i, d_j> alone, whatever its size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from array_api_compat import array_namespace, device

from foresighted.errors import DataError
from foresighted.steering.checks import Array, check_finite, check_rank, check_weight

Reference = Literal["response", "leave-one-out", "none"]
"""What a candidate is compared with: its prompt's reference response (pairwise), the mean of the prompt's other
candidates (pairwise, group methods), or nothing (pointwise)."""
Influence = Literal["self", "batch"]
"""Test point of the steering term: the candidate itself (the paper), or the mean over the batch of candidates."""

_ROUNDING = 1e-6
"""Products that differ by less of their size than this do so by rounding in float32."""
Paid = Literal["reward", "margin"]
"""What the leader is paid at the test point: r(y) (the paper), or r(y) less the reward of what y is compared with."""


class Products(NamedTuple):
    """What the elementwise forms read of a reward model's gradients, one number a candidate."""

    gram: Array
    """S = <t, d>: how far a unit step against d lowers the reward at the test point."""
    spread: Array
    """G = |d|^2."""


class Kernels(NamedTuple):
    """What the forms that look at the whole batch read. The first M of the n loss terms are the candidates' own."""

    test: Array
    """<t_i, d_j>, shape M n."""
    loss: Array
    """<d_i, d_j>, shape n n."""

    def products(self) -> Products:
        """Return S and G of the candidates, shape M."""
        xp = array_namespace(self.test)
        count = self.test.shape[0]
        return Products(xp.linalg.diagonal(self.test[:, :count]), xp.linalg.diagonal(self.loss[:count, :count]))


def kernels(
    gram: Array,
    *,
    prompts: int,
    reference: Reference = "response",
    influence: Influence = "self",
    paid: Paid = "reward",
) -> Kernels:
    """Return the kernels of B prompts with N candidates each.

    Args:
        gram: inner products of reward-model gradients, shape R R. The rows of a prompt stand together: its N
            candidates, then its reference response if `reference` is "response". R = B (N + 1) or B N.
        prompts: B.
        reference: what a candidate is compared with.
        influence: test point.
        paid: by reward or by margin; the same without a reference.

    Returns:
        `Kernels` with M = n = B N, prompt-major.

    Raises:
        DataError: a Gram matrix that is not square, or whose rows are no multiple of `prompts`, or too few candidates.
        NumericalError: an entry that is not finite.

    Example:
        >>> import numpy as np
        >>> g = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # two candidates and their reference
        >>> kernels(g @ g.T, prompts=1).products()
        Products(gram=array([6., 0.]), spread=array([5., 1.]))

    References:
        arXiv 2605.04266, the steering term; the leave-one-out reference and the kernel view are ours
        (docs/steering.md).
    """
    check_rank("gram", gram, ("R", "R"))
    rows = gram.shape[0]
    per_prompt = rows // prompts if prompts >= 1 else 0
    candidates = per_prompt - (reference == "response")
    if gram.shape[1] != rows or per_prompt * prompts != rows or per_prompt == 0:
        raise DataError(f"gram: got shape {tuple(gram.shape)} for {prompts} prompts; expected B (N + 1) rows, or B N")
    least = 2 if reference == "leave-one-out" else 1
    if candidates < least:
        needed = least + (reference == "response")
        raise DataError(f"gram: got {per_prompt} rows a prompt; reference {reference!r} needs {needed}")
    check_finite(gram=gram)
    select, directions = _maps(gram, prompts, candidates, reference)
    if paid == "margin":
        select = directions
    if influence == "batch":
        xp = array_namespace(gram)
        select = xp.broadcast_to(xp.mean(select, axis=0, keepdims=True), select.shape)
    across = gram @ directions.T
    return Kernels(select @ across, directions @ across)


def compared(reward: Array, reference: Reference) -> tuple[Array, Array]:
    """Return rewards of the candidates, and of what each is compared with.

    Args:
        reward: rewards of all responses, shape B (N + 1) with a prompt's reference response last, or B N.
        reference: what a candidate is compared with; "none" compares with 0.

    Returns:
        Shape B N, and a shape that broadcasts to it.
    """
    if reference == "response":
        return reward[:, :-1], reward[:, -1:]
    if reference == "none":
        return reward, 0 * reward
    xp = array_namespace(reward)
    others = xp.sum(reward, axis=-1, keepdims=True) - reward
    return reward, others / (reward.shape[1] - 1)


def _maps(gram: Array, prompts: int, candidates: int, reference: Reference) -> tuple[Array, Array]:
    """Return the maps from R responses to the gradients g_i and to the directions d_i of the B N candidates."""
    xp = array_namespace(gram)
    kind = {"dtype": gram.dtype, "device": device(gram)}
    one, each = xp.eye(prompts, **kind), xp.eye(candidates, **kind)
    select, direction = each, each
    if reference == "response":
        none, all_of = xp.zeros((candidates, 1), **kind), xp.ones((candidates, 1), **kind)
        select, direction = xp.concat([each, none], axis=1), xp.concat([each, -all_of], axis=1)
    elif reference == "leave-one-out":
        direction = (candidates * each - xp.ones((candidates, candidates), **kind)) / (candidates - 1)
    return _blocks(one, select), _blocks(one, direction)


def _blocks(one: Array, block: Array) -> Array:
    """Return the Kronecker product of two matrices."""
    xp = array_namespace(one)
    product = one[:, None, :, None] * block[None, :, None, :]
    return xp.reshape(product, (one.shape[0] * block.shape[0], one.shape[1] * block.shape[1]))


def within_prompts(values: Array) -> Array:
    """Return the standard deviation of values, B N, within a prompt, pooled over prompts: an array without axes."""
    xp = array_namespace(values)
    return xp.sqrt(xp.mean(xp.var(values, axis=-1)))


def raw_gamma(gamma: float, reward: Array, base: Array, *, residual: Literal["one", "probability", "reward"]) -> Array:
    """Return gamma in the forms' own units for a gamma that is given as a share of the reward's spread.

        raw = gamma * s / size(base),   s = within-prompt standard deviation of the reward, pooled over prompts

    A reward model that grows by a factor, or a larger one, asks for no other gamma. What the size is depends on what
    stands beside the base in the penalty:

        residual     size(base)                 then
        one          within-prompt deviation    penalties differ within a prompt `gamma` times as much as rewards do;
                                                what all candidates of a prompt share chooses none of them
        probability  root mean square           a penalty of residual 1 is `gamma` times as large as rewards differ:
                                                the residual tells candidates apart, so that all of the base counts
        reward       root mean square           the same, with s = 1, for the residual is itself in units of reward

    Args:
        gamma: share, at least 0.
        reward: rewards of the candidates, shape B N.
        base: what gamma multiplies besides the residual, shape B N: S (for `exact`, with the inverse Hessian inside;
            for `unrolled`, its penalty at gamma 1).
        residual: nothing (`practical`, `unrolled`); a difference of probabilities (forms that read labels, for a
            Bradley-Terry reward model), or of rewards (the same forms, pointwise).

    Returns:
        One number as an array without axes; 0 where the base is 0 throughout, or where it should differ within
        prompts and does so by no more than a millionth of its size, which is rounding.

    Raises:
        ConfigError: a negative gamma.
        DataError: rewards or base of another shape.
        NumericalError: an entry that is not finite.

    References:
        Ours (docs/steering.md).
    """
    check_weight("gamma", gamma)
    spread, scale = spread_and_size(reward, base, residual=residual)
    xp = array_namespace(reward, base)
    safe = xp.where(scale > 0, scale, xp.ones_like(scale))
    return xp.where(scale > 0, gamma * spread / safe, xp.zeros_like(scale))


def spread_and_size(
    reward: Array, base: Array, *, residual: Literal["one", "probability", "reward"]
) -> tuple[Array, Array]:
    """Return s and size(base) of `raw_gamma`, each without axes, of the same arguments; raises what it does.

    Of groups that come one by one, each as B = 1: the roots of the mean squares over groups are those of all together.
    """
    check_rank("reward", reward, ("prompts", "candidates"))
    check_rank("base", base, ("prompts", "candidates"))
    check_finite(reward=reward, base=base)
    xp = array_namespace(reward, base)
    scale = xp.sqrt(xp.mean(base * base))
    if residual == "one":
        apart = within_prompts(base)
        scale = xp.where(apart > _ROUNDING * scale, apart, xp.zeros_like(scale))
    return within_prompts(reward) if residual != "reward" else xp.ones_like(scale), scale
