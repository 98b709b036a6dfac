"""Replicas of a reward model, which read for the owner: without a state but the weights that the last call brought."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foresighted.alignment.foresight import Scores
from foresighted.errors import ConfigError, ForesightedError, RunError, one_line
from foresighted.integrations.owner.config import OwnerConfig
from foresighted.integrations.owner.scoring import Scorer, placed
from foresighted.integrations.ray.client import ray
from foresighted.integrations.ray.config import Placement
from foresighted.labels.pair import Groups
from foresighted.models.reward_model import RewardModel
from foresighted.texts import text_of
from foresighted.types import Text


@dataclass(frozen=True)
class Weights:
    """What of a reward model its owner trains, as it is for one version."""

    name: str
    """No other weights have it, whoever owned them."""
    at: tuple[Any, ...] = field(repr=False)
    """The tensors by name; in a tuple, so that Ray hands over where they are, and not themselves, with every call."""


class Replica:
    """Reads rows with a copy of the reward model; the first call with other weights fetches them.

    Args:
        config: the owner's.
    """

    def __init__(self, config: OwnerConfig) -> None:
        self._scorer = Scorer(placed(config), config)
        self._has = ""

    def read(self, groups: Sequence[Groups], weights: Weights) -> list[Tensor] | list[Scores]:
        """Return the head's inputs of each group's responses, or its scores where the scope is more than the head."""
        self._take(weights)
        features = self._scorer.features(groups)
        if features is not None:
            return [one.cpu() for one in features]
        return [_on(self._scorer.read(one, None), "cpu") for one in groups]

    def rewards(self, prompts: Sequence[Text], responses: Sequence[Text], weights: Weights) -> list[float]:
        """Return the bare reward of each row."""
        self._take(weights)
        return self._scorer.rewards(prompts, responses)

    @torch.no_grad()
    def _take(self, weights: Weights) -> None:
        if weights.name == self._has:
            return
        brought: dict[str, Tensor] = ray().get(weights.at[0])
        for name, parameter in self._scorer.follower.learner.parameters.items():
            parameter.copy_(brought[name])
        self._has = weights.name


class SpreadScorer(Scorer):
    """A scorer that has replicas read for it, and itself only does what is left: penalties, pairs, events.

    Args:
        model: the owner's own.
        config: the owner's.
        replicas: actors of `Replica`.

    Raises:
        ConfigError: a form that needs more of a model than rewards and products, beyond the head.
    """

    def __init__(self, model: RewardModel, config: OwnerConfig, replicas: Sequence[Any]) -> None:
        super().__init__(model, config)
        form = config.form
        if config.scope != "head" and form.needs not in ("nothing", "products"):
            raise ConfigError(
                f"replicas: got {len(replicas)}; steering {form.name} in scope {config.scope} needs the optimizer's"
                " state, which only the owner has; use scope head, or no replicas"
            )
        self._replicas = replicas
        self._stamp: tuple[int, ...] = ()
        self._weights = Weights("", ())
        self._scores: dict[_Key, Scores] = {}

    def features(self, groups: Sequence[Groups]) -> list[Tensor] | None:
        """Return the head's inputs of each group's responses, as the replicas read them; None where more is needed,
        which they have read by then."""
        if self.config.scope == "head":
            return [one.to(self.model.device) for one in self._spread(groups)] if groups else None
        several = [one for one in groups if len(one.rows()[1]) > 1]  # of one response there is only a reward
        found = self._spread(several)
        self._scores = {_key(one): _on(own, self.model.device) for one, own in zip(several, found, strict=True)}
        return None

    def rewards(
        self, prompts: Sequence[Text], responses: Sequence[Text], features: Sequence[Tensor] | None = None
    ) -> list[float]:
        """Return the bare reward of each row, read by a replica where it was not read yet."""
        if features is not None or not prompts:
            return super().rewards(prompts, responses, features)
        weights, step = self._current(), -(-len(prompts) // len(self._replicas))
        asked = [
            replica.rewards.remote(prompts[begin : begin + step], responses[begin : begin + step], weights)
            for replica, begin in zip(self._replicas, range(0, len(prompts), step), strict=False)
        ]
        return [reward for answer in asked for reward in _got(answer)]

    def read(self, groups: Groups, features: Tensor | None) -> Scores:
        """Return a group's scores, read by a replica."""
        found = self._scores.get(_key(groups)) if features is None else None
        return super().read(groups, features) if found is None else found

    def _spread(self, groups: Sequence[Groups]) -> list[Any]:
        """Return what the replicas read of groups, shared out by length."""
        rows = [len(one.rows()[1]) for one in groups]
        loads = [0] * len(self._replicas)
        shares: list[list[int]] = [[] for _ in self._replicas]
        for place in sorted(range(len(groups)), key=lambda place: -rows[place]):
            least = loads.index(min(loads))
            shares[least].append(place)
            loads[least] += rows[place]
        weights = self._current()
        asked = [
            (share, replica.read.remote([groups[place] for place in share], weights))
            for share, replica in zip(shares, self._replicas, strict=True)
            if share
        ]
        found: list[Any] = [None] * len(rows)
        for share, answer in asked:
            for place, one in zip(share, _got(answer), strict=True):
                found[place] = one
        return found

    def _current(self) -> Weights:
        """Return the weights of now, put where replicas find them once a version."""
        parameters = self.follower.learner.parameters
        stamp = tuple(parameter._version for parameter in parameters.values())
        if stamp != self._stamp:
            tensors = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
            self._weights = Weights(uuid.uuid4().hex, (ray().put(tensors),))
            self._stamp = stamp
        return self._weights


def spread(config: OwnerConfig, placement: Placement) -> Callable[[RewardModel, OwnerConfig], Scorer]:
    """Return what makes an owner's scorer: over replicas, actors that end with the owner, where there are any."""
    if not placement.replicas:
        return Scorer
    options = {"num_cpus": placement.replica_cpus, "num_gpus": placement.replica_gpus}
    kind = ray().remote(Replica).options(**options, max_restarts=-1, max_task_retries=-1)

    def scorer(model: RewardModel, own: OwnerConfig) -> Scorer:
        return SpreadScorer(model, own, [kind.remote(config) for _ in range(placement.replicas)])

    return scorer


_Key = tuple[str, ...]


def _key(groups: Groups) -> _Key:
    """Return what tells a group's texts from those of every other."""
    prompts, texts = groups.rows()
    return (*map(text_of, prompts[:1]), *map(text_of, texts))


def _got(answer: Any) -> Any:
    """Return what a replica said.

    Raises:
        ForesightedError: what it raised.
    """
    known = ray().exceptions
    try:
        return ray().get(answer)
    except known.RayTaskError as error:
        if isinstance(error.cause, ForesightedError):
            raise error.cause from None
        raise RunError(f"replica: {one_line(error.cause)[:300]}") from None
    except known.RayError as error:
        raise RunError(f"replica: {str(error).strip().splitlines()[-1][:300]}") from None


def _on(scores: Scores, device: Any) -> Scores:
    """Return scores whose tensors are on a device."""
    products = scores.products._replace(gram=scores.products.gram.to(device), spread=scores.products.spread.to(device))
    references = None if scores.references is None else scores.references.to(device)
    reward, other = scores.reward.to(device), scores.reference_reward.to(device)
    return Scores(reward, other, products, None, None, references)
