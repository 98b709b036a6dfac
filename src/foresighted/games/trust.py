"""Trust control: the leader's step times tau, driven by how much of what the reward model predicted came true.

It is the trust-region ratio of surrogate optimisation (Conn, Gould, Toint: Trust-Region Methods, 2000), with the labels
that the reward model is about to learn from in place of an evaluation of its own: it costs no label.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from foresighted.games.game import Array, Follower, Game, with_values
from foresighted.games.score import values


class Trust(NamedTuple):
    """What the control carries from round to round; numbers, no axes."""

    tau: Array
    """Factor of the leader's next step."""
    predicted: Array
    """P, smoothed: gain that the reward model predicted before its update, in units of labels."""
    realised: Array
    """A, smoothed: gain of the labels."""
    spread: Array
    """Smoothed square of A - P around its smoothed mean."""


def first_trust(s: Any) -> Trust:
    """Return the state before the first round."""
    zero = jnp.zeros_like(s.trust_start)
    return Trust(s.trust_start, zero, zero, zero)


def trusted(game: Game, s: Any, trust: Trust) -> Any:
    """Return the settings that the leader steps with: its step sizes times tau."""
    return with_values(s, {name: trust.tau * getattr(s, name) for name in game.leader_steps})


def next_trust(game: Game, s: Any, trust: Trust, before: Follower, after: Follower) -> Trust:
    """Return the state after a round, from the reward model before its update and the round's new labels.

        P = mean r(new actions) - mean r(actions of the round before),   A = the same difference of labels

    Where labels are preferences, what is predicted is the label, too: sigmoid(r(y) - r(y')) in place of r(y).

    Args:
        game: the game.
        s: its settings (traced).
        trust: before.
        before: the follower before its update, with a leading axis E.
        after: and after it: holds the new labels.
    """
    rounds = [jax.tree.map(lambda x: x[0, -s.labels_per_round :], one._replace(weights=(), memory=()))
              for one in (before, after)]  # fmt: skip
    means = [[_mean(x, data.present) for x in (_predictions(game, s, before, data), data.labels)] for data in rounds]
    (old_prediction, old_label), (prediction, label) = means
    known = jnp.minimum(*(jnp.sum(data.present) for data in rounds)) > 0
    return controlled(s, trust, prediction - old_prediction, label - old_label, known)


def _mean(x: Array, present: Array) -> Array:
    return jnp.sum(present * x) / jnp.maximum(jnp.sum(present), 1.0)


def _predictions(game: Game, s: Any, follower: Follower, data: Follower) -> Array:
    value = values(game, s, follower.weights, data)
    return jax.nn.sigmoid(value) if s.pairwise else value


def controlled(s: Any, trust: Trust, predicted: Array, realised: Array, known: Array) -> Trust:
    """Return the state after a round of which P and A are known.

        P, A     smoothed: decay times the old value, and 1 - decay times the round's
        grow     where P > 0 and A > grow_above P + z e:    tau times `trust_grow`
        shrink   where P > 0 and A < shrink_below P - z e:  tau times `trust_shrink`

    within [trust_least, trust_most]. z is `trust_evidence`, e the standard error of the smoothed A - P if rounds differ
    by independent noise of their labels: A is a difference of two rounds, so most of it cancels,
    e^2 = (1 - decay)^2 v / (1 + decay), v the mean square of a round's A - P around its mean. With z = 0 this is the
    test of A / P against the two bounds. Where P <= 0, the leader raised nothing that could come true: tau stays. No
    division is made, so P near 0 is no case of its own.

    Args:
        s: settings.
        trust: before.
        predicted: P of the round.
        realised: A of the round.
        known: false in a round that has no labels before it; all stays.
    """
    decay = s.trust_decay

    def smoothed(old: Array, new: Array) -> Array:
        return jnp.where(known, decay * old + (1 - decay) * new, old)

    off = realised - predicted - (trust.realised - trust.predicted)
    p, a = smoothed(trust.predicted, predicted), smoothed(trust.realised, realised)
    spread = smoothed(trust.spread, off * off)
    margin = s.trust_evidence * (1 - decay) * jnp.sqrt(spread / (1 + decay))
    told = known & (p > 0)
    factor = jnp.where(told & (a > s.trust_grow_above * p + margin), s.trust_grow, 1.0)
    factor = jnp.where(told & (a < s.trust_shrink_below * p - margin), s.trust_shrink, factor)
    return Trust(jnp.clip(trust.tau * factor, s.trust_least, s.trust_most), p, a, spread)
