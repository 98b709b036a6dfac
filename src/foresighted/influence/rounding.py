"""How precise products of a tensor's numbers are: two ways to compute one thing are allowed to differ by that."""

from __future__ import annotations

import torch
from torch import Tensor

_FACTORS = {"tf32": torch.float16, "bf16": torch.bfloat16}  # as many bits of a factor as these types have


def rounded_as(values: Tensor) -> torch.dtype:
    """Return the type whose rounding products of a tensor have: its own, but for single precision where torch may round
    factors first, as trainers often let it (`tf32=True`, `torch.set_float32_matmul_precision`)."""
    if values.dtype != torch.float32:
        return values.dtype
    backend = torch.backends.mkldnn if values.device.type == "cpu" else torch.backends.cuda
    told = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if told is None and values.device.type != "cpu" and torch.backends.cuda.matmul.allow_tf32:  # torch before 2.9
        told = "tf32"
    return _FACTORS.get(str(told), torch.float32)


def in_full(values: Tensor) -> bool:
    """Return whether products are of single precision, or better."""
    return rounded_as(values) in (torch.float32, torch.float64)
