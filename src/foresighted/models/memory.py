"""How much memory is left, how much a pass keeps, and what becomes of it after."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from foresighted.influence import passes


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be had on a device; of one that does not tell, of the machine."""
    own = passes.free_memory(device)
    return int(psutil.virtual_memory().available) if own is None else own


ACCELERATED = 8
"""Times as many rows in a pass on an accelerator, where a pass costs its launches before it costs its rows."""


def at_once(device: torch.device, rows: int) -> int:
    """Return how many rows go through a language model together on a device, of a number that suits a CPU."""
    return rows if device.type == "cpu" else ACCELERATED * rows


_KEPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 2**26)}
"""Numbers of glibc's `mallopt`, and what they are set to: all from the heap, and the heap never smaller."""


def keep_freed() -> None:
    """Let this process keep the memory of freed tensors for its next ones, as torch does on an accelerator.

    A loop makes tensors of the same sizes every round, and a page that comes anew from the system costs more than most
    of what is done with it. Nothing happens without glibc, or where the environment tells its allocator something.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if hasattr(library, "gnu_get_libc_version") and not told:
        for parameter, value in _KEPT.values():
            library.mallopt(parameter, value)  # type: ignore[union-attr]


@contextmanager
def kept_by(weights: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Collect the bytes of each tensor that passes in a `with` block keep for their gradient, but for `weights`."""
    own = {tensor.untyped_storage().data_ptr() for tensor in weights}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
