"""Array libraries, and small reward models whose gradients are written out: what fast forms are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from foresighted.steering import Kernels, pairwise, pointwise


class Library(NamedTuple):
    """An array library at one precision."""

    name: str
    array: Callable[[Any], Any]
    tolerance: float
    """Relative, of sums of a few dozen terms."""


def _jax_array(values: Any) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(values, dtype=jnp.float64)


LIBRARIES = (
    Library("numpy-float64", lambda values: np.asarray(values, dtype=np.float64), 1e-12),
    Library("numpy-float32", lambda values: np.asarray(values, dtype=np.float32), 2e-5),
    Library("torch-float64", lambda values: torch.as_tensor(np.asarray(values), dtype=torch.float64), 1e-12),
    Library("torch-float32", lambda values: torch.as_tensor(np.asarray(values), dtype=torch.float32), 2e-5),
    Library("jax-float64", _jax_array, 1e-12),
)


UNTRACED = ("test_values_shape_and_precision", "test_kernels_are_products_of_written_out_gradients")
"""Tests that call with JAX arrays outside a trace; what is traced, and held against numpy, has tests of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give JAX few tests, of one shape: it compiles each operation for each; other libraries hold what shapes do."""
    kept = []
    for item in items:
        own = getattr(getattr(item, "callspec", None), "params", {})
        eager, name = getattr(own.get("library"), "name", "").startswith("jax"), getattr(item, "originalname", "")
        if eager or name.startswith("test_jax"):
            item.add_marker(pytest.mark.slow)
            if own.get("head", SIZES[0]) != SIZES[0] or (eager and name not in UNTRACED):
                continue
        kept.append(item)
    items[:] = kept


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    double = nullcontext()
    if request.param.name.startswith("jax"):
        jax = pytest.importorskip("jax")
        double = jax.enable_x64(True)
    with double:
        yield request.param


SIZES = ((4, 7, 3), (4, 7, 30), (5, 5, 5), (1, 1, 2))
"""Candidates, loss terms and parameters of a `Head`."""


class Head(NamedTuple):
    """A linear reward model with n loss terms; the first M are candidates."""

    test: np.ndarray
    """t_i, shape M D: the reward asked about is t_i . phi."""
    directions: np.ndarray
    """d_k, shape n D: the loss of term k is a function of d_k . phi."""
    phi: np.ndarray
    label: np.ndarray
    weights: np.ndarray

    @property
    def kernels(self) -> Kernels:
        return Kernels(self.test @ self.directions.T, self.directions @ self.directions.T)

    @property
    def value(self) -> np.ndarray:
        """Margin or reward of each term."""
        return self.directions @ self.phi


@pytest.fixture(params=["pairwise", "pointwise"])
def loss(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def forms(loss: str):
    return {"pairwise": pairwise, "pointwise": pointwise}[loss]


@pytest.fixture
def slopes(loss: str) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Naive first and second derivative of the loss of each term."""

    def pair(value: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = 1 / (1 + np.exp(-value))
        return p - label, p * (1 - p)

    def point(value: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return value - label, np.ones_like(value)

    return {"pairwise": pair, "pointwise": point}[loss]


@pytest.fixture(params=SIZES, ids=lambda sizes: "M{}-n{}-D{}".format(*sizes))
def head(request: pytest.FixtureRequest) -> Head:
    """Fewer and more parameters than loss terms, with a candidate that the loss does not hold (weight 0)."""
    count, terms, features = request.param
    rng = np.random.default_rng(terms + features)
    weights = rng.uniform(0.2, 1.0, size=terms) / terms
    if count > 1:
        weights[1] = 0.0
    return Head(
        rng.normal(size=(count, features)),
        rng.normal(size=(terms, features)),
        rng.normal(size=features),
        rng.uniform(size=terms),
        weights,
    )
