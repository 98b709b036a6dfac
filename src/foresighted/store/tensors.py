"""Tensors in safetensors files: nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foresighted.errors import RunError, one_line
from foresighted.store.files import named


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file."""
    with named(path):
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)


def read_tensors(path: Path, parameters: Mapping[str, Tensor], told: str) -> None:
    """Put what a safetensors file holds into parameters, in place.

    Raises:
        RunError: `told`, where the file holds other names or shapes; or it cannot be read.
    """
    try:
        saved = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path}: damaged ({one_line(error)}); restore it") from None
    if saved.keys() != parameters.keys() or any(saved[name].shape != parameters[name].shape for name in saved):
        raise RunError(told)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
