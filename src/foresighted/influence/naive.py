"""The naive twin of every fast path: one autograd call a response, gradients written out.

Slow, and obviously right. Tests compare with it, benchmarks are measured against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from foresighted.influence.capture import frozen_except
from foresighted.influence.scopes import select

Inputs = Mapping[str, Tensor]
Forward = Callable[[Inputs], Tensor]


def naive_gradients(
    model: nn.Module, inputs: Inputs, *, scope: str = "all", forward: Forward | None = None
) -> tuple[Tensor, Tensor]:
    """Return rewards of shape R and their gradients of shape R P, one response at a time; `GradientProducts` tells the
    arguments."""
    parameters = select(model, scope)
    run = forward or classifier(model)
    rewards, gradients = [], []
    with frozen_except(model, parameters):
        for row in range(next(iter(inputs.values())).shape[0]):
            reward = run({name: tensor[row : row + 1] for name, tensor in inputs.items()})
            found = torch.autograd.grad(reward.sum(), list(parameters.values()), materialize_grads=True)
            gradients.append(torch.cat([g.flatten() for g in found]))
            rewards.append(reward.detach().flatten())
    return torch.cat(rewards), torch.stack(gradients)


def classifier(model: nn.Module) -> Forward:
    """Return the reward of a sequence classifier with one label: its logit, shape R."""

    def forward(inputs: Inputs) -> Tensor:
        logits: Tensor = model(**inputs).logits
        return logits[:, 0]

    return forward
