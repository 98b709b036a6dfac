"""Weights of frozen linear layers in oneDNN's own layout, for passes without gradients on a CPU.

While a policy samples, each of its layers multiplies a few rows with a matrix that is no longer in the cache. An
ordinary product arranges the matrix anew every time; here that is done once, for a second copy of the weights. Products
differ from the ordinary ones in their last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from foresighted.models.forwards import replaced
from foresighted.models.memory import free_memory

SMALLEST = 2**16
"""Weights of a matrix below which its layout does not matter."""
ROWS = 256
"""How many rows the layout is chosen for; it serves any number."""
SHARE = 0.25
"""Of the memory that is free, what the second copy may take."""
_NEAR = 1e-4


class Packed:
    """Layers of a model that are frozen, in single precision and on a CPU, with weights in another layout.

    Args:
        model: whose layers they are; weights are arranged when they are first used, and must not change after that.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for layer in model.modules() if _fits(layer)] if _known() else []
        self._forward: list[Callable[[Tensor], Tensor]] | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let these layers use the arranged weights; gradients do not pass through them."""
        if self._forward is None:
            size = sum(layer.weight.numel() * layer.weight.element_size() for layer in self._layers)
            if size > SHARE * free_memory(torch.device("cpu")):
                self._layers = []
            self._forward = [_arranged(layer) for layer in self._layers]
        with replaced(zip(self._layers, self._forward, strict=True)):
            yield


def _known() -> bool:
    """Whether this torch has the operations that its compiler uses for frozen weights."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return here and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _fits(layer: nn.Module) -> TypeGuard[nn.Linear]:
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    weight = layer.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= SMALLEST
    return plain and not weight.requires_grad


def _arranged(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Return the pass of a layer with weights arranged; its own where that says something else."""
    ops: Any = torch.ops.mkldnn
    weight, bias = ops._reorder_linear_weight(layer.weight.detach(), ROWS), layer.bias

    def forward(x: Tensor) -> Tensor:
        said: Tensor = ops._linear_pointwise(x, weight, bias, "none", [], "")
        return said

    with torch.no_grad():
        x = torch.linspace(-1, 1, 3 * layer.in_features).view(3, -1)
        own = layer(x)
        near = float((forward(x) - own).abs().max()) <= _NEAR * float(own.abs().max())
    return forward if near else layer.forward
