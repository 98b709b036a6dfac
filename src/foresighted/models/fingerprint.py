"""Which weights these are, as a short text: to record a model that has no name, and to tell replicas apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes, types and bits of a module's parameters and buffers, in their order."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_bits(tensor).flatten().cpu().numpy().data)
    return digest.hexdigest()


def quick_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of names and of each tensor's sum of bits: nothing is copied, so it costs next to nothing.

    For replicas of one model after every step, which differ somewhere if they differ; its value is kept in checkpoints.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {int(_bits(tensor).long().sum())}\n".encode())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()])
