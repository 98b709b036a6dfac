"""K real optimiser steps of the reward model, differentiated through: the unrolled form for any reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from foresighted.errors import ConfigError, NumericalError
from foresighted.influence.head import bradley_terry
from foresighted.steering import Influence, Paid, Reference, compared

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
        reference: what a candidate is compared with.
        influence: test point: each candidate itself (one backward pass a candidate), or their mean (one in all).
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
