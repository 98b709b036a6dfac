"""Sums over parameters of what is read of their per-sample gradients, in few operations.

A pass of a large model has hundreds of parameters, and on an accelerator a small operation costs what a large one does.
So what is small waits: gradients of biases and norms are read as one row at the end, layers of one shape as one layer
with more prompts, and the numbers that come of it are summed together, in double.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foresighted.influence.layers import BLOCK, Dense, Form, Outer

Read = Callable[[Sequence[Form]], tuple[Tensor, ...]]
"""What is wanted of parameters (of one kind and shape) in columns, each with the parameters first."""


def stars(prompts: int, forms: Sequence[Form]) -> tuple[Tensor, Tensor]:
    """Return |g_r|^2 and <g_r, g_ref> of each of L parameters: shape L B K, as `Outer.star` takes the rows."""
    form = forms[0]
    if len(forms) > 1:  # rows of another parameter are those of other prompts
        form = Outer(*(torch.cat([one[side] for one in forms]) for side in (0, 1)))  # type: ignore[misc]
    norms, cross = form.star(len(forms) * prompts)
    return norms.view(len(forms), prompts, -1), cross.view(len(forms), prompts, -1)


def grams(forms: Sequence[Form]) -> tuple[Tensor]:
    """Return all inner products of rows for each of L parameters, shape L R R."""
    return (torch.stack([form.gram() for form in forms]),)


class Sums:
    """Sums over parameters.

    Args:
        read: what is summed.
        wait: most numbers that layers hold while they wait for others of their shape; 0: none waits.
    """

    def __init__(self, read: Read, *, wait: int) -> None:
        self._read = read
        self._wait = wait
        self._dense: list[Tensor] = []
        self._waiting: dict[tuple[torch.Size, torch.Size], list[Outer]] = {}
        self._held = 0
        self._columns: tuple[list[Tensor], ...] = ()

    def add(self, form: Form, *, written: bool) -> None:
        """Add a parameter; `written`: its gradients were written out, and may be large."""
        if isinstance(form, Dense) and not written:
            self._dense.append(form.g)
        elif isinstance(form, Outer) and form.scale is None and self._wait:
            size = form.a.numel() + form.b.numel()
            if self._held + size > self._wait:
                self._read_waiting()
            self._waiting.setdefault((form.a.shape, form.b.shape), []).append(form)
            self._held += size
        else:
            self._take([form])

    def all(self) -> list[Tensor]:
        """Return the sums in double; none where nothing was added."""
        self._read_waiting()
        if self._dense:
            self._take([Dense(torch.cat(self._dense, 1))])
        return [_summed(column) for column in self._columns]

    def _read_waiting(self) -> None:
        for forms in self._waiting.values():
            self._take(forms)
        self._waiting, self._held = {}, 0

    def _take(self, forms: Sequence[Form]) -> None:
        parts = self._read(forms)
        self._columns = self._columns or tuple([] for _ in parts)
        for column, part in zip(self._columns, parts, strict=True):
            column.append(part)
            if len(column) * part.numel() > BLOCK:
                column[:] = [_summed(column)[None]]


def _summed(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).sum(0, dtype=torch.float64)
