"""The reward model: a body, and a linear head whose inputs (the features) are also its gradient.

A sequence classifier of transformers and an encoder with a head of our own are the same thing here: the features are
what enters the last linear layer, the reward is what leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LONGEST = 512


def mean_pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean state over real tokens, scaled to unit length: shape rows T D and rows T to rows D, float32."""
    weight = mask[..., None].float().to(states.device)
    pooled = (states.float() * weight).sum(1) / weight.sum(1).clamp(min=1)
    return nn.functional.normalize(pooled, dim=-1)


class RewardNetwork(nn.Module):
    """What a reward model computes, as one module: encoded responses to rewards.

    Args:
        body: the encoder, or the whole sequence classifier.
        head: the head on an encoder's pooled states; None where the body has its own.
        feature_scale: length of the pooled states.
    """

    def __init__(self, body: Any, head: nn.Linear | None, feature_scale: float) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self._feature_scale = feature_scale

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the reward of each row, shape rows."""
        if self.head is None:
            logits: Tensor = self.body(**inputs).logits
            return logits[:, 0]
        return self.head(self.pooled(**inputs))[:, 0]  # type: ignore[no-any-return]

    def pooled(self, **inputs: Tensor) -> Tensor:
        """Return an encoder's mean-pooled states, scaled: the inputs of its head, shape rows D."""
        return mean_pooled(self.body(**inputs).last_hidden_state, inputs["attention_mask"]) * self._feature_scale


class RewardModel:
    """Rewards and features of (prompt, response) rows.

    Args:
        body: the encoder, or the whole sequence classifier.
        head: the last linear layer, D to 1.
        tokenizer: its tokenizer, with a padding token.
        pooled: the body is an encoder: features are its mean-pooled states, scaled to length `feature_scale`.
        train: what is trained: head, lora or all.
        reads: pair (prompt and response) or response.
        feature_scale: length of an encoder's pooled states.
    """

    def __init__(
        self,
        body: Any,
        head: nn.Linear,
        tokenizer: Any,
        *,
        pooled: bool,
        train: str,
        reads: str = "pair",
        feature_scale: float = 1.0,
    ) -> None:
        self.body = body
        self.head = head
        self.tokenizer = tokenizer
        self.network = RewardNetwork(body, head if pooled else None, feature_scale)
        self.head_only = train == "head"
        """Only the head is trained: features of a text never change."""
        self._reads = reads
        self._pooled = pooled

    def trainable(self) -> dict[str, Tensor]:
        """Return the parameters that training changes, by name."""
        head = {f"head.{name}": p for name, p in self.head.named_parameters()}
        own = {id(p) for p in head.values()}
        body = {f"body.{name}": p for name, p in self.body.named_parameters() if p.requires_grad and id(p) not in own}
        return head | body

    def encode(self, prompts: Sequence[Any], responses: Sequence[Any]) -> dict[str, Tensor]:
        """Return (prompt, response) rows as the network's inputs, on its device."""
        tokenizer = self.tokenizer
        both: tuple[list[str], ...]
        if self._reads == "response":
            both = (list(responses),)
        elif tokenizer.chat_template:
            both = ([self._chat(p, r) for p, r in zip(prompts, responses, strict=True)],)
        else:
            both = (list(prompts), list(responses))
        batch = tokenizer(
            *both,
            add_special_tokens=len(both) == 2 or both[0] == list(responses),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=min(tokenizer.model_max_length, _LONGEST),
            return_tensors="pt",
        )
        return {name: tensor.to(self.head.weight.device) for name, tensor in batch.items()}

    def _chat(self, prompt: str, response: str) -> str:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False)
        return text

    def features_with_gradient(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Tensor:
        """Return the inputs of the head, shape rows D, differentiable where the body is trained."""
        batch = self.encode(prompts, responses)
        if self._pooled:
            return self.network.pooled(**batch)
        caught: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
        try:
            self.body(**batch)
        finally:
            hook.remove()
        features = caught[-1].float()
        if features.ndim == 3:  # decoder: the head reads every position, the reward is the last real token's
            place = torch.arange(features.shape[1], device=features.device)
            last = (batch["attention_mask"] * place).argmax(-1)
            features = features[torch.arange(len(last), device=features.device), last]
        return features

    @torch.no_grad()
    def features(self, prompts: Sequence[Any], responses: Sequence[Any], *, chunk: int = 128) -> Tensor:
        """Return the inputs of the head, shape rows D, without gradients; `chunk` rows at a time."""
        starts = range(0, len(responses), chunk)
        parts = [self.features_with_gradient(prompts[s : s + chunk], responses[s : s + chunk]) for s in starts]
        return torch.cat(parts)

    def rewards(self, features: Tensor) -> Tensor:
        """Return the reward of each row of features, shape rows."""
        weight, bias = self.head.weight.float(), self.head.bias
        return nn.functional.linear(features, weight, None if bias is None else bias.float())[..., 0]

    def loss(
        self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any], labels: Tensor,
        features: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the Bradley-Terry loss -p log s(m) - (1 - p) log s(-m), m = r(first) - r(second), mean over rows.

        Args:
            prompts: one a row.
            first: the response that `labels` is the preference of.
            second: the other response.
            labels: p in [0, 1], shape rows: soft, or hard bits.
            features: head inputs of both sides where they are known already (the body is frozen).

        Returns:
            Scalar.
        """
        if features is None or not self.head_only:
            every = self.features_with_gradient([*prompts, *prompts], [*first, *second])
            features = (every[: len(prompts)], every[len(prompts) :])
        margin = self.rewards(features[0]) - self.rewards(features[1])
        return nn.functional.binary_cross_entropy_with_logits(margin, labels)
