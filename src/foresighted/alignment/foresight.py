"""From a round's responses to rewards and steering penalties: which products a form needs, and how they are got."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foresighted import influence, steering
from foresighted.influence.capture import frozen_except
from foresighted.influence.curvature import adamw_metric, solved_products
from foresighted.influence.head import leave_one_out
from foresighted.influence.unrolled import adamw_state, unrolled_penalties
from foresighted.models.reward_model import RewardModel
from foresighted.settings import SteeringConfig
from foresighted.steering import Kernels, Products, Reference, compared, pairwise

_log = logging.getLogger(__name__)


class Scores(NamedTuple):
    """What the reward model says of a round's responses. The rows of a prompt stand together: its N candidates, then
    its reference response where there is one."""

    reward: Tensor  # B N
    reference_reward: Tensor  # B 1 (a reference response), or B N (mean of the other candidates)
    products: Products  # B N each: S and G in the run's scope and influence
    kernels: Kernels | None  # where the form looks at the whole batch
    features: Tensor | None  # B (N + 1) D, or B N D, where they were computed
    inputs: dict[str, Tensor] | None  # the reward model's own, where the form differentiates it again

    @property
    def margin(self) -> Tensor:
        """r(y) - r(y'), shape B N."""
        return self.reward - self.reference_reward


class Penalty(NamedTuple):
    """The steering penalty of a round's candidates."""

    value: Tensor
    """Shape B N, in units of reward."""
    gamma: float
    """In the form's own units."""
    share: float | None
    """The same gamma as a share of the reward's spread; None where rewards or products do not differ."""


class Foresight:
    """Scores responses and prices their influence on the reward model.

    Args:
        config: form, scope, influence, gamma and what they need.
        reward_model: read, never changed.
        optimizer: the reward model's, for the forms that follow its real steps.
        reference: what a candidate is compared with: a response of its prompt, or the prompt's other candidates.
    """

    def __init__(
        self,
        config: SteeringConfig,
        reward_model: RewardModel,
        optimizer: torch.optim.Optimizer,
        reference: Reference = "response",
    ) -> None:
        self.config = config
        self.reference: Reference = reference
        self._reward_model = reward_model
        self._optimizer = optimizer
        self._products: influence.GradientProducts | None = None
        if not self.from_features:
            self._products = influence.GradientProducts(
                reward_model.network, scope=config.scope, forward=self._rewards, chunk=config.influence_chunk
            )
            trained = {id(parameter) for parameter in reward_model.trainable().values()}
            idle = sum(id(parameter) not in trained for parameter in self._products.parameters.values())
            if idle:
                _log.warning(
                    "scope %s holds %d parameters that reward_model_train=%s does not train",
                    config.scope, idle, config.reward_model_train,
                )  # fmt: skip

    def _rewards(self, inputs: influence.Inputs) -> Tensor:
        return self._reward_model.network(**inputs)  # type: ignore[no-any-return]

    @property
    def from_features(self) -> bool:
        """Whether products are read off the head's inputs, without a backward pass."""
        return self.config.scope == "head"

    @property
    def steers(self) -> bool:
        """Whether there is a penalty at all."""
        return self.config.steering != "rlhf" and self.config.weight > 0

    @property
    def whole_batch(self) -> bool:
        """Whether a candidate's penalty depends on other prompts' responses."""
        solved = self.config.steering == "unrolled" or (
            self.config.steering == "exact" and self.config.curvature != "adamw"
        )
        return self.steers and (solved or self.config.influence == "batch")

    @property
    def _closed_form(self) -> bool:
        """Whether the exact form comes from the whole Gram matrix; for a linear head the Hessian is Gauss-Newton's."""
        curvature = self.config.curvature
        return self.config.steering == "exact" and (
            curvature == "gauss-newton" or (curvature == "hessian" and self.from_features)
        )

    @property
    def _needs_kernels(self) -> bool:
        return self.steers and (self._closed_form or self.config.influence == "batch")

    def _from_gram(self, gram: Tensor, b: int) -> tuple[Kernels, Products]:
        config = self.config
        kernels = steering.kernels(
            gram, prompts=b, reference=self.reference, influence=config.influence, paid=config.paid
        )
        return kernels, Products(*(column.view(b, -1) for column in kernels.products()))

    def score(self, prompts: Sequence[Any], texts: Sequence[Any], *, groups: int) -> Scores:
        """Return rewards and gradient products of all responses of a round, from one pass of the reward model.

        Args:
            prompts: as the reward model takes them, one a row.
            texts: responses, as many. The rows of a prompt stand together, its reference response last.
            groups: B, prompts.
        """
        if self.from_features:
            return self.score_features(self._reward_model.features(prompts, texts), groups=groups)
        return self._score_inputs(self._reward_model.encode(prompts, texts), groups)

    def score_features(self, features: Tensor, *, groups: int) -> Scores:
        """Return the same from the head's inputs (scope head), shape R D."""
        with torch.no_grad():
            every = self._reward_model.rewards(features).view(groups, -1)
        metric = self._metric(self._reward_model.head)
        rows = features if metric is None else features * metric["weight"].flatten().sqrt()
        kernels = None
        if self._needs_kernels:  # the bias adds 1 to every product, and leaves no trace in a difference
            kernels, products = self._from_gram(rows @ rows.T + 1, groups)
        else:
            rows = rows.view(groups, -1, features.shape[1])
            own, other = (rows[:, :-1], rows[:, -1]) if self.reference == "response" else (rows, leave_one_out(rows))
            products = self._paid(influence.head_products(own, other))
        reward, reference = compared(every, self.reference)
        return Scores(reward, reference, products, kernels, features.view(groups, -1, features.shape[1]), None)

    def _score_inputs(self, inputs: dict[str, Tensor], groups: int) -> Scores:
        assert self._products is not None
        metric = self._metric(self._reward_model.network)
        if self._needs_kernels:
            flat, gram = self._products.gram(inputs, metric=metric)
            kernels, products = self._from_gram(gram, groups)
            reward, reference = compared(flat.view(groups, -1), self.reference)
            return Scores(reward, reference, products, kernels, None, inputs)
        if self.reference == "response":
            scored = self._products.against_reference(inputs, prompts=groups, metric=metric)
            reference = scored.reference_reward[:, None]
            return Scores(scored.reward, reference, self._paid(scored.products), None, None, inputs)
        parts = [self._products.gram(own, metric=metric) for own in _by_group(inputs, groups)]  # prompts do not meet
        read = [self._from_gram(gram, 1)[1] for _, gram in parts]
        products = Products(*(torch.cat(columns) for columns in zip(*read, strict=True)))
        reward, reference = compared(torch.stack([own for own, _ in parts]), self.reference)
        return Scores(reward, reference, products, None, None, inputs)

    def _paid(self, products: Products) -> Products:
        """Return the products with the margin at the test point, where that is what the policy is paid: <d, d>."""
        return products._replace(gram=products.spread) if self.config.paid == "margin" else products

    def _metric(self, module: nn.Module) -> dict[str, Tensor] | None:
        """Return AdamW's diagonal for the scope's parameters, if the exact form asks for it."""
        if self.config.steering != "exact" or self.config.curvature != "adamw":
            return None
        scope = self._products.parameters if self._products else dict(module.named_parameters())
        metric = adamw_metric(self._optimizer, scope)
        return {name: torch.zeros_like(m) if self._is_bias(scope[name]) else m for name, m in metric.items()}

    def _is_bias(self, parameter: nn.Parameter) -> bool:
        """The head's bias moves all rewards alike. Its gradient is rounding, which AdamW would make a step of."""
        return parameter is self._reward_model.head.bias

    def penalty(self, scores: Scores, label: Tensor | None) -> Penalty:
        """Return the steering penalty of every candidate.

        Args:
            scores: of the round.
            label: p* of every candidate, or a baseline for each, shape B N; None for the forms that read none.

        Raises:
            NumericalError: a Hessian that is not positive after damping, a solve or an unrolling that fails.
        """
        gram, spread = scores.products
        if not self.steers:
            return Penalty(torch.zeros_like(gram), 0.0, None)
        config = self.config
        if config.steering == "unrolled":
            assert label is not None
            base = self._unrolled(scores, label)
            gamma, share = self._gamma(scores.reward, base)
            return Penalty(gamma * base, gamma, share)
        base = self._inverse_products(scores, label) if config.steering == "exact" else gram
        gamma, share = self._gamma(scores.reward, base)
        if config.steering == "practical":
            return Penalty(pairwise.practical(base, gamma=gamma), gamma, share)
        assert label is not None
        if config.steering == "proximal":
            value = pairwise.proximal(gram, spread, scores.margin, label, gamma=gamma)
        else:  # `exact` is `relaxed` with the inverse curvature inside the product
            value = pairwise.relaxed(base, scores.margin, label, gamma=gamma)
        return Penalty(value, gamma, share)

    def _gamma(self, reward: Tensor, base: Tensor) -> tuple[float, float | None]:
        one = float(steering.raw_gamma(1.0, reward, base))
        given = self.config.weight
        if self.config.gamma_unit == "share":
            return given * one, given
        return given, given / one if one > 0 else None

    def _inverse_products(self, scores: Scores, label: Tensor | None) -> Tensor:
        config = self.config
        if config.curvature == "adamw":
            gram: Tensor = scores.products.gram
            return gram  # the metric is in it already
        if self._closed_form:
            assert scores.kernels is not None
            p = scores.margin.flatten().sigmoid()
            found: Tensor = steering.inverse_products(scores.kernels, p * (1 - p), damping=config.damping)
            return found.view_as(scores.reward)
        assert self._products is not None
        assert label is not None
        assert scores.inputs is not None
        products, iterations = solved_products(
            self._reward_model.network, scores.inputs, label, prompts=len(label), scope=config.scope,
            damping=config.damping, reference=self.reference, influence=config.influence, paid=config.paid,
            curvature="hessian", forward=self._rewards,
        )  # fmt: skip
        _log.info("conjugate gradients: %d iterations", iterations)
        return products

    def _unrolled(self, scores: Scores, label: Tensor) -> Tensor:
        if self.from_features:
            features = scores.features
            assert features is not None
            head = {name: p for name, p in self._reward_model.head.named_parameters() if not self._is_bias(p)}

            def linear(parameters: influence.Parameters) -> Tensor:
                return features @ parameters["weight"][0].float()

            return self._through_steps(linear, head, label)
        assert self._products is not None
        assert scores.inputs is not None
        network, inputs = self._reward_model.network, scores.inputs
        scope = {name: p for name, p in self._products.parameters.items() if not self._is_bias(p)}

        def whole(parameters: influence.Parameters) -> Tensor:
            rewards: Tensor = functional_call(network, dict(parameters), kwargs=inputs)
            return rewards.view(len(label), -1)

        return self._through_steps(whole, scope, label)

    def _through_steps(
        self, rewards: Callable[[influence.Parameters], Tensor], scope: Mapping[str, nn.Parameter], label: Tensor
    ) -> Tensor:
        state = adamw_state(self._optimizer, scope)
        config = self.config
        with frozen_except(self._reward_model.network, {}):
            return unrolled_penalties(
                rewards, scope, label, state, steps=config.unrolled_steps, reference=self.reference,
                influence=config.influence, paid=config.paid,
            )  # fmt: skip


def _by_group(inputs: dict[str, Tensor], groups: int) -> Iterator[dict[str, Tensor]]:
    for index in range(groups):
        yield {name: tensor.view(groups, -1, *tensor.shape[1:])[index] for name, tensor in inputs.items()}
