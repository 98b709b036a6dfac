"""How much memory is left, and how much a pass keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be had on a device; of one that does not tell, of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return int(psutil.virtual_memory().available)


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
