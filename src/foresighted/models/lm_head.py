"""Log-likelihoods of given tokens without the logits of all rows: the LM head goes over the vocabulary block by block.

The logits of a pass are rows x vocabulary, by far its largest tensor, and with gradients it is needed three times. All
that is wanted of a row is the log-likelihood of one token and, where the head is frozen, its gradient in the states h:

    log p(t | h) = w_t h + b_t - log Z,    Z = sum_v exp(w_v h + b_v)
    d log p / d h = w_t - (1 / Z) sum_v exp(w_v h + b_v) w_v

Both sums are kept relative to the largest logit so far, and scaled down where a block has a larger one (Milakov and
Gimelshein, arXiv 1805.02867).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from foresighted.models.forwards import replaced

ROWS = 1024
"""Most rows at a time."""
CPU_BLOCK = 2**10
"""Tokens of the vocabulary in a block: what stays in the cache of a processor."""
DEVICE_BLOCK = 2**14
"""The same on an accelerator, where small products would be many launches."""


class LMHead:
    """The last layer of a causal language model, which makes logits of hidden states.

    Args:
        model: the language model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        layer = model.get_output_embeddings()
        plain = type(layer) is nn.Linear and "forward" not in vars(layer)
        self._layer: nn.Linear | None = layer if plain else None
        self._is_last: bool | None = None

    def apart(self, rows: int = 1) -> bool:
        """Return whether the model's logits are what a frozen head makes of states, and nothing comes after it.

        Asked for the first time, the head says numbers of its own in a pass over one token: some architectures scale
        or bound logits.

        Args:
            rows: that a pass has to have.
        """
        layer = self._layer
        if layer is None or any(p.requires_grad for p in layer.parameters()):
            return False
        if self._is_last is None:
            device, training = layer.weight.device, self._model.training
            said = torch.linspace(-1e3, 1e3, layer.out_features, device=device).expand(rows, 1, -1)
            one = torch.zeros(rows, 1, dtype=torch.long, device=device)
            self._model.eval()  # dropout would draw numbers, and once more where a run is taken up
            try:
                with torch.no_grad(), self._saying(lambda _: said):
                    logits = self._model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=False).logits
            finally:
                self._model.train(training)
            self._is_last = torch.equal(logits, said)
        return self._is_last

    def left_out(self) -> AbstractContextManager[None]:
        """Let the model give the states that enter its head as if they were logits, in a `with` block."""
        return self._saying(lambda states: states)

    def _saying(self, forward: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        return replaced([(cast("nn.Linear", self._layer), forward)])

    def log_p_of(self, said: Tensor, tokens: Tensor, mask: Tensor, *, states: bool) -> Tensor:
        """Return the log-likelihood of each token that a mask keeps, in nats, shape R T, 0 elsewhere.

        Args:
            said: what a model says of each, shape R T D or R T V.
            tokens: ids, shape R T.
            mask: of the tokens, shape R T.
            states: whether that is the states that enter the head; else logits.
        """
        kept = mask.bool()
        if states:
            found = log_p(cast("nn.Linear", self._layer), said[kept], tokens[kept])
        else:
            wide = torch.promote_types(said.dtype, torch.float32)
            found = -nn.functional.cross_entropy(said[kept].to(wide), tokens[kept], reduction="none")
        return found.new_zeros(kept.shape).masked_scatter(kept, found)


def log_p(layer: nn.Linear, states: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-likelihood of a token in each state, in nats, float32 or the states' own if that is wider.

    Differentiable in the states, once.

    Args:
        layer: the head; its weights are taken as frozen.
        states: what enters it, shape R D.
        tokens: ids, shape R.
    """
    return cast("Tensor", _LogP.apply(states, layer.weight, layer.bias, tokens))  # type: ignore[no-untyped-call]


class _LogP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Tensor:
        block = CPU_BLOCK if states.device.type == "cpu" else DEVICE_BLOCK
        learns = ctx.needs_input_grad[0]
        log_p, slopes = [], []
        for own, said in zip(torch.split(states, ROWS), torch.split(tokens, ROWS), strict=True):
            found, mean = _over_vocabulary(own, weight, bias, block, mean=learns)
            wanted = weight[said].to(found.dtype)
            logit = (own.to(found.dtype) * wanted).sum(-1)
            log_p.append((logit if bias is None else logit + bias[said]) - found)
            if mean is not None:
                slopes.append(wanted - mean)
        if learns:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(log_p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient[:, None] * slope, None, None, None


def _over_vocabulary(
    states: Tensor, weight: Tensor, bias: Tensor | None, block: int, *, mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Return log Z of each state, shape R, and, where asked, the mean of the weights under the softmax, shape R D."""
    wide = torch.promote_types(states.dtype, torch.float32)
    top = torch.full((len(states), 1), -torch.inf, dtype=wide, device=states.device)
    total = torch.zeros_like(top)
    summed = torch.zeros(states.shape, dtype=wide, device=states.device) if mean else None
    for first in range(0, len(weight), block):
        part = weight[first : first + block]
        logits = nn.functional.linear(states, part, None if bias is None else bias[first : first + block]).to(wide)
        before, top = top, torch.maximum(top, logits.amax(-1, keepdim=True))
        shrunk = (before - top).exp_()
        logits.sub_(top).exp_()
        total.mul_(shrunk).add_(logits.sum(-1, keepdim=True))
        if summed is not None:
            summed.mul_(shrunk).add_(logits.to(part.dtype) @ part)
    return (top + total.log())[:, 0], None if summed is None else summed / total
