"""Sampling noise as a function of names: equal names give equal noise.

A name is (seed, round, prompt, candidate), then position and token.

Sampling is the Gumbel-max trick: argmax over tokens of log p + noise is a draw from p. Because the noise is attached
to the token and not drawn from a stream, two arms whose policies still agree sample the same words, a resumed run
needs no generator state, and neither batch size nor device changes a draw.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from transformers import LogitsProcessor

_FIRST_TOP_K = 256  # most nuclei are smaller: a partial sort of the vocabulary instead of a whole one


def key(*parts: object) -> int:
    """Return a signed 64-bit key for a name, for example `key(seed, "candidates", round, prompt_id, n)`."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(*parts: object) -> float:
    """Return a number in (0, 1) that is a function of the name `parts`."""
    return ((key(*parts) % 2**64 >> 11) + 0.5) * 2.0**-53


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical shift of a signed integer


def _mix(x: Tensor) -> Tensor:
    # splitmix64 finaliser (Steele, Lea and Flood 2014); products wrap modulo 2^64
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def gumbel(rows: Tensor, step: int, tokens: Tensor) -> Tensor:
    """Return standard Gumbel noise (R K, float32) for tokens (R K, int64) of keyed rows (R, int64) at one position."""
    at = _mix(rows + torch.full_like(rows, step + 1) * -7046029254386353131)
    mixed = _mix(at[:, None] + (tokens + 1) * -4417276706812531889)
    share = (_shift(mixed, 40).float() + 0.5) * 2.0**-24
    return -(-share.log()).log()


class NucleusSampler(LogitsProcessor):  # type: ignore[misc]  # transformers ships no types
    """Turn greedy decoding into top-p sampling with named noise: the largest score left is the token drawn.

    Args:
        rows: key of each row of the batch, shape R, int64.
        temperature: softmax temperature, above 0.
        top_p: keep the smallest set of most probable tokens whose probability reaches this.
    """

    def __init__(self, rows: Tensor, *, temperature: float, top_p: float) -> None:
        self.rows = rows
        self.temperature = temperature
        self.top_p = top_p
        self.step = 0
        self.finite = torch.ones_like(rows, dtype=torch.bool)
        """Rows of whose scores all so far were numbers, shape R."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores whose argmax is the sampled token: log p + noise inside the nucleus, -inf outside."""
        log_p = (scores.float() / self.temperature).log_softmax(-1)
        vocabulary = log_p.shape[-1]
        k = min(_FIRST_TOP_K, vocabulary)
        while True:
            top, tokens = log_p.topk(k, dim=-1)
            before = top.exp().cumsum(-1) - top.exp()
            if k == vocabulary or bool((before[:, -1] >= self.top_p).all()):
                break
            k = min(4 * k, vocabulary)
        self.finite &= top[:, 0].isfinite()  # the largest is NaN where any is
        kept = torch.where(before < self.top_p, top + gumbel(self.rows, self.step, tokens), -torch.inf)
        self.step += 1
        return log_p.fill_(-torch.inf).scatter_(-1, tokens, kept)
