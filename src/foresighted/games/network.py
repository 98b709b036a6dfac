"""The network game of the paper: a Gaussian policy and a small softplus network as reward model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from foresighted.games.game import Array, Follower, Label, Score, Tree, gradient, mean_loss
from foresighted.games.linear import LINEAR
from foresighted.games.settings import NetworkSettings

Moments = tuple[Tree, Tree]
"""Adam's running means of the gradient and of its square."""


def _start_draws(s: NetworkSettings, seed: int, member: int) -> Tree:
    random = np.random.default_rng([seed, 0, member])
    shapes = ((s.hidden, s.dimension), (s.hidden, s.hidden), (s.hidden,))
    return [random.standard_normal(shape) for shape in shapes]


def _round_draws(s: NetworkSettings, seed: int) -> Tree:
    """Each use has a stream of its own, so that one setting does not shift the noise of another."""
    inner = (s.inner_steps, s.policy_samples)
    noisy, compared = s.labels in ("noisy", "sampled"), s.pairwise
    shapes = {
        "policy": (*inner, s.dimension),
        "follower": (s.labels_per_round, s.dimension),
        "policy_reference": (*inner, s.dimension) if compared or s.shaping == "par" else None,
        "follower_reference": (s.labels_per_round, s.dimension) if compared else None,
        "policy_label": inner if noisy else None,
        "follower_label": (s.labels_per_round,) if noisy else None,
    }
    return {
        name: shape
        and np.random.default_rng([seed, 1 + stream]).standard_normal((s.iterations, *shape), dtype=np.float32)
        for stream, (name, shape) in enumerate(shapes.items())
    }


def _start(s: Any, draws: Tree) -> tuple[Tree, Follower]:
    dtype = draws[0].dtype
    weights = [(s.initial_noise * w, jnp.zeros(w.shape[:-1], dtype)) for w in draws]
    zeros = jax.tree.map(jnp.zeros_like, weights)
    rows, none = jnp.zeros((s.buffer_size, s.dimension), dtype), jnp.zeros(s.buffer_size, dtype)
    return jnp.zeros(s.dimension, dtype), Follower(weights, (zeros, zeros), rows, rows, none, none)


@jax.custom_jvp
def _softplus(z: Array) -> tuple[Array, Array]:
    """Return softplus and its slope, the sigmoid, from one exponential."""
    small = jnp.exp(-jnp.abs(z))
    return jnp.maximum(z, 0) + jnp.log1p(small), jnp.where(z >= 0, 1.0, small) / (1 + small)


@_softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (z,), (dz,) = primals, tangents
    value, slope = _softplus(z)
    return (value, slope), (slope * dz, slope * (1 - slope) * dz)


def _reward(s: Any, weights: Tree, y: Array) -> Array:
    (w1, b1), (w2, b2), (w3, b3) = weights
    return jnp.dot(w3, _softplus(w2 @ _softplus(w1 @ y + b1)[0] + b2)[0]) + b3


def _reward_and_norm(s: Any, weights: Tree, y: Array) -> tuple[Array, Array]:
    """Return r and |grad_phi r|^2 = sum over layers of |delta|^2 (|input|^2 + 1), with no per-weight gradient made."""
    (w1, b1), (w2, b2), (w3, b3) = weights
    a1, slope1 = _softplus(w1 @ y + b1)
    a2, slope2 = _softplus(w2 @ a1 + b2)
    delta2 = w3 * slope2
    delta1 = (w2.T @ delta2) * slope1
    layers = ((delta2, a1), (delta1, y))
    square = jnp.sum(a2 * a2) + 1 + sum(jnp.sum(d * d) * (jnp.sum(a * a) + 1) for d, a in layers)
    return jnp.dot(w3, a2) + b3, square


def _falling(s: Any, first: Array, last: Array, t: Array) -> Array:
    return last + (first - last) * (1 - (t / s.iterations) ** s.decay_power)


def _leader_step(s: Any, mean: Array, score: Score, draws: Tree, t: Array) -> Tree:
    sigma, rate = _falling(s, s.sigma, s.final_sigma, t), _falling(s, s.policy_step, s.final_policy_step, t)

    def step(mean: Array, draw: Tree) -> tuple[Array, None]:
        shifts, references, noise = draw
        references = jnp.zeros_like(shifts) if references is None else s.sigma * references

        def objective(mean: Array) -> Array:
            actions = mean + sigma * shifts
            return jnp.mean(score(actions, references, noise) - s.action_cost * jnp.sum(actions**2, axis=-1))

        return mean + rate * jnp.clip(gradient(objective, s)(mean), -s.gradient_clip, s.gradient_clip), None

    return jax.lax.scan(step, mean, (draws["policy"], draws["policy_reference"], draws["policy_label"]))[0]


def _follower_step(s: Any, follower: Follower, mean: Array, label: Label, draws: Tree, t: Array) -> Follower:
    actions = mean + _falling(s, s.sigma, s.final_sigma, t) * draws["follower"]
    initial = draws["follower_reference"]
    references = jnp.zeros_like(actions) if initial is None else s.sigma * initial
    labels = jax.vmap(label)(actions, references, draws["follower_label"])

    def push(old: Array, new: Array) -> Array:
        return jnp.concatenate([old[new.shape[0] :], new])

    data = follower._replace(
        actions=push(follower.actions, actions),
        references=push(follower.references, references),
        labels=push(follower.labels, labels),
        present=push(follower.present, jnp.ones_like(labels)),
    )

    def train(k: Array, state: tuple[Tree, Moments]) -> tuple[Tree, Moments]:
        weights, memory = state
        slope = jax.grad(lambda w: mean_loss(s, lambda a: _reward(s, w, a), data))(weights)
        return _adam(s, weights, memory, slope, t * s.reward_model_steps + k + 1)

    start = (follower.weights, follower.memory)
    weights, memory = jax.lax.fori_loop(0, s.reward_model_steps, train, start)
    return data._replace(weights=weights, memory=memory)


def _adam(s: Any, weights: Tree, memory: Moments, slope: Tree, count: Array) -> tuple[Tree, Moments]:
    """Return weights and moments after Adam's step number `count`, weight decay added to the gradient (not AdamW)."""
    slope = jax.tree.map(lambda g, w: g + s.reward_model_decay * w, slope, weights)
    first = jax.tree.map(lambda m, g: s.adam_first * m + (1 - s.adam_first) * g, memory[0], slope)
    second = jax.tree.map(lambda v, g: s.adam_second * v + (1 - s.adam_second) * g * g, memory[1], slope)

    def moved(w: Array, m: Array, v: Array) -> Array:
        m, v = m / (1 - s.adam_first**count), v / (1 - s.adam_second**count)
        return w - s.reward_model_step * m / (jnp.sqrt(v) + s.adam_epsilon)

    return jax.tree.map(moved, weights, first, second), (first, second)


NETWORK = replace(
    LINEAR,
    name="network",
    settings=NetworkSettings,
    start_draws=_start_draws,
    round_draws=_round_draws,
    start=_start,
    reward=_reward,
    leader_step=_leader_step,
    follower_step=_follower_step,
    gammas={"practical": 0.005, "relaxed": 0.005, "proximal": 0.05},
    leader_steps=("policy_step", "final_policy_step"),
    actions_scored=lambda s: (
        s.inner_steps * s.policy_samples * (1 + s.dimension if s.gradient == "finite-difference" else 1)
    ),
    reward_and_norm=_reward_and_norm,
)
"""The network game: utility and what is recorded are the linear game's."""
