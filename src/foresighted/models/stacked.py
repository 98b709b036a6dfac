"""Adapters of several experiments side by side on one frozen model: one batch, its rows experiment by experiment.

In an adapted layer the base is one product for all rows, the adapters are two batched ones: x is seen as E, rows, in,

    y = W x + s B_e (A_e x),    A_e of shape r, in and B_e of shape out, r for the rows of experiment e.

Whatever calls the model (generation, caches, likelihoods) sees nothing but a larger batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foresighted.models.forwards import replaced
from foresighted.models.pretrained import seeded

_OWN = "default"
"""What PEFT calls the adapter of a model that has one."""
Adapter = Mapping[str, Tensor]
"""The trained parameters of one experiment, by the names that they have in the model."""


class Stack:
    """The adapted layers of a model of PEFT's, which many adapters can take in turn or side by side.

    Args:
        model: with one adapter, low-rank and without dropout, on linear layers (see `find_stack`).
        layers: its adapted layers, by name.
    """

    def __init__(self, model: Any, layers: Mapping[str, Any]) -> None:
        self._model = model
        self._layers = layers

    def fresh(self, seed: int) -> dict[str, Tensor]:
        """Return the parameters of an adapter that is drawn from a seed, as the model's own would be."""
        name = "drawn"
        with seeded(seed):
            self._model.add_adapter(name, self._model.peft_config[_OWN])
        found = {
            own.replace(f".{name}.", f".{_OWN}."): parameter.detach().clone().requires_grad_()
            for own, parameter in self._model.named_parameters()
            if f".{name}." in own
        }
        self._model.delete_adapter(name)
        return {own: found[own] for own, parameter in self._model.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def hold(self, adapter: Adapter) -> None:
        """Give the model itself an adapter's values."""
        for name, parameter in self._model.named_parameters():
            if name in adapter:
                parameter.copy_(adapter[name])

    @contextmanager
    def active(self, adapters: Sequence[Adapter]) -> Iterator[None]:
        """Let the model's rows belong to E experiments, as many rows to each, in the order of `adapters`."""

        def forward(name: str, layer: Any) -> Callable[..., Tensor]:
            a, b = (torch.stack([own[f"{name}.lora_{side}.{_OWN}.weight"] for own in adapters]) for side in "AB")
            return _stacked(layer, a, b)

        with replaced((layer, forward(name, layer)) for name, layer in self._layers.items()):
            yield


def _stacked(layer: Any, a: Tensor, b: Tensor) -> Callable[..., Tensor]:
    """Return the pass of an adapted layer, of experiments' A (E, r, in) and B (E, out, r)."""
    scale = layer.scaling[_OWN]

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        said: Tensor = layer.base_layer(x, *args, **kwargs)
        if layer.disable_adapters:
            return said
        rows = x.to(a.dtype).reshape(len(a), -1, x.shape[-1])
        own = said.to(a.dtype).reshape(len(a), -1, said.shape[-1])
        return torch.baddbmm(own, rows @ a.mT, b.mT, alpha=scale).view_as(said).to(said.dtype)

    return forward


def find_stack(model: nn.Module) -> Stack | None:
    """Return the stack of a model; None where its adapter is another than a plain low-rank one on linear layers, or
    where something besides the adapter is trained."""
    from peft import PeftModel
    from peft.tuners.lora import Linear, LoraLayer

    if not isinstance(model, PeftModel) or list(model.peft_config) != [_OWN]:
        return None
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for layer in layers.values():
        dropout = any(isinstance(part, nn.Dropout) and part.p > 0 for part in layer.lora_dropout.values())
        if type(layer) is not Linear or layer.lora_variant or dropout or layer.lora_bias[_OWN]:
            return None
    names = {f"{name}.lora_{side}.{_OWN}.weight" for name in layers for side in "AB"}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Stack(model, layers) if trained == names else None
