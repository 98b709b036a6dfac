"""What lies below the first layer that learns: the same for the policy, its frozen reference and every pass of a round.

While a policy samples, the states that enter its first adapted block are kept; later passes over the same words start
from them, and the blocks below hand them on instead of computing them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache

from foresighted.models.forwards import replaced
from foresighted.models.pretrained import find_blocks


class Trunk:
    """The blocks of a causal language model below the first one that training changes.

    Args:
        blocks: all blocks, in order; each takes hidden states first and returns hidden states, alone or in a tuple.
        first: place of the first that training changes, at least 1.
    """

    def __init__(self, blocks: nn.ModuleList, first: int) -> None:
        self._blocks = blocks
        self.first = first
        self._in_tuple = False
        """Whether blocks return a tuple; seen when states are recorded."""

    @property
    def noisy(self) -> bool:
        """Whether a block below draws dropout while the model is in training mode."""
        return any(map(draws_dropout, self._blocks[: self.first]))

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Collect, call by call, the states that enter the first block that learns, each of shape rows, tokens, D."""
        seen: list[Tensor] = []

        def enters(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = args[0] if args else kwargs.get("hidden_states")
            if isinstance(states, Tensor) and states.ndim == 3:
                seen.append(states.detach())

        def leaves(_module: nn.Module, _args: Any, output: Any) -> None:
            self._in_tuple = isinstance(output, tuple)

        hooks = [
            self._blocks[self.first].register_forward_pre_hook(enters, with_kwargs=True),
            self._blocks[self.first - 1].register_forward_hook(leaves),
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def given(self, states: Tensor) -> Iterator[None]:
        """Let the blocks below hand on `states`, of shape rows, tokens, D, whatever they are given."""
        below = self._blocks[: self.first]
        with replaced((block, self._handing_on(states, place)) for place, block in enumerate(below)):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let the blocks above hand on what enters them: a pass computes the trunk, and its layers of the cache."""

        def forward(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
            return (hidden_states,) if self._in_tuple else hidden_states

        with replaced((block, forward) for block in self._blocks[self.first :]):
            yield

    def _handing_on(self, states: Tensor, place: int) -> Any:
        # A cache counts its tokens by its lowest layer, so each layer that is passed over keeps one number a token.
        blank = states.new_zeros(len(states), 1, states.shape[1], 1)

        def forward(*args: Any, **kwargs: Any) -> Any:
            cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
            if cache is not None:
                cache.update(blank, blank, place)
            return (states,) if self._in_tuple else states

        return forward


def draws_dropout(model: nn.Module) -> bool:
    """Return whether a module, or one within it, draws dropout while it is in training mode."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0) or (getattr(module, "attention_dropout", 0.0) or 0.0) > 0
        for module in model.modules()
    )


def find_trunk(model: nn.Module) -> Trunk | None:
    """Return the trunk of a causal language model.

    None where nothing lies below what learns, where nothing learns, where something outside its blocks does, or where
    its blocks are not a list of one kind, as long as its configuration says.
    """
    blocks = find_blocks(model)
    if blocks is None or hasattr(model, "hf_device_map"):  # a library that has replaced how modules are called
        return None
    within = [{id(p) for p in block.parameters() if p.requires_grad} for block in blocks]
    learns = {id(p) for p in model.parameters() if p.requires_grad}
    first = next((place for place, own in enumerate(within) if own), 0)
    if first == 0 or learns - set().union(*within):
        return None
    return Trunk(blocks, first)


@dataclass
class _Response:
    """A response that was sampled last."""

    tokens: list[int]
    states: Tensor
    """Those that foretell its tokens (the prompt's last token first), shape T, D."""
    frozen: Tensor | None = None
    """Log-likelihood of each token under the frozen policy, shape T, where a pass has read it."""


class _Heard(NamedTuple):
    """A prompt, and the responses to it that were sampled last."""

    states: Tensor
    """Of all its tokens but the last, shape L - 1, D."""
    responses: list[_Response]


class Remembered(NamedTuple):
    """The states of some rows, as the passes over prompts and responses need them."""

    prompts: Tensor
    """Shape U, L - 1, D, padded on the left."""
    responses: Tensor
    """Shape R, T, D, padded on the right."""


class Memory:
    """The states of what was sampled last, found again by the tokens of prompt and response."""

    def __init__(self) -> None:
        self._heard: dict[tuple[int, ...], _Heard] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._heard = {}

    def keep(self, prompts: Sequence[Sequence[int]], seen: Sequence[Tensor], responses: Sequence[list[int]]) -> None:
        """Keep what was recorded while B prompts were read once and n responses to each were sampled.

        Args:
            prompts: token ids of each prompt.
            seen: states of the prompts but for their last token (B, L - 1, D, padded on the left), then of each token
                that was read to sample the next (B n, 1, D).
            responses: token ids of each, B n.
        """
        self.clear()
        states = torch.cat(list(seen[1:]), 1)
        count = len(responses) // len(prompts)
        for place, ids in enumerate(prompts):
            own = seen[0][place, seen[0].shape[1] - (len(ids) - 1) :]
            heard = self._heard.setdefault(tuple(ids), _Heard(own, []))
            for row in range(place * count, (place + 1) * count):
                heard.responses.append(_Response(responses[row], states[row]))

    def holds(self, prompt: Sequence[int], response: Sequence[int]) -> bool:
        """Return whether a response is (the beginning of) one that was sampled last."""
        return self._of(prompt, response) is not None

    def _of(self, prompt: Sequence[int], response: Sequence[int]) -> _Response | None:
        heard, wanted = self._heard.get(tuple(prompt)), list(response)
        own = () if heard is None else heard.responses
        return next((one for one in own if one.tokens[: len(wanted)] == wanted), None)

    def keep_frozen(self, prompt: Sequence[int], response: Sequence[int], log_p: Tensor) -> None:
        """Keep what the frozen policy says of each token of a whole response that is held, shape T."""
        own = self._of(prompt, response)
        if own is not None and len(own.tokens) == len(response):
            own.frozen = log_p[: len(response)]

    def frozen(self, prompt: Sequence[int], response: Sequence[int]) -> Tensor | None:
        """Return what the frozen policy said of a response, summed over its tokens, if a pass has read it."""
        own = self._of(prompt, response)
        return None if own is None or own.frozen is None else own.frozen[: len(response)].sum()

    def find(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], responses: Sequence[Sequence[int]], width: int
    ) -> Remembered | None:
        """Return the states of some responses, or None where one of them is not held.

        Args:
            prompts: token ids of each prompt, U, none without a response.
            rows: of each response, the place of its prompt.
            responses: token ids of each, R.
            width: T, to which they are padded.
        """
        found = []
        for row, response in zip(rows, responses, strict=True):
            own = self._of(prompts[row], response)
            if own is None:
                return None
            found.append(own.states[: len(response)])
        before = [self._heard[tuple(ids)].states for ids in prompts]
        return Remembered(_padded(before, max(map(len, before)), left=True), _padded(found, width))


def _padded(states: Sequence[Tensor], width: int, *, left: bool = False) -> Tensor:
    made = states[0].new_zeros(len(states), width, states[0].shape[-1])
    for row, own in zip(made, states, strict=True):
        row[slice(width - len(own), None) if left else slice(len(own))] = own
    return made
