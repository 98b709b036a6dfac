"""What the exact and the unrolled form need of a reward model that is no linear head.

For a linear head, and for the Gauss-Newton matrix of any reward model, `steering.inverse_products` gives the exact form
from a Gram matrix, without iterations. Here are the ways around that: conjugate gradients on products with the full
Hessian (its second-derivative part included) or with the Gauss-Newton matrix, and the diagonal that AdamW divides by.
The unrolled form differentiates through K real optimiser steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from foresighted.errors import ConfigError, NumericalError
from foresighted.influence.capture import frozen_except
from foresighted.influence.head import bradley_terry
from foresighted.influence.naive import Forward, Inputs, classifier
from foresighted.influence.scopes import select
from foresighted.steering import Influence, Paid, Reference, compared

TOLERANCE = 1e-5
"""Residual of conjugate gradients, relative to the right side."""
ITERATIONS = 200
"""Most iterations of conjugate gradients."""


class Solution(NamedTuple):
    """Of a linear system."""

    value: Tensor
    iterations: int
    residual: float
    """|A x - b| / |b|."""


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, *, tolerance: float = TOLERANCE, iterations: int = ITERATIONS
) -> Solution:
    """Solve A x = b for a symmetric positive A that is known by its products, x to A x, both of shape P.

    Raises:
        NumericalError: A is not positive along some direction, or the tolerance is not met in time.

    References:
        Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.
    """
    size = float(right.norm())
    value, residual = torch.zeros_like(right), right.clone()
    if size == 0:
        return Solution(value, 0, 0.0)
    direction, square = residual.clone(), float(residual @ residual)
    for iteration in range(1, iterations + 1):
        image = product(direction)
        bend = float(direction @ image)
        if not bend > 0:
            raise NumericalError(
                f"Hessian: curvature {bend / float(direction @ direction):.3g} along a direction after damping, must"
                " be above 0; raise the damping, or use curvature gauss-newton"
            )
        value += square / bend * direction
        residual -= square / bend * image
        before, square = square, float(residual @ residual)
        if square**0.5 <= tolerance * size:
            return Solution(value, iteration, square**0.5 / size)
        direction = residual + square / before * direction
    raise NumericalError(
        f"conjugate gradients: residual {square**0.5 / size:.3g} after {iterations} iterations, wanted {tolerance:g};"
        " raise the damping or the number of iterations"
    )


class _Loss:
    """The mean Bradley-Terry loss of all candidates, as what vectors of parameters are multiplied by."""

    def __init__(self, margin: Tensor, labels: Tensor, parameters: list[nn.Parameter], damping: float) -> None:
        self._parameters = parameters
        self._damping = damping
        self._margin = margin
        self._slope = self.gradient(bradley_terry(margin, labels), graph=True)
        self._weight = torch.ones_like(margin, requires_grad=True)  # whose derivative turns a gradient into products
        self._weighted = self.gradient((margin * self._weight).sum(), graph=True)
        self._bend = (margin.sigmoid() * (1 - margin.sigmoid()) / margin.numel()).detach()

    def gradient(self, value: Tensor, *, graph: bool = False) -> Tensor:
        """Return the gradient of a number, shape P."""
        found = torch.autograd.grad(
            value, self._parameters, retain_graph=True, create_graph=graph, materialize_grads=True
        )
        return torch.cat([g.flatten() for g in found])

    def along(self, vector: Tensor) -> Tensor:
        """Return <d_i, vector> of every candidate."""
        return torch.autograd.grad(self._weighted @ vector, self._weight, retain_graph=True)[0]

    def hessian(self, vector: Tensor) -> Tensor:
        """Return (H + damping I) vector, H the full Hessian."""
        return self.gradient(self._slope @ vector) + self._damping * vector

    def gauss_newton(self, vector: Tensor) -> Tensor:
        """Return the same for the Gauss-Newton matrix."""
        return self.gradient((self._margin * (self._bend * self.along(vector))).sum()) + self._damping * vector


def solved_products(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    *,
    prompts: int,
    scope: str,
    damping: float,
    reference: Reference = "response",
    influence: Influence = "self",
    paid: Paid = "reward",
    curvature: Literal["hessian", "gauss-newton"] = "hessian",
    forward: Forward | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, int]:
    """Return <t_i, (H + damping I)^-1 d_i> by conjugate gradients, H of the mean Bradley-Terry loss of all candidates.

    One system is solved for the test point of `batch`, one a candidate for `self`. Each product costs two forward and
    backward passes over all rows.

    Args:
        model: the reward model.
        inputs: its keyword arguments, R rows that stand as `steering.kernels` takes them.
        labels: p* of the candidates, shape B N.
        prompts: B.
        scope: whose parameters, as `select` takes it.
        damping: above 0, in units of the Hessian's eigenvalues.
        reference: as `steering.kernels` takes it; so are influence and paid.
        influence: test point.
        paid: by reward or margin.
        curvature: the full Hessian, or its Gauss-Newton part.
        forward: inputs to rewards; default: the one logit of a sequence classifier.
        tolerance: largest relative residual.

    Returns:
        Shape B N, and the most iterations that a system took.

    Raises:
        NumericalError: H is not positive after damping, or conjugate gradients do not converge.
    """
    parameters = select(model, scope)
    with frozen_except(model, parameters), sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
        reward, other = compared((forward or classifier(model))(inputs).view(prompts, -1), reference)
        margin = reward - other
        loss = _Loss(margin, labels, list(parameters.values()), damping)
        product = loss.hessian if curvature == "hessian" else loss.gauss_newton
        payment = margin if paid == "margin" else reward
        points = [payment.mean()] if influence == "batch" else list(payment.flatten())
        solutions = [conjugate_gradients(product, loss.gradient(point), tolerance=tolerance) for point in points]
        products = [loss.along(solution.value).flatten() for solution in solutions]
        own = products[0] if influence == "batch" else torch.stack([row[i] for i, row in enumerate(products)])
        return own.view_as(margin).detach(), max(solution.iterations for solution in solutions)


def adamw_metric(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return what AdamW multiplies a gradient by, less its learning rate: 1 / (sqrt(v / (1 - b2^t)) + eps).

    With this for the inverse curvature and gamma = learning rate, `relaxed` is the step that the optimiser would take
    on a candidate alone (without momentum).

    Args:
        optimizer: torch.optim.AdamW or Adam over these parameters, among others.
        parameters: by name.

    Returns:
        By name, of each parameter's shape. A parameter that the optimiser does not train, or that had no gradient so
        far, has 0: it does not move.
    """
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    metric = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        if "exp_avg_sq" not in state:
            metric[name] = torch.zeros_like(parameter)
            continue
        group = settings[id(parameter)]
        square = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
        metric[name] = torch.where(square > 0, 1 / (square.sqrt() + group["eps"]), 0.0).to(parameter.dtype)
    return metric


Parameters = Mapping[str, Tensor]


class AdamW(NamedTuple):
    """State of torch.optim.AdamW (without weight decay), as values that can be differentiated through."""

    rate: float
    betas: tuple[float, float]
    eps: float
    step: float
    mean: dict[str, Tensor]
    square: dict[str, Tensor]

    def update(self, parameters: Parameters, gradients: Parameters) -> tuple[dict[str, Tensor], AdamW]:
        """Return the parameters after one step, and the state after it."""
        first, second = self.betas
        step = self.step + 1
        mean = {name: first * self.mean[name] + (1 - first) * g for name, g in gradients.items()}
        square = {name: second * self.square[name] + (1 - second) * g.square() for name, g in gradients.items()}
        moved = {}
        for name, value in parameters.items():
            unbiased = square[name] / (1 - second**step)
            used = unbiased > 0  # the root of 0 has no derivative, and what never had a gradient does not move
            root = torch.where(used, torch.where(used, unbiased, 1.0).sqrt(), 0.0)
            moved[name] = value - self.rate * (mean[name] / (1 - first**step)) / (root + self.eps)
        return moved, self._replace(step=step, mean=mean, square=square)


class Descent(NamedTuple):
    """Plain gradient steps."""

    rate: float

    def update(self, parameters: Parameters, gradients: Parameters) -> tuple[dict[str, Tensor], Descent]:
        """Return the parameters after one step, and the state after it."""
        return {name: value - self.rate * gradients[name] for name, value in parameters.items()}, self


def adamw_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> AdamW:
    """Return the present state of a torch AdamW for some of its parameters (zeros before its first step).

    Raises:
        ConfigError: weight decay, which is not differentiated through.
    """
    group = optimizer.param_groups[0]
    if group.get("weight_decay"):
        raise ConfigError(f"unrolled: got weight decay {group['weight_decay']}, only 0 is differentiated through")
    states: dict[str, dict[str, Any]] = {name: optimizer.state.get(p, {}) for name, p in parameters.items()}
    entries = [
        {name: states[name].get(entry, torch.zeros_like(p)).detach().clone() for name, p in parameters.items()}
        for entry in ("exp_avg", "exp_avg_sq")
    ]
    step = max((float(state["step"]) for state in states.values() if "step" in state), default=0.0)
    return AdamW(group["lr"], tuple(group["betas"]), group["eps"], step, *entries)


def unrolled_penalties(
    rewards: Callable[[Parameters], Tensor],
    parameters: Parameters,
    labels: Tensor,
    optimizer: AdamW | Descent,
    *,
    steps: int,
    reference: Reference = "response",
    influence: Influence = "self",
    paid: Paid = "reward",
) -> Tensor:
    """Return -d r(t_i; phi_K) / d w_i, phi_K after K steps on the weighted Bradley-Terry loss of all candidates.

        L(phi; w) = sum_i w_i l_i(phi),   w_i = 1 / (B N)

    With plain steps of size gamma and K = 1 this is `relaxed`; for a linear head and many steps, `exact`.

    Args:
        rewards: parameters to rewards of shape B (N + 1), a prompt's reference last, or B N without;
            differentiable.
        parameters: where the steps start, by name.
        labels: p* of the candidates, shape B N.
        optimizer: the steps; its state is not changed.
        steps: K, at least 1. Memory grows with it.
        reference: as `steering.kernels` takes it; so are influence and paid.
        influence: `self` takes one backward pass a candidate, `batch` one in all.
        paid: by reward or margin.

    Returns:
        Penalty at gamma 1, shape B N, in units of reward.

    Raises:
        ConfigError: no step.
        NumericalError: steps that diverge.
    """
    if steps < 1:
        raise ConfigError(f"steps: got {steps}, must be at least 1")
    weights = torch.full_like(labels, 1 / labels.numel()).requires_grad_()
    current = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
        for _ in range(steps):
            own, other = compared(rewards(current), reference)
            each = bradley_terry(own - other, labels, reduction="none")
            loss = (weights.to(each) * each).sum()
            found = torch.autograd.grad(loss, list(current.values()), create_graph=True, materialize_grads=True)
            gradients = dict(zip(current, found, strict=True))
            current, optimizer = optimizer.update(current, gradients)
        own, other = compared(rewards(current), reference)
        final = own - other if paid == "margin" else own
        if influence == "batch":
            (result,) = torch.autograd.grad(final.mean(), weights)
        else:
            each = final.flatten()
            rows = [torch.autograd.grad(each[i], weights, retain_graph=True)[0].flatten()[i] for i in range(len(each))]
            result = torch.stack(rows).view_as(weights)
    if not bool(result.isfinite().all()):
        raise NumericalError(f"unrolled: {steps} steps of the reward model diverge; lower its learning rate")
    return -result.detach()
