"""What a game is: a handful of pure functions, and what they hand to each other.

Shapes: A an action's own shape, M actions scored together, n labelled actions that the reward model learns from,
E reward models of an ensemble. Every function is written for one seed and one setting; `simulate` vectorises.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from foresighted.games.settings import GameSettings
from foresighted.store.python_files import load_from_file

Array = Any
"""A JAX array, or a number under a JAX trace."""
Tree = Any
"""Arrays in tuples, lists or dictionaries, as JAX takes them."""
Score = Callable[[Array, Array, Array | None], Array]
"""(actions (M, A), references (M, A), label noise (M,) or None) -> what the leader is paid for each, (M,)."""
Label = Callable[[Array, Array, Array | None], Array]
"""(action (A), reference (A), label noise or None) -> its label: a utility, or a preference over the reference."""


class Follower(NamedTuple):
    """The reward model and what it learns from."""

    weights: Tree
    """phi, the parameters of the reward model."""
    memory: Tree
    """State of its optimiser; () where there is none."""
    actions: Array
    """Labelled actions, (n, A), newest last: the last `labels_per_round` rows are the round's, or all where there are
    fewer."""
    references: Array
    """What each was compared with, (n, A); read only where labels are preferences."""
    labels: Array
    """Their labels, (n,)."""
    present: Array
    """1 for a row that holds a label and 0 for one still empty, (n,)."""


class Observation(NamedTuple):
    """What is recorded of a round, after the leader's step and before the follower's."""

    utility: Array
    proxy_reward: Array
    signal: Array
    noise: Array
    action: Array


@dataclass(frozen=True)
class Game:
    """A controlled game of a leader (policy) and a follower (reward model).

    `settings` are the game's own; the float ones among them arrive as traced numbers. Draws are NumPy arrays made on
    the host, so they depend on the seed and on nothing else, and all arms of a seed share them.
    """

    name: str
    settings: type[GameSettings]
    start_draws: Callable[[Any, int, int], Tree]
    """(settings, seed, member of the ensemble) -> random numbers of the start."""
    round_draws: Callable[[Any, int], Tree]
    """(settings, seed) -> random numbers of the rounds, leading axis `iterations`."""
    start: Callable[[Any, Tree], tuple[Tree, Follower]]
    """(settings, start draws) -> the leader's and the follower's first state."""
    utility: Callable[[Any, Array], Array]
    """(settings, action) -> true utility U."""
    reward: Callable[[Any, Tree, Array], Array]
    """(settings, weights, action) -> r, differentiable in weights and action."""
    leader_step: Callable[[Any, Tree, Score, Tree, Array], Tree]
    """(settings, leader, score, round draws, round from 0) -> leader."""
    follower_step: Callable[[Any, Follower, Tree, Label, Tree, Array], Follower]
    """(settings, follower, leader, label, round draws, round from 0) -> follower."""
    observe: Callable[[Any, Tree, Callable[[Array], Array]], Observation]
    """(settings, leader, reward of an action) -> what is recorded."""
    gammas: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Default steering weight by form; 1 where a form is not named."""
    leader_steps: tuple[str, ...] = ("policy_step",)
    """Float settings that are the leader's step size: `control=trust` hands `leader_step` tau times them."""
    actions_scored: Callable[[Any], int] = lambda s: 1
    """settings -> actions that the leader scores in a round: the labels a form that reads them all costs."""
    reward_and_norm: Callable[[Any, Tree, Array], tuple[Array, Array]] | None = None
    """(settings, weights, action) -> r and |grad_phi r|^2 in one go, where a game has a fast closed form."""
    landscape: Callable[[Any, Any, Any], Any] | None = None
    """(settings, signal, noise) -> utility for the background of the phase portrait, NumPy arrays."""
    ideal_signal: Callable[[Any], float] | None = None
    """settings -> signal of the best action, for the mark in the phase portrait."""


def gradient(objective: Callable[[Array], Array], s: GameSettings) -> Callable[[Array], Array]:
    """Return the gradient function of a leader's objective, as the settings ask for it.

        autodiff             grad f(y)
        finite-difference    (f(y + h e_k) - f(y)) / h for every coordinate k, h = difference_step

    With gradient_regularisation lambda > 0, f is J - lambda / 2 |grad J|^2.

    Args:
        objective: J, from an array to a number.
        s: settings.

    References:
        Regularised objective: arXiv 2602.18037. Forward differences: the published linear game of arXiv 2605.04266.
    """
    f = objective
    if s.gradient_regularisation is not None:  # None where the program was made without it

        def f(y: Array) -> Array:
            value, slope = jax.value_and_grad(objective)(y)
            return value - s.gradient_regularisation / 2 * jnp.sum(slope * slope)

    if s.gradient == "autodiff":
        return jax.grad(f)

    def forward(y: Array) -> Array:
        shifts = s.difference_step * jnp.eye(y.size, dtype=y.dtype).reshape(y.size, *y.shape)
        return ((jax.vmap(lambda shift: f(y + shift))(shifts) - f(y)) / s.difference_step).reshape(y.shape)

    return forward


def label_function(game: Game, s: GameSettings) -> Label:
    """Return what an action's label is.

        utility      U(y)
        noisy        U(y) + label_noise e
        preference   p = sigmoid(preference_scale (U(y) - U(y')))
        sampled      1 where Phi(e) < p, else 0

    e is the standard normal number that is handed in, None for exact labels.
    """

    def label(y: Array, reference: Array, noise: Array | None) -> Array:
        u = game.utility(s, y)
        if s.labels == "noisy" and noise is not None:
            return u + s.label_noise * noise
        if not s.pairwise:
            return u
        p = jax.nn.sigmoid(s.preference_scale * (u - game.utility(s, reference)))
        if s.labels == "sampled" and noise is not None:
            return (jax.scipy.stats.norm.cdf(noise) < p).astype(p.dtype)
        return p

    return label


def mean_loss(s: GameSettings, reward: Callable[[Array], Array], follower: Follower) -> Array:
    """Return the reward model's mean loss on its data.

        utilities     (r(y) - U)^2
        preferences   log(1 + exp(m)) - p m,   m = r(y) - r(y')

    Args:
        s: settings.
        reward: r of one action.
        follower: holds the data; its empty rows do not count.
    """
    r = jax.vmap(reward)(follower.actions)
    if s.pairwise:
        margin = r - jax.vmap(reward)(follower.references)
        terms = jnp.logaddexp(margin, 0.0) - follower.labels * margin
    else:
        terms = (r - follower.labels) ** 2
    return jnp.sum(follower.present * terms) / jnp.maximum(jnp.sum(follower.present), 1.0)


def with_values(s: Any, values: Mapping[str, Any]) -> Any:
    """Return settings with other values, traced numbers among them: they were checked before and are not here."""
    made = copy.copy(s)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def load_game(text: str) -> Game:
    """Run FILE.py and return the game NAME; raises ConfigError as `load_from_file`."""
    game: Game = load_from_file("game", text, "Game", lambda value: isinstance(value, Game))
    return game
