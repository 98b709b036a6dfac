"""DeBERTa-v2 and v3 with relative positions computed row by row, and only those that occur.

In these models the embeddings of relative positions, and their projections in every layer, are computed once for the
whole batch, so what comes back through them is a sum over rows: a row's own gradient cannot be told from it. Inside
`row_by_row` the same function is computed with one copy of the embeddings a row in the layers whose gradients are
asked for. Distances that do not occur are left out (for 40 tokens, 433 of 512), which makes up for the copies and
speeds up the other layers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@contextmanager
def row_by_row(model: nn.Module, wanted: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let the DeBERTa-v2 encoders inside a model compute relative positions row by row, for as long as it lasts.

    Args:
        model: any model; one without such an encoder is left alone.
        wanted: parameters whose gradients are asked for.
    """
    ids = {id(parameter) for parameter in wanted}

    def holds(module: nn.Module) -> bool:
        return any(id(parameter) in ids for parameter in module.parameters())

    patches: list[tuple[nn.Module, str, Any]] = []
    for encoder in (m for m in model.modules() if type(m).__name__ == "DebertaV2Encoder" and m.relative_attention):
        span = _Span(encoder)
        own = [module for name, module in encoder.named_children() if name in ("rel_embeddings", "LayerNorm")]
        copied = any(holds(module) for module in own)
        patches.append((encoder, "get_rel_pos", span.positions))
        if copied:
            patches.append((encoder, "get_rel_embedding", span.embeddings))
        for module in encoder.modules():
            if type(module).__name__ == "DisentangledSelfAttention":
                own_copy = _Attention(module, span, copied or holds(module))
                patches.append((module, "disentangled_attention_bias", MethodType(_bias, own_copy)))
    for module, name, method in patches:
        object.__setattr__(module, name, method)
    try:
        yield
    finally:
        for module, name, _ in patches:
            object.__delattr__(module, name)


class _Span:
    """The distances that occur in one forward pass of an encoder, and its number of rows."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.size = encoder.rel_embeddings.num_embeddings // 2
        self.low = self.high = 0

    def positions(self, hidden: Tensor, query: Tensor | None = None, relative: Tensor | None = None) -> Tensor:
        found: Tensor = type(self.encoder).get_rel_pos(self.encoder, hidden, query, relative)
        near = found
        if relative is None and not found.is_cpu:  # they follow from the lengths: nothing is asked of the device
            lengths = (None if x is None else torch.empty(x.shape[-2], 1, device="cpu") for x in (hidden, query))
            near = type(self.encoder).get_rel_pos(self.encoder, *lengths)
        every = self._index(torch.cat([near.flatten(), -near.flatten()]))
        self.low, self.high = int(every.min()), int(every.max())
        self.ids = torch.arange(self.low, self.high + 1, device=hidden.device).expand(hidden.shape[0], -1)
        square = found.long().reshape(found.shape[-2:])
        self.toward, self.away = self._index(square) - self.low, self._index(-square) - self.low
        return found

    def _index(self, distance: Tensor) -> Tensor:
        index: Tensor = (distance + self.size).clamp(0, 2 * self.size - 1)
        return index

    def embeddings(self) -> Tensor:
        """Return the embeddings of the distances that occur, shape rows distances D."""
        states: Tensor = self.encoder.rel_embeddings(self.ids)
        return self.encoder.LayerNorm(states) if "layer_norm" in self.encoder.norm_rel_ebd else states


class _Attention(NamedTuple):
    module: Any
    span: _Span
    by_row: bool


def _bias(self: _Attention, query: Tensor, key: Tensor, _relative: Tensor, embeddings: Tensor, factor: int) -> Tensor:
    """Return the attention scores between content and position, shape (rows heads) T T."""
    attention = self.module
    names = ("key_proj", "query_proj") if attention.share_att_key else ("pos_key_proj", "pos_query_proj")
    scale = torch.tensor(query.shape[-1] * factor, dtype=torch.float, device="cpu").sqrt().to(query.dtype)  # as there
    rows = query.shape[0] // attention.num_attention_heads
    if embeddings.ndim == 2:  # of all distances, the same for every row
        embeddings = embeddings[None, self.span.low : self.span.high + 1].expand(rows if self.by_row else 1, -1, -1)

    def scores(content: Tensor, projection: str, index: Tensor) -> Tensor:
        position = getattr(attention, projection)(embeddings)
        position = attention.transpose_for_scores(position, attention.num_attention_heads)
        position = position if self.by_row else position.repeat(rows, 1, 1)
        every = torch.bmm(content, position.mT)
        found: Tensor = every.gather(-1, index.to(every.device).expand(every.shape[0], *index.shape)) / scale
        return found

    terms = [scores(query, names[0], self.span.toward)] if "c2p" in attention.pos_att_type else []
    terms += [scores(key, names[1], self.span.away).mT] if "p2c" in attention.pos_att_type else []
    return functools.reduce(torch.add, terms)
