"""Prompts and responses as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Rollout(NamedTuple):
    """Responses to B prompts, N each, prompt-major."""

    tokens: Tensor
    """Token ids, shape B*N T, padded on the right; an end-of-sequence token that was sampled is included."""
    mask: Tensor
    """1 where `tokens` is part of the response, shape B*N T."""
    texts: list[str]

    def rows(self, index: Sequence[int]) -> Rollout:
        """Return some rows, in the order given."""
        return Rollout(self.tokens[list(index)], self.mask[list(index)], [self.texts[i] for i in index])

    def lengths(self) -> list[int]:
        """Return the number of tokens of each response."""
        lengths: list[int] = self.mask.sum(-1).tolist()
        return lengths


class Prefix(NamedTuple):
    """Prompts up to where their answers begin."""

    tokens: Tensor  # shape U L, padded on the left
    mask: Tensor

    def ids(self) -> list[list[int]]:
        """Return the token ids of each prompt."""
        return ids_of(self.tokens, self.mask)


def ends_of(model: Any) -> list[int]:
    """Return the tokens that end a response of a causal language model; none where it has no such token."""
    end = model.generation_config.eos_token_id
    return end if isinstance(end, list) else [] if end is None else [end]


def ids_of(tokens: Tensor, mask: Tensor) -> list[list[int]]:
    """Return the token ids of each row that `mask` keeps."""
    rows = zip(tokens.tolist(), mask.tolist(), strict=True)
    return [[token for token, keep in zip(*row, strict=True) if keep] for row in rows]
