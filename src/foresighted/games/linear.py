"""The linear game of the paper: one action, a linear reward model, plain gradient steps on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from foresighted.games.game import Array, Follower, Game, Label, Observation, Score, Tree, gradient, mean_loss
from foresighted.games.settings import LinearSettings


def start_draws(s: LinearSettings, seed: int, member: int) -> Tree:
    """Return the noise of the first weights, from NumPy's legacy generator as in the published code."""
    random = np.random.RandomState(seed if member == 0 else [seed, member])
    return random.normal(0, 1, s.dimension)


def round_draws(s: LinearSettings, seed: int) -> Tree:
    """Return the noise of exploration and of labels; the published game has none, and none is drawn for it."""
    rounds, labels = s.iterations, s.labels_per_round
    explored, noise = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    exact = s.labels in ("utility", "preference")
    return {
        "explored": None if labels == 1 else explored.standard_normal((rounds, labels, s.dimension), dtype=np.float32),
        "noise": None if exact else noise.standard_normal((rounds, labels + 1), dtype=np.float32),
    }


def utility(s: Any, y: Array) -> Array:
    """Return U(y) = height exp(-sharpness |y - y*|^2), y* = ideal on the signal coordinates and 0 elsewhere."""
    ideal = jnp.where(jnp.arange(s.dimension) < s.signal_dimension, s.ideal, 0.0)
    return s.utility_height * jnp.exp(-s.utility_sharpness * jnp.sum((y - ideal) ** 2))


def signal_and_noise(s: Any, y: Array) -> tuple[Array, Array]:
    """Return the norm of the signal coordinates and the norm of all others."""
    return jnp.linalg.norm(y[: s.signal_dimension]), jnp.linalg.norm(y[s.signal_dimension :])


def observe(s: Any, y: Array, reward: Callable[[Array], Array]) -> Observation:
    """Return what is recorded of the leader's action."""
    return Observation(utility(s, y), reward(y), *signal_and_noise(s, y), y)


def landscape(s: Any, signal: Any, noise: Any) -> Any:
    """Return the utility of an action whose signal part points at the ideal, for arrays of norms."""
    square = (signal - ideal_signal(s)) ** 2 + noise**2
    return s.utility_height * np.exp(-s.utility_sharpness * square)


def ideal_signal(s: Any) -> float:
    """Return the norm of the ideal action."""
    return float(abs(s.ideal) * np.sqrt(s.signal_dimension))


def _start(s: Any, draws: Array) -> tuple[Tree, Follower]:
    direction = (jnp.arange(s.dimension) < s.signal_dimension).astype(draws.dtype)
    action = jnp.zeros(s.dimension, draws.dtype)
    rows = jnp.zeros((s.labels_per_round, s.dimension), draws.dtype)
    none = jnp.zeros(s.labels_per_round, draws.dtype)
    return action, Follower(direction + s.initial_noise * draws, (), rows, rows, none, none)


def _reward(s: Any, weights: Array, y: Array) -> Array:
    return jnp.dot(weights, y)


def _reward_and_norm(s: Any, weights: Array, y: Array) -> tuple[Array, Array]:
    return jnp.dot(weights, y), jnp.sum(y * y)


def _leader_step(s: Any, y: Array, score: Score, draws: Tree, t: Array) -> Tree:
    initial = jnp.zeros_like(y)[None]
    noise = None if draws["noise"] is None else draws["noise"][-1:]

    def objective(y: Array) -> Array:
        return score(y[None], initial, noise)[0] - s.action_cost * jnp.sum(y * y)

    return y + s.policy_step * gradient(objective, s)(y)


def _follower_step(s: Any, follower: Follower, y: Array, label: Label, draws: Tree, t: Array) -> Follower:
    actions = jnp.broadcast_to(y, (s.labels_per_round, *y.shape))
    if draws["explored"] is not None:
        actions = actions + s.exploration * draws["explored"]
    initial = jnp.zeros_like(actions)
    noise = None if draws["noise"] is None else draws["noise"][:-1]
    labels = jax.vmap(label)(actions, initial, noise)
    data = follower._replace(actions=actions, labels=labels, present=jnp.ones_like(labels))
    # Differentiating (r - U)^2 gives the factor 2 of the code, and of the paper's gradient we take half.
    rate = s.reward_model_step * (0.5 if s.reward_model_gradient == "paper" else 1.0)

    def step(_: Any, w: Array) -> Array:
        slope = jax.grad(lambda w: mean_loss(s, lambda a: _reward(s, w, a), data))(w)
        return w * (1 - s.reward_model_decay) - rate * slope

    return data._replace(weights=jax.lax.fori_loop(0, s.reward_model_steps, step, follower.weights))


LINEAR = Game(
    name="linear",
    settings=LinearSettings,
    start_draws=start_draws,
    round_draws=round_draws,
    start=_start,
    utility=utility,
    reward=_reward,
    leader_step=_leader_step,
    follower_step=_follower_step,
    observe=observe,
    gammas={"practical": 0.1, "relaxed": 0.1, "proximal": 0.1},
    actions_scored=lambda s: 1 + s.dimension if s.gradient == "finite-difference" else 1,
    reward_and_norm=_reward_and_norm,
    landscape=landscape,
    ideal_signal=ideal_signal,
)
"""The linear game."""
