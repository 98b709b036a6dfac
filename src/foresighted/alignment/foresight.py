"""From a round's responses to rewards and steering penalties: which products a form needs, and how they are got."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from foresighted import influence, steering
from foresighted.errors import DataError
from foresighted.influence.capture import frozen_except
from foresighted.influence.curvature import adamw_metric, adamw_state, solved_products, unrolled_penalties
from foresighted.influence.head import leave_one_out
from foresighted.models.reward_model import RewardModel
from foresighted.settings import SteeringConfig
from foresighted.steering import Kernels, Products, Reference, compared

_log = logging.getLogger(__name__)

Base = Callable[[Tensor], Tensor]
"""Labels p*, B N, to what gamma multiplies in the penalty, B N: what the form's row needs."""
OneShare = Callable[[Tensor, Tensor], float]
"""What is paid and what gamma multiplies, B N each, to the gamma of 1 share, in the form's own units."""


class Scores(NamedTuple):
    """What the reward model says of a round's responses. The rows of a prompt stand together: its N candidates, then
    its M reference responses where there are any."""

    reward: Tensor  # B N
    reference_reward: Tensor  # B 1 (mean of the reference responses), or B N (mean of the other candidates)
    products: Products  # B N each: S and G in the run's scope and influence
    base: Base | None = None  # where it is not S itself
    features: Tensor | None = None  # B (N + M) D, or B N D, where they were computed
    references: Tensor | None = None  # B M: the reward of each reference response, where M > 1

    @property
    def margin(self) -> Tensor:
        """r(y) - r(y'), shape B N."""
        return self.reward - self.reference_reward

    @property
    def each_reference(self) -> Tensor:
        """The reward of each reference response, shape B M; the first is what labels compare with."""
        return self.reference_reward if self.references is None else self.references


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
        reference: what a candidate is compared with: responses of its prompt, or the prompt's other candidates.
        references: M, how many responses: the penalty takes the mean of their gradients.
    """

    def __init__(
        self,
        config: SteeringConfig,
        reward_model: RewardModel,
        optimizer: torch.optim.Optimizer,
        reference: Reference = "response",
        references: int = 1,
    ) -> None:
        self.config = config
        self._references = references if reference == "response" else 1
        self.form = config.form
        self.reference: Reference = reference
        self._reward_model = reward_model
        self._optimizer = optimizer
        self._products: influence.GradientProducts | None = None
        self._scope = dict(reward_model.head.named_parameters())
        if not self.from_features:
            self._products = influence.GradientProducts(
                reward_model.network, scope=config.scope, forward=self._rewards, chunk=config.influence_chunk
            )
            self._scope = self._products.parameters
            trained = {id(parameter) for parameter in reward_model.trainable().values()}
            if idle := sum(id(parameter) not in trained for parameter in self._scope.values()):
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
        return self.form.needs != "nothing" and self.config.weight > 0

    @property
    def _how(self) -> Literal["products", "steps", "metric", "closed form", "conjugate gradients"]:
        """How the base is got: the form's need, and of a curvature (for a linear head the Hessian is Gauss-Newton's)
        AdamW's diagonal as a metric of the products, the kernels of the whole batch, or iterations."""
        if self.form.needs != "curvature":
            return "steps" if self.form.needs == "steps" else "products"
        if self.config.curvature == "hessian" and not self.from_features:
            return "conjugate gradients"
        return "metric" if self.config.curvature == "adamw" else "closed form"

    @property
    def whole_batch(self) -> bool:
        """Whether a candidate's penalty depends on other prompts' responses."""
        return self.steers and (self.config.influence == "batch" or self._how not in ("products", "metric"))

    @property
    def _from_kernels(self) -> bool:
        return self.steers and (self.config.influence == "batch" or self._how == "closed form")

    def score(self, prompts: Sequence[Any], texts: Sequence[Any], *, groups: int) -> Scores:
        """Return rewards and gradient products of all responses of a round, from one pass of the reward model.

        Args:
            prompts: as the reward model takes them, one a row.
            texts: responses, as many. The rows of a prompt stand together, its reference responses last.
            groups: B, prompts.
        """
        if self._products is None:
            return self.score_features(self._reward_model.features(prompts, texts), groups=groups)
        return self._score_inputs(self._products, self._reward_model.encode(prompts, texts), groups)

    def score_features(self, features: Tensor, *, groups: int) -> Scores:
        """Return the same from the head's inputs (scope head), shape R D."""
        with torch.no_grad():
            every = self._reward_model.rewards(features).view(groups, -1)
        reward, other = compared(self._merged(every), self.reference)
        metric, width = self._metric(), features.shape[1]
        read, base = features.view(groups, -1, width), None
        features = self._merged(read)
        rows = features.reshape(-1, width)
        rows = rows if metric is None else rows * metric["weight"].flatten().sqrt()
        if self._from_kernels:  # the bias adds 1 to every product, and leaves no trace in a difference
            products, base = self._across_prompts(rows @ rows.T + 1, reward - other)
        else:
            rows = rows.view_as(features)
            own, apart = (rows[:, :-1], rows[:, -1]) if self.reference == "response" else (rows, leave_one_out(rows))
            products = self._paid(influence.head_products(own, apart))
        if self._how == "steps":
            base = self._through_steps(lambda parameters: features @ parameters["weight"][0].float())
        return Scores(reward, other, products, base, read, self._each(every))

    def _merged(self, rows: Tensor) -> Tensor:
        """Return B (N + M) rows with the mean of a prompt's references in their place, B (N + 1)."""
        if self._references == 1:
            return rows
        own, references = rows[:, : -self._references], rows[:, -self._references :]
        return torch.cat([own, references.mean(1, keepdim=True)], 1)

    def _each(self, reward: Tensor) -> Tensor | None:
        """Return the reward of each of a prompt's references, where there are several."""
        return None if self._references == 1 else reward[:, -self._references :]

    def _merged_gram(self, gram: Tensor, groups: int) -> Tensor:
        for _ in range(2 if self._references > 1 else 0):  # rows, then columns
            rows = self._merged(gram.view(groups, -1, gram.shape[1]))
            gram = rows.reshape(-1, gram.shape[1]).T.contiguous()
        return gram

    def _score_inputs(self, read: influence.GradientProducts, inputs: dict[str, Tensor], groups: int) -> Scores:
        metric, base, every = self._metric(), None, None
        if self._from_kernels:
            flat, gram = read.gram(inputs, metric=metric)
            every = flat.view(groups, -1)
            reward, other = compared(self._merged(every), self.reference)
            products, base = self._across_prompts(self._merged_gram(gram, groups), reward - other)
        elif self.reference == "response" and self._references == 1:
            scored = read.against_reference(inputs, prompts=groups, metric=metric)
            reward, other, products = scored.reward, scored.reference_reward[:, None], self._paid(scored.products)
        else:
            parts = [read.gram(own, metric=metric) for own in _by_group(inputs, groups)]  # prompts do not meet
            every = torch.stack([own for own, _ in parts])
            reward, other = compared(self._merged(every), self.reference)
            within = [self._kernels(self._merged_gram(gram, 1), 1).products() for _, gram in parts]
            products = Products(*(torch.stack(columns) for columns in zip(*within, strict=True)))
        if self._how == "conjugate gradients":
            base = partial(self._solved, inputs, groups)
        if self._how == "steps":
            network = self._reward_model.network
            base = self._through_steps(
                lambda parameters: self._merged(
                    functional_call(network, dict(parameters), kwargs=inputs).view(groups, -1)
                )
            )
        return Scores(reward, other, products, base, None, None if every is None else self._each(every))

    def penalty(
        self, scores: Scores, label: Tensor | None, paid: Tensor | None = None, *, one_share: OneShare | None = None
    ) -> Penalty:
        """Return the steering penalty of every candidate.

        Args:
            scores: of the round.
            label: p* of every candidate, or a baseline for each, shape B N; None for the forms that read none.
            paid: what the policy is paid, of whose spread a gamma may be a share, shape B N; None: the reward.
            one_share: says what a gamma of 1 share is, where more than this round tells; None: `steering.raw_gamma`.

        Raises:
            DataError: no label, and a form that reads it.
            NumericalError: a Hessian that is not positive after damping, a solve or an unrolling that fails.
        """
        gram, spread = scores.products
        if not self.steers:
            return Penalty(torch.zeros_like(gram), 0.0, None)
        if label is None:
            if self.form.reads_labels:
                raise DataError(f"label: got none; steering {self.form.name} reads that of every candidate")
            label = torch.zeros_like(gram)
        base = gram if scores.base is None else scores.base(label)
        gamma, share = self._gamma(scores.reward if paid is None else paid, base, one_share)
        return Penalty(self.form.pairwise(base, spread, scores.margin, label, gamma=gamma), gamma, share)

    def _gamma(self, paid: Tensor, base: Tensor, one_share: OneShare | None) -> tuple[float, float | None]:
        if one_share is None:
            one = float(steering.raw_gamma(1.0, paid, base, residual=self.form.residual(pairwise=True)))
        else:
            one = one_share(paid, base)
        given = self.config.weight
        if self.config.unit == "share":
            return given * one, given
        return given, given / one if one > 0 else None

    def _kernels(self, gram: Tensor, prompts: int) -> Kernels:
        config = self.config
        return steering.kernels(
            gram, prompts=prompts, reference=self.reference, influence=config.influence, paid=config.paid
        )

    def _across_prompts(self, gram: Tensor, margin: Tensor) -> tuple[Products, Base | None]:
        """Return S and G from the Gram matrix of all responses, and the base where it comes from that matrix, too."""
        kernels = self._kernels(gram, len(margin))
        p = margin.flatten().sigmoid()

        def closed_form(label: Tensor) -> Tensor:
            found: Tensor = steering.inverse_products(kernels, p * (1 - p), damping=self.config.damping)
            return found.view_as(margin)

        products = Products(*(column.view_as(margin) for column in kernels.products()))
        return products, closed_form if self._how == "closed form" else None

    def _paid(self, products: Products) -> Products:
        """Return the products with the margin at the test point, where that is what the policy is paid: <d, d>."""
        return products._replace(gram=products.spread) if self.config.paid == "margin" else products

    def _metric(self) -> dict[str, Tensor] | None:
        """Return AdamW's diagonal for the scope's parameters, where it is the form's curvature."""
        if self._how != "metric":
            return None
        metric = adamw_metric(self._optimizer, self._scope)
        return {name: torch.zeros_like(m) if self._is_bias(self._scope[name]) else m for name, m in metric.items()}

    def _is_bias(self, parameter: Tensor) -> bool:
        """The head's bias moves all rewards alike. Its gradient is rounding, which AdamW would make a step of."""
        return parameter is self._reward_model.head.bias

    def _solved(self, inputs: dict[str, Tensor], groups: int, label: Tensor) -> Tensor:
        config = self.config

        def rewards(inputs: influence.Inputs) -> Tensor:
            return self._merged(self._rewards(inputs).view(groups, -1)).flatten()

        products, iterations = solved_products(
            self._reward_model.network, inputs, label, prompts=len(label), scope=config.scope,
            damping=config.damping, reference=self.reference, influence=config.influence, paid=config.paid,
            curvature="hessian", forward=rewards,
        )  # fmt: skip
        _log.info("conjugate gradients: %d iterations", iterations)
        return products

    def _through_steps(self, rewards: Callable[[influence.Parameters], Tensor]) -> Base:
        scope = {name: parameter for name, parameter in self._scope.items() if not self._is_bias(parameter)}
        config = self.config

        def base(label: Tensor) -> Tensor:
            state = adamw_state(self._optimizer, scope)
            with frozen_except(self._reward_model.network, {}):
                return unrolled_penalties(
                    rewards, scope, label, state, steps=config.unrolled_steps, reference=self.reference,
                    influence=config.influence, paid=config.paid,
                )  # fmt: skip

        return base


def _by_group(inputs: dict[str, Tensor], groups: int) -> Iterator[dict[str, Tensor]]:
    for index in range(groups):
        yield {name: tensor.view(groups, -1, *tensor.shape[1:])[index] for name, tensor in inputs.items()}
