"""A third game: 64 discrete responses, a softmax policy, a Bradley-Terry reward model that sees 8 of 12 features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from foresighted.games import Follower, Game, GameSettings, Observation
from foresighted.games.game import mean_loss
from foresighted.games.settings import setting

RESPONSES, FEATURES, SEEN = 64, 12, 8
_random = np.random.default_rng(0)
TABLE = _random.normal(size=(RESPONSES, FEATURES))
UTILITY = TABLE @ _random.normal(size=FEATURES)  # depends on four features that the reward model cannot see


@dataclass(frozen=True)
class BanditSettings(GameSettings):
    """Settings: what all games have, and what is this game's own."""

    iterations: int = setting(300, "game", "rounds", low=1)
    labels: Literal["preference", "sampled"] = setting("sampled", "labels", "preference or sampled")
    labels_per_round: int = setting(4, "baselines", "labels that the reward model gets in a round", low=1)
    kl: float = setting(0.05, "baselines", "beta: the leader pays beta KL(policy | uniform)", low=0)
    policy_step: float = setting(0.5, "policy", "step of the logits", above=0)
    reward_model_step: float = setting(0.05, "reward model", "step of the reward model", above=0)


def start_draws(s, seed, member):
    """Random numbers of the start: NumPy, from the seed alone."""
    return np.random.default_rng([seed, 0, member]).normal(size=SEEN)


def round_draws(s, seed):
    """Random numbers of all rounds."""
    random = np.random.default_rng([seed, 1])
    shape = (s.iterations, s.labels_per_round)
    draws = {"pick": random.uniform(size=shape), "reference": random.integers(RESPONSES, size=shape)}
    return draws | {"label": random.normal(size=shape), "leader_label": random.normal(size=(s.iterations, RESPONSES))}


def start(s, draws):
    """An action is a one-hot row; the leader holds logits."""
    rows, none = jnp.zeros((s.labels_per_round, RESPONSES)), jnp.zeros(s.labels_per_round)
    return jnp.zeros(RESPONSES), Follower(0.3 * draws, (), rows, rows, none, none)


def utility(s, action):
    """U of a response, or of a mixture of responses."""
    return action @ jnp.asarray(UTILITY, action.dtype)


def reward(s, weights, action):
    """r, linear in the features that the reward model sees."""
    return weights @ (action @ jnp.asarray(TABLE[:, :SEEN], action.dtype))


def leader_step(s, logits, score, draws, t):
    """One step of exact policy gradient; every response is scored, against the mean response of the first policy."""
    actions = jnp.eye(RESPONSES)
    scores = jax.lax.stop_gradient(score(actions, jnp.full_like(actions, 1 / RESPONSES), draws["leader_label"]))

    def objective(logits):
        log_policy = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(log_policy) * (scores - s.kl * (log_policy + jnp.log(RESPONSES))))

    return logits + s.policy_step * jax.grad(objective)(logits)


def follower_step(s, follower, logits, label, draws, t):
    """Label responses of the policy against responses of the first policy; one step on the Bradley-Terry loss."""
    below = jnp.cumsum(jax.nn.softmax(logits)) < draws["pick"][:, None]
    actions = jax.nn.one_hot(jnp.minimum(below.sum(axis=1), RESPONSES - 1), RESPONSES)
    references = jax.nn.one_hot(draws["reference"].astype(int), RESPONSES)
    labels = jax.vmap(label)(actions, references, draws["label"])
    data = Follower(follower.weights, (), actions, references, labels, jnp.ones_like(labels))
    slope = jax.grad(lambda w: mean_loss(s, lambda y: reward(s, w, y), data))(follower.weights)
    return data._replace(weights=follower.weights - s.reward_model_step * slope)


def observe(s, logits, proxy):
    """Signal: probability of the eight best responses. Noise: KL from the first policy, in nats."""
    policy = jax.nn.softmax(logits)
    best = jnp.sum(policy[np.argsort(UTILITY)[-8:]])
    kl = jnp.sum(policy * (jax.nn.log_softmax(logits) + jnp.log(RESPONSES)))
    return Observation(utility(s, policy), proxy(policy), best, kl, policy)


BANDIT = Game(
    "bandit", BanditSettings, start_draws, round_draws, start, utility, reward, leader_step, follower_step, observe,
    gammas={"practical": 0.1, "relaxed": 1.0, "proximal": 1.0}, actions_scored=lambda s: RESPONSES,
)  # fmt: skip
