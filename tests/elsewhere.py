"""A device that is not there: its tensors are computed by the CPU and do not mix with the CPU's own.

What an accelerator refuses is refused: an operation on tensors of both devices (but for a number, or for indices, which
an accelerator takes from either), and a tensor of the device as an array. Numbers are the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "lazy"
"""A kind of device that torch knows, that no build has, and whose gradients need no thread of their own."""
_HERE, _THERE = torch.device("cpu"), torch.device(NAME)
_MADE_OF_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
_MOVES = ("_to_copy", "copy_", "copy")
_INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_")


class There(Tensor):
    """A tensor on that device."""

    here: Tensor
    """Its numbers."""

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        """Put a tensor of the CPU's there."""
        made: There = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=_THERE,
        )  # type: ignore[attr-defined]  # fmt: skip
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Return its numbers."""
        return self.here.tolist()

    def untyped_storage(self) -> Any:
        """Return where its numbers are."""
        return self.here.untyped_storage()


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    own = [tensor for tensor in given if isinstance(tensor, There)]
    asked = kwargs.get("device")
    to = _THERE if own and asked is None else torch.device(asked or _HERE)
    if name == "copy_":
        to = args[0].device
    if not own and to.type != NAME:
        return func(*args, **kwargs)
    if name not in _MOVES:
        _check(func, name, args, given)
    args, kwargs = tree_map(lambda leaf: leaf.here if isinstance(leaf, There) else leaf, (args, kwargs))
    found = func(*args, **kwargs | ({} if asked is None else {"device": _HERE}))
    back = {id(tensor.here): tensor for tensor in own}  # what is changed in place stays what it is

    def placed(leaf: Any) -> Any:
        if id(leaf) in back:
            return back[id(leaf)]
        return There(leaf) if isinstance(leaf, Tensor) and to.type == NAME else leaf

    return tree_map(placed, found)


def _check(func: Any, name: str, args: Any, given: list[Tensor]) -> None:
    numbers = [tensor for tensor in given if tensor.ndim]
    if name in _INDEXES and isinstance(args[0], There):
        numbers = [leaf for leaf in tree_leaves((args[0], args[2:])) if isinstance(leaf, Tensor) and leaf.ndim]
    if len({isinstance(tensor, There) for tensor in numbers}) > 1:
        raise RuntimeError(f"{func}: expected all tensors on one device, found some on cpu and some on {NAME}")


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What torch's own C++ would make on the device past any mode: tensors of lists."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _MADE_OF_DATA and torch.device(kwargs.get("device") or _HERE).type == NAME:
            return func(*args, **kwargs | {"device": _HERE}).to(_THERE)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], There):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            told = [There(torch.tensor(part, dtype=torch.long)) if isinstance(part, list) else part for part in index]
            return func(args[0], tuple(told), *(torch.as_tensor(value) for value in args[2:]))
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[str]:
    """Let that device be there for a `with` block; gives its name."""
    with _Operations(), _Calls():  # type: ignore[no-untyped-call]
        yield NAME
