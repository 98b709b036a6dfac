"""A second copy of a reward model that learns while the first one scores: what nobody trains is there once."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from foresighted.models.reward_model import RewardModel


def twin(model: RewardModel) -> RewardModel:
    """Return a copy of a reward model with trained parameters of its own, on the memory of the frozen ones.

    The two can be read in two threads at once: modules, tokenizers and parameter objects are each one's own.
    """
    trained = {id(parameter) for parameter in model.trainable().values()}
    known: dict[int, Any] = {}
    for tensor in (*model.network.parameters(), *model.network.buffers(), *model.body.buffers()):
        if id(tensor) not in trained:
            known[id(tensor)] = _view(tensor)
    made: RewardModel = copy.deepcopy(model, known)
    return made


def _view(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the same memory; quantised parameters, which carry more, are themselves."""
    if type(tensor) is nn.Parameter:
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor
