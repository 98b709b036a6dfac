"""What the leader is paid: reward of the (ensemble of) reward models, shaped, less the penalty of `steering`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from foresighted.games.game import Array, Follower, Game, Label, Score, Tree
from foresighted.games.settings import ELEMENTWISE
from foresighted.steering import Kernels, pairwise, pointwise


class Rewards(NamedTuple):
    """Of M actions."""

    mean: Array
    """Mean over the ensemble, (M,)."""
    bound: Array
    """mean - confidence * standard deviation, (M,)."""
    norm: Array
    """|grad_phi mean|^2, (M,); 0 where it was not asked for."""


def score_function(game: Game, s: Any, forms: tuple[str, ...], form: Array, follower: Follower, label: Label) -> Score:
    """Return what the leader is paid for actions.

        score(y) = shaped r(y) - penalty(y)

    Args:
        game: the game.
        s: its settings (traced).
        forms: forms of the penalty that the program knows.
        form: index of this run's form, no axes.
        follower: with a leading axis E, one entry a member of the ensemble.
        label: of an action.

    Returns:
        A function of actions (M, A), references (M, A) and label noise (M,) or None, to (M,), in units of reward.

    References:
        Ensembles with a lower confidence bound: arXiv 2310.02743. Shaping by a centred sigmoid (PAR): arXiv 2502.18770.
    """
    data = jax.tree.map(lambda x: x[0], follower._replace(weights=(), memory=()))
    needs_norm = forms != ("rlhf",) and not s.pairwise and s.influence == "self" and set(forms) <= set(ELEMENTWISE)
    fixed = _terms(game, s, follower.weights, data) if set(forms) & {"exact", "unrolled"} else None

    def score(actions: Array, references: Array, noise: Array | None) -> Array:
        rewards = _rewards(game, s, follower.weights, actions, needs_norm)
        paid = rewards.bound
        if s.shaping == "clip":
            paid = jnp.minimum(paid, s.shaping_scale)
        if s.shaping == "par":
            centre = _rewards(game, s, follower.weights, references, False).bound
            paid = s.shaping_scale * jax.nn.sigmoid((paid - centre) / s.shaping_scale)
        if forms == ("rlhf",):
            return paid
        value = rewards.mean
        if s.pairwise:
            value = value - _rewards(game, s, follower.weights, references, False).mean
        labels = _labels(s, data, label, actions, references, noise)
        if needs_norm:
            gram = spread = rewards.norm
            return paid - _elementwise(forms, form, s, gram, spread, value, labels)
        test, direction = _directions(game, s, follower.weights, actions, references)
        if fixed is not None:
            return paid - _with_data(forms[0], s, fixed, data, test, direction, value, labels)
        gram, spread = jnp.sum(test * direction, axis=-1), jnp.sum(direction**2, axis=-1)
        return paid - _elementwise(forms, form, s, gram, spread, value, labels)

    return score


def _rewards(game: Game, s: Any, weights: Tree, actions: Array, needs_norm: bool) -> Rewards:
    """Return the rewards of M actions; with a norm, in one pass."""

    def one(w: Tree, y: Array) -> tuple[Array, Array]:
        if not needs_norm:
            return game.reward(s, w, y), jnp.zeros(())
        if game.reward_and_norm is not None:
            return game.reward_and_norm(s, w, y)
        r, g = jax.value_and_grad(lambda w: game.reward(s, w, y))(w)
        return r, sum((jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(g)), jnp.zeros(()))

    r, norm = jax.vmap(lambda y: jax.vmap(lambda w: one(w, y))(weights))(actions)  # (M, E)
    mean = jnp.mean(r, axis=1)
    bound = mean
    if s.ensemble > 1:  # a floor under the variance: the root has no slope at 0
        bound = mean - s.confidence * jnp.sqrt(jnp.var(r, axis=1) + 1e-12)
    return Rewards(mean, bound, jnp.sum(norm, axis=1) / s.ensemble**2)


def _labels(s: Any, data: Follower, label: Label, actions: Array, references: Array, noise: Array | None) -> Array:
    if s.steering_labels == "baseline":
        mean = jnp.sum(data.present * data.labels) / jnp.maximum(jnp.sum(data.present), 1.0)
        return jnp.broadcast_to(mean, actions.shape[:1])
    labels = jax.vmap(label)(actions, references, noise)
    return labels if s.label_slope else jax.lax.stop_gradient(labels)


def _elementwise(
    forms: tuple[str, ...], form: Array, s: Any, gram: Array, spread: Array, value: Array, labels: Array
) -> Array:
    """Return the penalty of the form with index `form`; the others are computed with it and dropped."""
    relaxed = pairwise.relaxed if s.pairwise else pointwise.relaxed
    proximal = pairwise.proximal if s.pairwise else pointwise.proximal
    made: dict[str, Callable[[], Array]] = {
        "rlhf": lambda: jnp.zeros_like(gram),
        "practical": lambda: pointwise.practical(gram, gamma=s.gamma),
        "relaxed": lambda: relaxed(gram, value, labels, gamma=s.gamma),
        "proximal": lambda: proximal(gram, spread, value, labels, gamma=s.gamma),
    }
    return jnp.stack([made[name]() for name in forms])[form]


def _with_data(
    form: str, s: Any, fixed: tuple[Array, Array], data: Follower, test: Array, direction: Array, value: Array,
    labels: Array,
) -> Array:  # fmt: skip
    """Return the exact or unrolled penalty; the loss is that on the reward model's data, y not yet a part of it."""
    directions, values = fixed
    terms = jnp.concatenate([direction, directions])
    kernels = Kernels(test @ terms.T, terms @ terms.T)
    share = data.present / jnp.maximum(jnp.sum(data.present), 1.0)
    weights = jnp.concatenate([jnp.zeros_like(value), share])
    values = jnp.concatenate([value, values])
    module = pairwise if s.pairwise else pointwise
    if form == "exact":
        own = value if module is pointwise else values
        return module.exact(kernels, own, labels, damping=s.damping, gamma=s.gamma, weights=weights)
    all_labels = jnp.concatenate([labels, data.labels])
    return module.unrolled(
        kernels, values, all_labels, steps=s.unrolled_steps, rate=s.unrolled_rate, gamma=s.gamma, damping=0.0,
        weights=weights,
    )  # fmt: skip


def _flat_gradient(game: Game, s: Any, weights: Tree, y: Array) -> Array:
    """Return grad_phi of the ensemble's mean reward, flat."""
    slopes = jax.grad(lambda w: jnp.mean(jax.vmap(lambda one: game.reward(s, one, y))(w)))(weights)
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(slopes)])


def _directions(game: Game, s: Any, weights: Tree, actions: Array, references: Array) -> tuple[Array, Array]:
    """Return test points and directions of M actions, (M, P) each."""
    own = jax.vmap(lambda y: _flat_gradient(game, s, weights, y))(actions)
    direction = own
    if s.pairwise:
        direction = own - jax.vmap(lambda y: _flat_gradient(game, s, weights, y))(references)
    if s.influence == "batch":
        own = jnp.broadcast_to(jax.lax.stop_gradient(jnp.mean(own, axis=0)), own.shape)
    return own, direction


def _terms(game: Game, s: Any, weights: Tree, data: Follower) -> tuple[Array, Array]:
    """Return directions (n, P) and rewards or margins (n,) of the reward model's data."""
    direction = _directions(game, s, weights, data.actions, data.references)[1]
    value = _rewards(game, s, weights, data.actions, False).mean
    if s.pairwise:
        value = value - _rewards(game, s, weights, data.references, False).mean
    return direction, value
