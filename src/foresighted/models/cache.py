"""Room for the keys and values of a whole response: a token's are written into it, and those before are not copied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _Roomy(DynamicLayer):  # type: ignore[misc]  # transformers ships no types
    """A layer of a cache that grows in place, as far as there is room."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._room = [_with_room(tensor, room) for tensor in (layer.keys, layer.values)]
        self._view(layer.keys.shape[-2])

    def _view(self, length: int) -> None:
        self.keys, self.values = (tensor[..., :length, :] for tensor in self._room)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return keys and values of all tokens, those of the new ones written behind the others."""
        length = self.keys.shape[-2]
        end = length + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            both: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return both
        for tensor, new in zip(self._room, (key_states, value_states), strict=True):
            tensor[..., length:end, :] = new
        self._view(end)
        return self.keys, self.values


def _with_room(tensor: Tensor, room: int) -> Tensor:
    shape = list(tensor.shape)
    shape[-2] += room
    made = tensor.new_empty(shape)
    made[..., : tensor.shape[-2], :] = tensor
    return made


def make_room(cache: DynamicCache, tokens: int) -> None:
    """Give every layer of a cache, which is read without gradients, room for so many more tokens."""
    with torch.no_grad():
        cache.layers = [_Roomy(own, tokens) if type(own) is DynamicLayer else own for own in cache.layers]
