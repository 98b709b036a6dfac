"""An ensemble as follower: K heads on one body, of other first weights, which learn from other pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from foresighted.alignment.follower import Follower, Lesson
from foresighted.alignment.start import with_features
from foresighted.influence import bradley_terry
from foresighted.labels.pair import Pair
from foresighted.models import noise
from foresighted.models.learner import Learner, reward_model_learner
from foresighted.models.reward_model import RewardModel
from foresighted.settings import TrainConfig


def first_weights(head: nn.Linear, count: int, seed: int) -> Tensor:
    """Return the first weights of K heads, shape K D: those of a head, each with a draw of its own added.

    A draw is what a fresh linear layer begins with, uniform within 1 / sqrt(D), less the mean of all K: together they
    begin as the head.
    """
    bound = head.in_features**-0.5
    generators = [torch.Generator().manual_seed(noise.key(seed, "head", k) % 2**63) for k in range(count)]
    drawn = torch.stack([torch.empty(head.in_features).uniform_(-bound, bound, generator=g) for g in generators])
    return head.weight.detach().float() + (drawn - drawn.mean(0)).to(head.weight.device)


def draws(pairs: Sequence[Pair], count: int, seed: int) -> Tensor:
    """Return how often each of K heads learns from each pair, shape pairs K: twice or not at all, by a fair coin.

    A coin is a function of seed, head and pair. Mean and variance of a count are the bootstrap's, 1.

    References:
        Owen and Eckles, Bootstrapping data arrays of arbitrary order (2012): double or nothing.
    """
    coins = [noise.key(seed, "bootstrap", pair.id) for pair in pairs]
    return torch.tensor([[2.0 * (coin >> k & 1) for k in range(count)] for coin in coins])


@dataclass(frozen=True)
class _OfHeads(Lesson):
    """Pairs as K heads learn from them; a loss is the sum over heads, since a step of each is its own."""

    apart: Tensor  # pairs D: the head inputs of the first response less those of the second
    heads: Tensor  # K D
    counts: Tensor  # pairs K

    def loss(self, index: list[int]) -> Tensor:
        """Return the sum over heads of the mean loss of some pairs, each counted as often as the head drew it."""
        margin = nn.functional.linear(self.apart[index], self.heads)
        each = bradley_terry(margin, self.label[index][:, None].expand_as(margin), reduction="none")
        return (each * self.counts[index]).mean(0).sum()

    @torch.no_grad()
    def now(self) -> float:
        """Return the sum over heads of the mean loss of all of them, each counted once."""
        return float(replace(self, counts=torch.ones_like(self.counts)).loss(list(range(len(self.pairs)))))


class Ensemble(Follower):
    """K heads that learn side by side. The reward model's own head is their mean, so that its reward is their mean.

    Args:
        reward_model: of which a head alone is trained.
        config: how many heads, how they learn, and the seed of their draws.

    References:
        Ensembles of reward models against overoptimisation: arXiv 2310.02743.
    """

    def __init__(self, reward_model: RewardModel, config: TrainConfig) -> None:
        self._heads = first_weights(reward_model.head, config.ensemble, config.seed).requires_grad_()
        self._config = config
        super().__init__(reward_model, self._fresh_learner(), config=config)

    def _fresh_learner(self) -> Learner:
        return reward_model_learner({"heads.weight": self._heads}, self._config)

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Count and remember the initial pairs, and fit the heads to them, each from its own first weights."""
        super().begin(pairs)
        if pairs:
            known = all(pair.features is not None for pair in pairs)
            first = pairs if known else with_features(list(pairs), self.reward_model)
            self._learn(self._fit_to(first), self._config.initial_steps)
            self.learner = self._fresh_learner()  # as one head, whose first fit has an optimiser of its own
        self.settle()

    def learn(self, pairs: Sequence[Pair]) -> float:
        """Take the steps of an update on some pairs, uncounted; return the mean loss before them, over heads."""
        loss = super().learn(pairs) / len(self._heads)
        self.settle()
        return loss

    @torch.no_grad()
    def settle(self) -> None:
        """Make the reward model's head the mean of the heads."""
        self.reward_model.head.weight.copy_(self._heads.mean(0, keepdim=True))

    @torch.no_grad()
    def doubt(self, features: Tensor | None) -> Tensor | None:
        """Return the standard deviation of the heads' rewards of head inputs, shape B R from B R D."""
        return None if features is None else nn.functional.linear(features, self._heads).std(-1, correction=0)

    @torch.no_grad()
    def dispute(self, features: Tensor | None, size: int) -> Tensor | None:
        """Return the standard deviation of the heads' margins over the first reference, shape B `size`."""
        if features is None:
            return None
        rewards = nn.functional.linear(features, self._heads)
        return (rewards[:, :size] - rewards[:, size : size + 1]).std(-1, correction=0)

    def _fit_to(self, pairs: Sequence[Pair]) -> Lesson:
        fit = super()._fit_to(pairs)
        if fit.known is None:
            raise RuntimeError("heads learn from pairs whose features are known")
        apart = fit.known[0] - fit.known[1]
        counts = draws(pairs, len(self._heads), self._config.seed).to(apart)
        return _OfHeads(fit.model, fit.pairs, fit.label, fit.known, apart, self._heads, counts)
