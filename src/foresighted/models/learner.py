"""One optimiser over some named parameters, with accumulation, and a state that survives as tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from foresighted.errors import ModelError, NumericalError
from foresighted.settings import TrainConfig
from foresighted.store.tensors import read_tensors, save_tensors

T = TypeVar("T")
OptimizerState = tuple[dict[str, Tensor], dict[str, float]]
"""Tensors and plain numbers of an optimiser, keyed `parameter.entry`."""


class Learner:
    """Takes optimiser steps on a mean loss over rows.

    Args:
        name: what learns, for error messages.
        parameters: by name; all require gradients.
        optimizer: over exactly these parameters, in this order.
        accumulation: micro-batches a step.
        max_grad_norm: scale the gradient down to this norm; None leaves it.
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        accumulation: int = 1,
        max_grad_norm: float | None = None,
    ) -> None:
        self.name = name
        self.parameters = parameters
        self.optimizer = optimizer
        self.accumulation = accumulation
        self._max_grad_norm = max_grad_norm

    def learn(
        self,
        rows: int,
        loss: Callable[[list[int]], Tensor],
        *,
        steps: int = 1,
        mine: range | None = None,
        reduce: Callable[[list[Tensor]], None] | None = None,
    ) -> float:
        """Take steps; return the mean loss before the first of them.

        Args:
            rows: number of rows; each step sees all of them, in `accumulation` micro-batches.
            loss: mean loss over the rows with the given indices, differentiable.
            steps: optimiser steps.
            mine: the rows whose loss this process computes (default: all).
            reduce: sums tensors over processes, in place; called once a step, whatever `mine` holds.

        Raises:
            NumericalError: a loss or gradient that is not finite; no step is taken on it.
        """

        async def said(index: list[int]) -> Tensor:
            return loss(index)

        return completed(self.learning(rows, said, _backward, steps=steps, mine=mine, reduce=reduce))

    async def learning(
        self,
        rows: int,
        loss: Callable[[list[int]], Awaitable[Tensor]],
        backward: Callable[[Tensor], Awaitable[None]],
        *,
        steps: int = 1,
        mine: range | None = None,
        reduce: Callable[[list[Tensor]], None] | None = None,
    ) -> float:
        """Take steps as `learn` does, with a loss that is awaited, and its gradient by `backward`."""
        first = 0.0
        for step in range(steps):
            total = 0.0
            for index in _split(range(rows) if mine is None else mine, self.accumulation):
                part = await loss(index) * (len(index) / rows)
                await backward(part)
                total += float(part.detach())
            if reduce is not None:
                total = self._reduced(total, reduce)
            if step == 0:
                first = total
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._max_grad_norm or math.inf))
            if not (math.isfinite(total) and math.isfinite(norm)):
                self.optimizer.zero_grad()
                raise NumericalError(f"{self.name}: loss {total}, gradient norm {norm}; lower its learning rate")
            self.optimizer.step()
            self.optimizer.zero_grad()
        return first

    def _reduced(self, total: float, reduce: Callable[[list[Tensor]], None]) -> float:
        for parameter in self.parameters.values():
            if parameter.grad is None:  # no row here, or none that used it
                parameter.grad = torch.zeros_like(parameter)
        summed = torch.tensor([total], dtype=torch.float64)
        reduce([*(p.grad for p in self.parameters.values() if p.grad is not None), summed])
        return float(summed)

    def save(self, folder: Path, weights: str, optimizer: str) -> dict[str, float]:
        """Write parameters and the optimiser's tensors to two files of a folder; return the optimiser's numbers."""
        tensors, numbers = self.state()
        save_tensors(folder / f"{weights}.safetensors", self.parameters)
        save_tensors(folder / f"{optimizer}.safetensors", tensors)
        return numbers

    def restore(self, folder: Path, weights: str, optimizer: str, numbers: dict[str, float], told: str) -> None:
        """Put back what `save` wrote; raises a `RunError`, `told`, where the parameters are others."""
        read_tensors(folder / f"{weights}.safetensors", self.parameters, told)
        self.load_state((load_file(folder / f"{optimizer}.safetensors"), numbers))

    def state(self) -> OptimizerState:
        """Return the optimiser's state as tensors and numbers."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, float] = {}
        per_parameter = self.optimizer.state_dict()["state"]
        for index, name in enumerate(self.parameters):
            for entry, value in per_parameter.get(index, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{entry}"] = value
                elif isinstance(value, int | float):
                    numbers[f"{name}.{entry}"] = value
        return tensors, numbers

    def load_state(self, state: OptimizerState) -> None:
        """Put back what `state` returned."""
        entries: dict[int, dict[str, Any]] = {}
        order = {name: index for index, name in enumerate(self.parameters)}
        for part in state:
            for key, value in part.items():
                name, _, entry = key.rpartition(".")
                entries.setdefault(order[name], {})[entry] = value
        self.optimizer.load_state_dict({"state": entries, "param_groups": self.optimizer.state_dict()["param_groups"]})


async def _backward(part: Tensor) -> None:
    part.backward()  # type: ignore[no-untyped-call]


def completed(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine comes to that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise RuntimeError("a coroutine that was to wait for nothing waits")


def _split(rows: range, parts: int) -> list[list[int]]:
    parts = min(parts, len(rows))
    bounds = [len(rows) * i // parts for i in range(parts + 1)] if parts else []
    return [list(rows[a:b]) for a, b in itertools.pairwise(bounds)]


def policy_learner(parameters: dict[str, Tensor], config: TrainConfig) -> Learner:
    """Return the policy's learner; raises `ModelError` for the 8-bit optimiser without bitsandbytes."""
    optimizer: torch.optim.Optimizer
    if config.optimizer == "paged_adamw_8bit":
        try:
            import bitsandbytes
        except ImportError:
            raise ModelError("optimizer: paged_adamw_8bit needs bitsandbytes; use --optimizer adamw") from None
        optimizer = bitsandbytes.optim.PagedAdamW8bit(parameters.values(), lr=config.policy_learning_rate)
    else:
        optimizer = torch.optim.AdamW(parameters.values(), lr=config.policy_learning_rate, weight_decay=0.0)
    return Learner(
        "policy", parameters, optimizer, accumulation=config.accumulation_steps, max_grad_norm=config.max_grad_norm
    )


def reward_model_learner(parameters: dict[str, Tensor], config: TrainConfig) -> Learner:
    """Return the reward model's learner."""
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.reward_model_learning_rate, weight_decay=0.0)
    return Learner("reward model", parameters, optimizer, accumulation=config.accumulation_steps)
