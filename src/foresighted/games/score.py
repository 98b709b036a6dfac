"""What the leader is paid: reward of the (ensemble of) reward models, shaped, less the penalty of `steering`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from foresighted.errors import ConfigError
from foresighted.games.game import Array, Follower, Game, Label, Score, Tree
from foresighted.steering import Form, Kernels, inverse_products, pairwise, pointwise, raw_gamma


class Rewards(NamedTuple):
    """Of M actions."""

    mean: Array
    """Mean over the ensemble, (M,)."""
    bound: Array
    """mean - confidence * standard deviation, (M,)."""
    norm: Array
    """|grad_phi mean|^2, (M,); 0 where it was not asked for."""


def score_function(game: Game, s: Any, forms: tuple[Form, ...], form: Array, follower: Follower, label: Label) -> Score:
    """Return what the leader is paid for actions.

        score(y) = shaped r(y) - penalty(y)

    Args:
        game: the game.
        s: its settings (traced).
        forms: forms of the penalty that the program knows: elementwise ones, or one that is not.
        form: index of this run's form, no axes.
        follower: with a leading axis E, one entry a member of the ensemble.
        label: of an action.

    Returns:
        A function of actions (M, A), references (M, A) and label noise (M,) or None, to (M,), in units of reward.

    References:
        Ensembles with a lower confidence bound: arXiv 2310.02743. Shaping by a centred sigmoid (PAR): arXiv 2502.18770.
    """
    data = jax.tree.map(lambda x: x[0], follower._replace(weights=(), memory=()))
    steers = any(one.needs != "nothing" for one in forms)
    elementwise = all(one.elementwise for one in forms)
    needs_norm = steers and elementwise and not s.pairwise and s.influence == "self"
    terms = None if elementwise else _terms(game, s, follower.weights, data)

    def score(actions: Array, references: Array, noise: Array | None) -> Array:
        rewards = _rewards(game, s, follower.weights, actions, needs_norm)
        paid = rewards.bound
        if s.shaping == "clip":
            paid = jnp.minimum(paid, s.shaping_scale)
        if s.shaping == "par":
            centre = _rewards(game, s, follower.weights, references, False).bound
            paid = s.shaping_scale * jax.nn.sigmoid((paid - centre) / s.shaping_scale)
        if not steers:
            return paid
        value = rewards.mean
        if s.pairwise:
            value = value - _rewards(game, s, follower.weights, references, False).mean
        labels = _labels(s, data, label, actions, references, noise)
        if needs_norm:
            base = spread = rewards.norm
        else:
            test, direction = _directions(game, s, follower.weights, actions, references)
            base, spread = jnp.sum(test * direction, axis=-1), jnp.sum(direction**2, axis=-1)
            if terms is not None:
                base = _solved(forms[0], s, terms, data, test, direction, value, labels)
        penalties = [_penalty(one, s, base, spread, rewards.mean, value, labels) for one in forms]
        return paid - jnp.stack(penalties)[form]  # the others are computed with it and dropped

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


def values(game: Game, s: Any, weights: Tree, data: Follower) -> Array:
    """Return what the reward models say of labelled actions: rewards, or margins over what each was compared with.

    Args:
        game: the game.
        s: its settings.
        weights: with a leading axis E, over which the mean is taken.
        data: of one member, n rows.

    Returns:
        (n,), in units of reward.
    """
    value = _rewards(game, s, weights, data.actions, False).mean
    if s.pairwise:
        value = value - _rewards(game, s, weights, data.references, False).mean
    return value


def _labels(s: Any, data: Follower, label: Label, actions: Array, references: Array, noise: Array | None) -> Array:
    if s.steering_labels == "baseline":
        mean = jnp.sum(data.present * data.labels) / jnp.maximum(jnp.sum(data.present), 1.0)
        return jnp.broadcast_to(mean, actions.shape[:1])
    labels = jax.vmap(label)(actions, references, noise)
    return labels if s.label_slope else jax.lax.stop_gradient(labels)


def _penalty(form: Form, s: Any, base: Array, spread: Array, reward: Array, value: Array, labels: Array) -> Array:
    """Return a form's penalty; a share of the reward's spread is turned into gamma, which the gradient holds fixed."""
    gamma = s.gamma
    if s.gamma_unit == "share" and form.needs != "nothing":
        if reward.shape[0] < 2:
            raise ConfigError("gamma_unit: share needs a leader that scores two actions or more at a time; use raw")
        one = raw_gamma(gamma, reward[None], base[None], residual=form.residual(pairwise=s.pairwise))
        gamma = jax.lax.stop_gradient(one)
    return (form.pairwise if s.pairwise else form.pointwise)(base, spread, value, labels, gamma=gamma)


def _solved(
    form: Form, s: Any, terms: tuple[Array, Array], data: Follower, test: Array, direction: Array, value: Array,
    labels: Array,
) -> Array:  # fmt: skip
    """Return the base of a form with curvature or steps, by the loss on the reward model's data (y not yet in it)."""
    directions = jnp.concatenate([direction, terms[0]])
    kernels = Kernels(test @ directions.T, directions @ directions.T)
    share = data.present / jnp.maximum(jnp.sum(data.present), 1.0)
    weights = jnp.concatenate([jnp.zeros_like(value), share])
    values, labels = jnp.concatenate([value, terms[1]]), jnp.concatenate([labels, data.labels])
    loss = pairwise if s.pairwise else pointwise
    if form.needs == "curvature":
        return inverse_products(kernels, loss.slopes(values, labels)[1], damping=s.damping, weights=weights)
    return loss.unrolled(kernels, values, labels, steps=s.unrolled_steps, rate=s.unrolled_rate, weights=weights)


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
    return direction, values(game, s, weights, data)
