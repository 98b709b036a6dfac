"""Which precision a device multiplies matrices faster in."""

from __future__ import annotations

import time

import torch

_SECONDS = 0.4
"""Of each measurement."""
_SHAPE = 1024, 4096
"""Of the matrix that rows are multiplied with: about that of a layer of a small language model."""


def products_a_second(device: torch.device, rows: int, dtype: torch.dtype) -> float:
    """Return how many times in a second a device multiplies so many rows with a layer's matrix, by the clock."""
    x, weight = (torch.randn(size, device=device).to(dtype) for size in ((rows, _SHAPE[0]), _SHAPE))
    count, began, now = 0, 0.0, 0.0
    for _ in range(2):  # the first time warms up
        count, began, now = 0, time.perf_counter(), 0.0
        while now < _SECONDS / 2 or not count:
            float((x @ weight)[0, 0])  # waits for the device
            count += 1
            now = time.perf_counter() - began
    return count / now


def faster(device: torch.device, rows: int) -> str:
    """Return `bfloat16` where it is faster than `float32` for products of so many rows, else `float32`."""
    rates = {name: products_a_second(device, rows, getattr(torch, name)) for name in ("float32", "bfloat16")}
    return max(rates, key=lambda name: rates[name])
