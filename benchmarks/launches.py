"""What one call asks of a device: operations that it has to run, and values that the host waits for.

Counted where torch hands operations out, so that no accelerator is needed: on the `meta` device nothing is computed and
no value exists, whatever would copy one to the host stops there. The few places that read a number get a stand-in.
Views and empty tensors are no operations, nor is what is computed on the CPU beside it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FREE = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}


class Launches(TorchDispatchMode):
    """Counts while it lasts.

    Args:
        device: where the work is meant to be.
    """

    def __init__(self, device: str | torch.device) -> None:
        super().__init__()
        self.kind = torch.device(device).type
        self.operations: Counter[str] = Counter()
        self.to_host: Counter[str] = Counter()
        """Numbers read and tensors copied: each waits until the device is done."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it."""
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        kinds = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if self.kind not in kinds | {torch.device(kwargs.get("device") or "cpu").type}:
            return func(*args, **kwargs)
        if name in ("_local_scalar_dense", "allclose", "equal", "_unique2", "nonzero"):
            self.to_host[name] += 1
            if self.kind == "meta":
                return _stand_in(name, args[0])
        result = func(*args, **kwargs)
        view = any(said.alias_info is not None and not said.alias_info.is_write for said in func._schema.returns)
        if not view and name not in _FREE:
            self.operations[name] += 1
        if self.kind != "cpu" and self.kind in kinds:
            self.to_host[name] += sum(isinstance(leaf, Tensor) and leaf.is_cpu for leaf in tree_leaves(result))
        return result


def _stand_in(name: str, of: Tensor) -> Any:
    if name == "_unique2":
        return torch.empty_like(of), torch.empty_like(of), torch.empty_like(of)
    return (name != "_local_scalar_dense") or (True if of.dtype == torch.bool else 0)
