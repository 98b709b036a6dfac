"""Which rows go through the reward model together: as many as memory allows, in passes of about one size.

Rows are told as slices, so that taking them is a view and no index goes to the device.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foresighted.errors import DataError

ROWS = 64
"""About how many rows go together where free memory is not known: the CPU, whose caches more rows do not help."""
_SLACK = 9 / 8  # on ROWS, where the number of passes can be less for it: 129 rows are two passes
SHARE = 0.7
"""Of free memory; the rest is for what a kernel allocates inside, for fragments, and for the products of all rows."""

Rows = tuple[slice, ...]
Inputs = Mapping[str, Tensor]


def count_rows(inputs: Inputs) -> int:
    """Return R.

    Raises:
        DataError: tensors with different numbers of rows, or none.
    """
    counts = {name: tensor.shape[0] for name, tensor in inputs.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"inputs: got {counts or 'nothing'}; expected tensors with one row a response")
    return next(iter(counts.values()))


def take(inputs: Inputs, rows: Rows) -> dict[str, Tensor]:
    """Return some rows of every input."""
    return {name: _joined([tensor[part] for part in rows]) for name, tensor in inputs.items()}


def groups(prompts: int, per: int, most: int, *, even: bool) -> Iterator[tuple[Rows, int]]:
    """Yield rows and their number of groups: whole prompts where they fit, else parts of one with its reference.

    Args:
        prompts: B.
        per: rows a prompt, its reference last.
        most: rows in a pass.
        even: passes of about one size, not full ones and a rest.
    """
    if per <= most:
        step = _step(prompts, most // per, even)
        for first in range(0, prompts, step):
            count = min(step, prompts - first)
            yield (slice(first * per, (first + count) * per),), count
        return
    step = _step(per - 1, most - 1, even)
    for prompt in range(prompts):
        last = (prompt + 1) * per - 1
        for first in range(prompt * per, last, step):
            yield (slice(first, min(first + step, last)), slice(last, last + 1)), 1


def pairs_of_blocks(rows: int, most: int, *, even: bool) -> Iterator[Rows]:
    """Yield rows so that every two rows are together once at least."""
    if rows <= most:
        yield (slice(0, rows),)
        return
    step = _step(rows, most // 2, even)
    blocks = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
    yield from combinations(blocks, 2)


def _step(count: int, most: int, even: bool) -> int:
    return math.ceil(count / math.ceil(count / most)) if even else most


def placed(parts: Sequence[tuple[Rows, Tensor]], rows: int) -> Tensor:
    """Return what passes found for their rows as one column, shape R."""
    if len(parts) == 1:
        return parts[0][1]
    whole = parts[0][1].new_empty(rows)
    for own, values in parts:
        for part, found in zip(own, torch.split(values, [s.stop - s.start for s in own]), strict=True):
            whole[part] = found
    return whole


def placed_square(parts: Sequence[tuple[Rows, Tensor]], rows: int) -> Tensor:
    """Return what passes found for pairs of their rows, shape R R."""
    if len(parts) == 1:
        return parts[0][1]
    whole = parts[0][1].new_empty(rows, rows)
    for own, values in parts:
        sizes = [s.stop - s.start for s in own]
        for part, band in zip(own, torch.split(values, sizes), strict=True):
            for other, found in zip(own, torch.split(band, sizes, 1), strict=True):
                whole[part, other] = found
    return whole


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that could be allocated on a device; None where more rows than `ROWS` would not pay."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Fit:
    """How many rows fit, from what two rows took."""

    def __init__(self) -> None:
        self._bytes = 0.0
        self._positions = 1
        self._limit: int | None = None

    def watch(self, inputs: Inputs) -> AbstractContextManager[object]:
        """Measure the pass over these rows while it lasts, where it matters."""
        return nullcontext() if free_memory(_device(inputs)) is None else Watch(self, inputs)

    def measured(self, peak: int, inputs: Inputs) -> None:
        """Take the most bytes that a pass over these rows held."""
        self._bytes, self._positions = peak / count_rows(inputs), _positions(inputs)

    def rows(self, inputs: Inputs) -> int:
        """Return the most rows of a pass over rows like these, at least 2."""
        free = free_memory(_device(inputs))
        if free is None:
            most = int(ROWS * _SLACK)
        else:
            longer = _positions(inputs) / self._positions  # attention grows with its square, the rest does not
            most = int(SHARE * free / max(1.0, self._bytes * max(longer, longer**2)))
        return max(2, most if self._limit is None else min(most, self._limit))

    def halve(self, rows: int) -> None:
        """Remember that so many rows were too many."""
        self._limit = max(2, rows // 2)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that live on the inputs' device beyond those that were there before, while it lasts."""

    def __init__(self, fit: Fit, inputs: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fit, self._inputs = fit, inputs
        self._device = _device(inputs)
        self._known: dict[int, Any] = {}
        self._live = self._peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it allocates."""
        kwargs = kwargs or {}
        for old in self._storages((args, kwargs)):
            self._known.setdefault(old._cdata, None)
        result = func(*args, **kwargs)
        for new in self._storages(result):
            if new._cdata not in self._known:
                self._known[new._cdata] = weakref.finalize(new, self._freed, new._cdata, new.nbytes())
                self._live += new.nbytes()
        self._peak = max(self._peak, self._live)
        return result

    def _storages(self, tree: Any) -> list[Any]:
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
        return [tensor.untyped_storage() for tensor in tensors if tensor.device == self._device]

    def _freed(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self._live -= size

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        for entry in self._known.values():
            if entry is not None:
                entry.detach()
        self._fit.measured(self._peak, self._inputs)


def _device(inputs: Inputs) -> torch.device:
    return next(iter(inputs.values())).device


def _positions(inputs: Inputs) -> int:
    return max(max(1, tensor.numel() // max(1, tensor.shape[0])) for tensor in inputs.values())
