"""The reward model: a body, and a linear head whose inputs (the features) are also its gradient.

A sequence classifier of transformers and an encoder with a head of our own are the same thing here: the features are
what enters the last linear layer, the reward is what leaves it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foresighted.errors import ModelError, one_line
from foresighted.influence import bradley_terry
from foresighted.models.memory import at_once
from foresighted.models.reader import OF_THE_PROMPT, Column, Reader
from foresighted.texts import text_of
from foresighted.types import Text

Read = Callable[[dict[str, Tensor]], Tensor]
Each = Callable[[Read, Iterable[dict[str, Tensor]]], Iterable[Tensor]]
TOKENS = 768
"""About how many tokens a CPU reads at a time: fewer leave it idle, more leave its caches (docs/speed.md#reading)."""


def mean_pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean state over real tokens, scaled to unit length: shape R T D and R T to R D, float32."""
    weight = mask[..., None].float().to(states.device)
    pooled = (states.float() * weight).sum(1) / weight.sum(1).clamp(min=1)
    return nn.functional.normalize(pooled, dim=-1)


class RewardNetwork(nn.Module):
    """What a reward model computes, as one module: encoded responses to rewards.

    Args:
        body: the encoder, or the whole sequence classifier.
        head: the head on an encoder's pooled states; None where the body has its own.
        feature_scale: length of the pooled states.

    Prompts that stand apart from their responses among the inputs are compared with them: the head then reads
    [e(y), sqrt(D) e(x) * e(y)], e the pooled states, D their size. The factor gives both halves one size: the product's
    mean square is 1 / D^2 where the entries of x and y are independent, e(y)'s 1 / D. A half that is small has no part
    in <g, g'>, and the penalty would not see what a judge of relevance is gamed in.
    """

    def __init__(self, body: Any, head: nn.Linear | None, feature_scale: float) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self._feature_scale = feature_scale

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the reward of each row, shape R."""
        if self.head is None:
            return self.logits(**inputs)[:, 0]
        return self.head(self.pooled(**inputs))[:, 0]  # type: ignore[no-any-return]

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return what a sequence classifier says of each row, shape R 1.

        Raises:
            ModelError: texts of which its code makes nothing: BART's needs as many end tokens in each row.
        """
        try:
            said: Tensor = self.body(**inputs).logits
        except (ValueError, IndexError) as error:
            raise ModelError(
                f"reward_model: {type(self.body).__name__} cannot read these texts ({one_line(error)[:200]}); does its"
                " tokenizer write the tokens that it needs, or do the texts hold special tokens?"
            ) from None
        return said

    def pooled(self, **inputs: Tensor) -> Tensor:
        """Return an encoder's mean-pooled states, scaled: the inputs of its head, shape R D."""
        asked = {name.removeprefix(OF_THE_PROMPT): t for name, t in inputs.items() if name.startswith(OF_THE_PROMPT)}
        said = {name: t for name, t in inputs.items() if not name.startswith(OF_THE_PROMPT)}
        return self.compared(*map(self.states, filter(None, (said, asked))))

    def compared(self, said: Tensor, asked: Tensor | None = None) -> Tensor:
        """Return the inputs of the head from the states of responses and, where they stand apart, of prompts."""
        if asked is not None:
            said = torch.cat([said, said.shape[-1] ** 0.5 * asked * said], -1)
        return said * self._feature_scale

    def states(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return an encoder's mean-pooled states of encoded texts, of unit length, shape R D."""
        return mean_pooled(self.body(**inputs).last_hidden_state, inputs["attention_mask"])


class RewardModel:
    """Rewards and features of (prompt, response) rows.

    Args:
        body: the encoder, or the whole sequence classifier.
        head: the last linear layer, D to 1.
        reader: how rows are read.
        pooled: the body is an encoder: features are its mean-pooled states, scaled to length `feature_scale`.
        train: what is trained: head, lora or all.
        feature_scale: length of an encoder's pooled states.
    """

    def __init__(
        self, body: Any, head: nn.Linear, reader: Reader, *, pooled: bool, train: str, feature_scale: float = 1.0
    ) -> None:
        self.body = body
        self.head = head
        self._read_at = head
        self.reader = reader
        self.tokenizer = reader.tokenizer
        self.network = RewardNetwork(body, head if pooled else None, feature_scale)
        self.head_only = train == "head"
        """Only the head is trained: features of a text never change."""
        self.each: Each = map
        """Reads an encoder's batches, one after the other or side by side."""

    @property
    def device(self) -> torch.device:
        """Where the head is, and what enters the network goes."""
        return self.head.weight.device

    def with_own_head(self) -> RewardModel:
        """Return a reward model with a head of its own, as this one's is now, and the same body, which nobody trains.

        Only its features and what its head makes of them are its own: the network computes with this one's head.
        """
        other = copy.copy(self)
        other.head, other.reader = copy.deepcopy(self.head), copy.copy(self.reader)
        return other

    def trainable(self) -> dict[str, Tensor]:
        """Return the parameters that training changes, by name."""
        head: dict[str, Tensor] = {f"head.{name}": p for name, p in self.head.named_parameters()}
        if self.head_only:
            return head
        own = {id(p) for p in head.values()}
        body = {f"body.{name}": p for name, p in self.body.named_parameters() if p.requires_grad and id(p) not in own}
        return head | body

    def encode(self, prompts: Sequence[Text], responses: Sequence[Text]) -> dict[str, Tensor]:
        """Return (prompt, response) rows as the network's inputs, padded on the right, on its device."""
        return self._placed(self.reader(prompts, responses))

    def _placed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def features_with_gradient(self, prompts: Sequence[Text], responses: Sequence[Text]) -> Tensor:
        """Return the inputs of the head, shape R D, differentiable where the body is trained.

        A sequence classifier is run with a head that hands on what enters it: where a decoder's head reads every
        position, the classifier itself then picks the one whose reward it would have returned.
        """
        return self._features_of(self.encode(prompts, responses))

    def _features_of(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.network.head is not None:
            return self.network.pooled(**inputs)
        hook = self._read_at.register_forward_hook(lambda _module, args, _output: args[0])
        try:
            features = self.network.logits(**inputs)
        finally:
            hook.remove()
        return features.float()

    @torch.no_grad()
    def features(self, prompts: Sequence[Text], responses: Sequence[Text], *, chunk: int | None = None) -> Tensor:
        """Return the inputs of the head, shape R D, without gradients; at most `chunk` rows at a time (None: as suits
        the device).

        What an encoder reads by itself, a prompt or a response, it reads once, however many rows hold it.
        """
        chunk = chunk or at_once(self.device, 128)
        if self.network.head is not None and (columns := self.reader.columns(prompts, responses)):
            return self.network.compared(*(self._once(column, chunk) for column in columns))
        return self._by_length(self.encode(prompts, responses), self._features_of, chunk)

    def _once(self, column: Column, chunk: int) -> Tensor:
        """Return the states of a column of texts, shape R D, each text read once."""
        texts = [text_of(text) for text in column.texts]
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        states = self._by_length(self._placed(column.read(list(places))), self.network.states, chunk, self.each)
        return states[[places[text] for text in texts]]

    def _by_length(self, inputs: dict[str, Tensor], read: Read, chunk: int, each: Each = map) -> Tensor:
        """Return what is read of encoded rows, shape R D: rows of about one length together, the longest first."""
        count, width = inputs["input_ids"].shape
        mask = inputs.get("attention_mask")
        lengths = [width] * count if mask is None else mask.sum(1).tolist()
        order = sorted(range(count), key=lambda row: -lengths[row])
        batches: list[dict[str, Tensor]] = []
        start = 0
        while start < count:
            width = lengths[order[start]]
            size = min(chunk, max(1, TOKENS // width)) if self.device.type == "cpu" else chunk
            rows = order[start : start + size]
            batches.append({name: tensor[rows, :width] for name, tensor in inputs.items()})
            start += size
        parts = list(each(read, batches))
        places = {row: place for place, row in enumerate(order)}
        return torch.cat(parts)[[places[row] for row in range(count)]]

    def rewards(self, features: Tensor) -> Tensor:
        """Return the reward of each row of features, shape R."""
        weight, bias = self.head.weight.float(), self.head.bias
        return nn.functional.linear(features, weight, None if bias is None else bias.float())[..., 0]

    def loss(self, prompts: Sequence[Text], first: Sequence[Text], second: Sequence[Text], labels: Tensor) -> Tensor:
        """Return the Bradley-Terry loss of the first responses over the second ones, mean over rows.

        Args:
            prompts: one a row.
            first: the response that `labels` is the preference of.
            second: the other response.
            labels: p in [0, 1], shape R: soft, or hard bits.

        Returns:
            Scalar.
        """
        every = self.features_with_gradient([*prompts, *prompts], [*first, *second])
        return self.loss_of_features(every[: len(prompts)], every[len(prompts) :], labels)

    def loss_of_features(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """Return the same of head inputs of both sides, each of shape R D."""
        return bradley_terry(self.rewards(first) - self.rewards(second), labels)
