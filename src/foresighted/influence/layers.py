"""Per-sample gradients of one layer in product form, and inner products of them without writing them out.

A layer's gradient for row r of a batch is known from what entered the layer (x) and the gradient of the row's reward
in what left it (delta). R rows, T positions, I inputs, O outputs:

    Outer     sum_t a_rt b_rt^T              Linear: a = delta, b = x;  Conv1D: a = x, b = delta
    Lookup    sum_t onehot(id_rt) d_rt^T     Embedding: d = delta
    Dense     g_r                            biases and norms: as many numbers as outputs

Inner products of two rows' Outer forms are sum_ts (a_rt . a_us)(b_rt . b_us): no gradient is written out ("ghost").
Where positions are many and the layer small, writing them out in blocks is cheaper; each layer takes the cheaper way.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 1 << 24
"""Most numbers held at a time while gradients of a layer are written out (64 MB in float32)."""


def squared_norm(tensor: Tensor) -> float:
    """Return |tensor|^2, summed in double, without a copy of a large tensor."""
    return sum(float(part.double().square().sum()) for part in torch.split(tensor.detach().flatten(), BLOCK // 16))


class Outer(NamedTuple):
    """sum_t a_rt b_rt^T: shape R T O and R T I."""

    a: Tensor
    b: Tensor
    scale: Tensor | None = None
    """Factor of each entry, shape O I; None is 1."""

    def scaled(self, scale: Tensor) -> Outer:
        """Return the gradients with each entry times a factor of the parameter's shape."""
        return self._replace(scale=scale)

    def pair_cost(self, rows: int, pairs: int) -> tuple[int, int]:
        """Return multiplications of `pairs` inner products: as ghost products, and written out for `rows` rows."""
        t, o, i = self.a.shape[1], self.a.shape[2], self.b.shape[2]
        return pairs * t * t * (o + i), (rows * t + pairs) * o * i

    def star(self, prompts: int) -> tuple[Tensor, Tensor]:
        """Return |g_r|^2 and <g_r, g_ref> of rows that stand prompt by prompt, reference last: shape B K each."""
        rows = self.a.shape[0]
        ghost, written = self.pair_cost(rows, 2 * rows)
        cheap = ghost <= written and self.scale is None
        return self._star_ghost(prompts) if cheap else self._star_written(prompts)

    def _star_ghost(self, prompts: int) -> tuple[Tensor, Tensor]:
        rows, t, _ = self.a.shape
        norms = _dots(*(torch.bmm(side, side.mT).view(rows, -1) for side in self[:2]))
        across = (torch.bmm(side.reshape(prompts, -1, side.shape[2]), _last_row(side, prompts).mT) for side in self[:2])
        return norms.view(prompts, -1), _dots(*(side.view(rows, t * t) for side in across)).view(prompts, -1)

    def _star_written(self, prompts: int) -> tuple[Tensor, Tensor]:
        rows, _, o = self.a.shape
        per = rows // prompts
        norms, cross = [], []
        step = max(1, BLOCK // (rows * self.b.shape[2]))
        for start in range(0, o, step):
            block = self._written(start, start + step)
            norms.append(_dots(block, block).view(prompts, per))
            grouped = block.view(prompts, per, -1)
            cross.append(torch.bmm(grouped, grouped[:, -1, :, None])[..., 0])
        return functools.reduce(torch.add, norms), functools.reduce(torch.add, cross)

    def gram(self) -> Tensor:
        """Return all inner products, shape R R."""
        rows = self.a.shape[0]
        ghost, written = self.pair_cost(rows, rows * rows)
        return self._gram_ghost() if ghost <= written and self.scale is None else self._gram_written()

    def _gram_ghost(self) -> Tensor:
        rows, t, _ = self.a.shape
        gram = self.a.new_zeros(rows, rows)
        a, b = self.a.flatten(0, 1), self.b.flatten(0, 1)
        step = max(1, BLOCK // (rows * t * t))
        for start in range(0, rows, step):
            span = slice(start * t, (start + step) * t)
            product = (a[span] @ a.mT) * (b[span] @ b.mT)
            gram[start : start + step] = product.view(-1, t, rows, t).sum((1, 3))
        return gram

    def _gram_written(self) -> Tensor:
        rows, _, o = self.a.shape
        gram = self.a.new_zeros(rows, rows)
        step = max(1, BLOCK // (rows * self.b.shape[2]))
        for start in range(0, o, step):
            block = self._written(start, start + step)
            gram += block @ block.mT
        return gram

    def _written(self, start: int, stop: int) -> Tensor:
        block = torch.bmm(self.a[:, :, start:stop].mT, self.b)
        return (block if self.scale is None else block * self.scale[start:stop]).flatten(1)

    def difference(self, row: int, gradient: Tensor) -> float:
        """Return |g_row - gradient|^2, `gradient` in the parameter's own shape O I."""
        return float((self.a[row].mT @ self.b[row] - gradient).square().sum())


class Lookup(NamedTuple):
    """sum_t onehot(id_rt) d_rt^T: ids of shape R T, d of shape R T D."""

    ids: Tensor
    d: Tensor

    def scaled(self, scale: Tensor) -> Lookup:
        """Return the same gradients with each entry times a factor of the parameter's shape."""
        return Lookup(self.ids, self.d * scale[self.ids])

    def star(self, prompts: int) -> tuple[Tensor, Tensor]:
        """Return |g_r|^2 and <g_r, g_ref>, shape B K each."""
        rows, t = self.ids.shape
        same = self.ids[:, :, None] == self.ids[:, None, :]
        norms = (torch.bmm(self.d, self.d.mT) * same).sum((1, 2))
        last = _last_row(self.ids[:, :, None], prompts)[:, :, 0]
        same = self.ids.reshape(prompts, -1)[:, :, None] == last[:, None, :]
        cross = torch.bmm(self.d.reshape(prompts, -1, self.d.shape[2]), _last_row(self.d, prompts).mT) * same
        return norms.view(prompts, -1), cross.view(prompts, rows // prompts, t * t).sum(2)

    def gram(self) -> Tensor:
        """Return all inner products, shape R R."""
        rows, t = self.ids.shape
        gram = self.d.new_zeros(rows, rows)
        ids, d = self.ids.flatten(), self.d.flatten(0, 1)
        step = max(1, BLOCK // (rows * t * t))
        for start in range(0, rows, step):
            span = slice(start * t, (start + step) * t)
            product = (d[span] @ d.mT) * (ids[span, None] == ids[None, :])
            gram[start : start + step] = product.view(-1, t, rows, t).sum((1, 3))
        return gram

    def difference(self, row: int, gradient: Tensor) -> float:
        """Return |g_row - gradient|^2, `gradient` of shape V D; only rows that either one has are written out."""
        used, position = torch.unique(self.ids[row], return_inverse=True)
        own = self.d.new_zeros(used.shape[0], self.d.shape[2]).index_add_(0, position, self.d[row])
        there = gradient[used]
        elsewhere = max(0.0, squared_norm(gradient) - squared_norm(there))
        return squared_norm(own - there) + elsewhere


class Dense(NamedTuple):
    """g_r: shape R P."""

    g: Tensor

    def scaled(self, scale: Tensor) -> Dense:
        """Return the same gradients with each entry times a factor of the parameter's shape."""
        return Dense(self.g * scale.flatten())

    def star(self, prompts: int) -> tuple[Tensor, Tensor]:
        """Return |g_r|^2 and <g_r, g_ref>, shape B K each."""
        grouped = self.g.view(prompts, -1, self.g.shape[1])
        return _dots(self.g, self.g).view(prompts, -1), torch.bmm(grouped, grouped[:, -1, :, None])[..., 0]

    def gram(self) -> Tensor:
        """Return all inner products, shape R R."""
        return self.g @ self.g.mT

    def difference(self, row: int, gradient: Tensor) -> float:
        """Return |g_row - gradient|^2."""
        return float((self.g[row] - gradient.flatten()).square().sum())


Form = Outer | Lookup | Dense


def combine(forms: list[Form]) -> Form | None:
    """Return the form of the sum over several uses of one parameter; None where the uses are of different kinds."""
    if len(forms) == 1:
        return forms[0]
    kind: type[Form] = type(forms[0])
    if any(type(form) is not kind for form in forms):
        return None
    if kind is Dense:
        return Dense(functools.reduce(torch.add, [form[0] for form in forms]))
    pairs: Any = [form[:2] for form in forms]
    first, second = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
    return Outer(first, second) if kind is Outer else Lookup(first, second)


def forms_of(module: nn.Module, x: Tensor, delta: Tensor, wanted: Collection[str]) -> dict[str, Form]:
    """Return the per-sample gradients of a layer's parameters by their names in the layer.

    Args:
        module: a layer for which `known` is true.
        x: what entered it, R rows first.
        delta: gradient of the summed rewards in what left it.
        wanted: names in the layer of the parameters that are asked for.
    """
    rows = delta.shape[0]
    out = at_least_single(delta).reshape(rows, -1, delta.shape[-1])
    if isinstance(module, nn.Embedding):
        ids = x.reshape(rows, -1)
        if module.padding_idx is not None:
            out = out * (ids != module.padding_idx)[..., None]
        if (factor := getattr(module, "embed_scale", None)) is not None:  # Gemma and others multiply what they look up
            out = out * factor
        return {"weight": Lookup(ids, out)}
    forms: dict[str, Form] = {"bias": Dense(out.sum(1))} if "bias" in wanted else {}
    if "weight" not in wanted:
        return forms
    if not (isinstance(module, nn.Linear) or _is_conv1d(module)):
        return forms | {"weight": Dense((out * _normalised(module, x).reshape(out.shape)).sum(1))}
    entered = at_least_single(x).reshape(rows, -1, x.shape[-1])
    return forms | {"weight": Outer(entered, out) if _is_conv1d(module) else Outer(out, entered)}


def known(module: nn.Module) -> bool:
    """Return whether a layer is of a type that `forms_of` reads. What it reads is checked once on the model itself."""
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    return isinstance(module, nn.Linear) or _is_conv1d(module) or _is_norm(module)


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _is_norm(module: nn.Module) -> bool:
    """Many model families have norms of their own, mostly by these names."""
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and isinstance(weight, Tensor) and weight.ndim == 1


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    """Return d output / d weight of a norm. Output is affine in weight, so it is what the norm itself gives for ones
    less what it gives for zeros, with whatever epsilon and precision it has inside."""
    if isinstance(module, nn.LayerNorm):
        return nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    own: dict[str, Tensor] = module._parameters  # type: ignore[assignment]
    weight = own["weight"]
    try:
        own["weight"] = torch.ones_like(weight)
        ones = module.forward(x)
        own["weight"] = torch.zeros_like(weight)
        return at_least_single(ones - module.forward(x))
    finally:
        own["weight"] = weight


def at_least_single(x: Tensor) -> Tensor:
    """Return a tensor in at least float32: products of half-precision gradients are summed in single."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _dots(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner product of each row with its like, shape R D and R D to R, in one operation."""
    return torch.bmm(first[:, None, :], second[:, :, None]).flatten()


def _last_row(side: Tensor, prompts: int) -> Tensor:
    """Return each prompt's last row, shape B T D."""
    return side.reshape(prompts, -1, *side.shape[1:])[:, -1]
