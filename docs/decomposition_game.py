"""A Stackelberg game small enough to differentiate through completely; docs/decomposition.py measures on it.

B prompts with N responses each, fixed features, a softmax policy with free logits, a linear reward model with a ridge.
The follower is trained to its optimum, so the leader's total derivative can be taken by finite differences alone,
with no formula of docs/steering.md in it. `tests/steering/test_decomposition.py` holds the formulas against it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foresighted.steering import Influence, Kernels, pairwise, pointwise

Array = NDArray[np.float64]

PROMPTS, RESPONSES, FEATURES = 2, 6, 4
SPREAD_OF_UTILITY = 2.0
DAMPING = 0.01
BETA = 0.1
LOSSES = {"pointwise": pointwise, "pairwise": pairwise}
"""The forms of a loss."""


class Game(NamedTuple):
    """One game. Responses are flat and prompt-major, n = B N of them; each prompt also has a fixed reference."""

    loss: Literal["pointwise", "pairwise"]
    paid: Array
    """The leader is paid `paid @ phi`: features f of the response, or f - f' for its margin. Shape n D."""
    directions: Array
    """The loss of a response is a function of `directions @ phi`: f (pointwise), f - f' (pairwise). Shape n D."""
    label: Array
    """U (pointwise), or s(U - U') (pairwise). Shape n."""
    logits: Array
    """Of the policy, shape B N."""
    reference_logits: Array
    """Of the reference policy, shape B N."""


def make_game(
    seed: int, loss: Literal["pointwise", "pairwise"], *, paid: Literal["reward", "margin"], well_specified: bool
) -> Game:
    """Draw a game. The policy is the reference policy after one KL-regularised update on its reward model.

    Args:
        seed: of features, utility and reference policy.
        loss: of the reward model.
        paid: what the leader is paid, r(y) or r(y) - r(y').
        well_specified: U is linear in the features (the reward model can be right), or free of them.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(PROMPTS, RESPONSES + 1, FEATURES))
    taste = rng.normal(size=FEATURES)
    free = SPREAD_OF_UTILITY * rng.normal(size=(PROMPTS, RESPONSES + 1))
    utility = features @ taste * SPREAD_OF_UTILITY / np.sqrt(FEATURES) if well_specified else free
    own, against = features[:, :-1].reshape(-1, FEATURES), (features[:, :-1] - features[:, -1:]).reshape(-1, FEATURES)
    preference = pairwise.sigmoid(utility[:, :-1] - utility[:, -1:])
    reference_logits = rng.normal(size=(PROMPTS, RESPONSES))
    game = Game(
        loss,
        own if paid == "reward" else against,
        own if loss == "pointwise" else against,
        (utility[:, :-1] if loss == "pointwise" else preference).reshape(-1),
        reference_logits,
        reference_logits,
    )
    first = optimum(game, share(reference_logits))
    return game._replace(logits=reference_logits + (game.paid @ first).reshape(PROMPTS, RESPONSES))


def share(logits: Array) -> Array:
    """Return pi(y | x) / B of each response: its weight in every expectation. Shape n."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).reshape(-1) / PROMPTS


def slopes(game: Game, phi: Array) -> tuple[Array, Array]:
    """Return first and second derivative of each response's loss in its reward or margin."""
    value = game.directions @ phi
    if game.loss == "pointwise":
        return value - game.label, np.ones_like(value)
    p = pairwise.sigmoid(value)
    return p - game.label, p * (1 - p)


def gradient_and_hessian(game: Game, weights: Array, phi: Array) -> tuple[Array, Array]:
    """Return those of L = sum_k w_k l_k + damping / 2 |phi|^2."""
    first, second = slopes(game, phi)
    gradient = game.directions.T @ (weights * first) + DAMPING * phi
    return gradient, (game.directions.T * (weights * second)) @ game.directions + DAMPING * np.eye(FEATURES)


def optimum(game: Game, weights: Array, start: Array | None = None) -> Array:
    """Return phi* for data with these weights, by Newton's method to the last bits."""
    phi = np.zeros(FEATURES) if start is None else start
    for _ in range(200):
        step = np.linalg.solve(*gradient_and_hessian(game, weights, phi)[::-1])
        size = np.abs(step).max()
        phi = phi - step * min(1.0, 2.0 / max(size, 1e-300))  # far out a full step can overshoot
        if size < 1e-13:
            return phi
    raise RuntimeError("the follower did not reach its optimum")


def unfinished(game: Game, weights: Array, *, steps: int) -> Array:
    """Return phi after a few gradient steps from 0, each of the size 1 / (largest eigenvalue of H)."""
    phi = np.zeros(FEATURES)
    for _ in range(steps):
        gradient, hessian = gradient_and_hessian(game, weights, phi)
        phi = phi - gradient / np.linalg.eigvalsh(hessian)[-1]
    return phi


def objective(game: Game, logits: Array, phi: Array) -> float:
    """Return J = E[paid] - beta KL(pi | pi_ref), a mean over prompts."""
    return float(share(logits) @ payment(game, logits, phi))


def payment(game: Game, logits: Array, phi: Array) -> Array:
    """Return what the leader is paid for each response, the KL term included. Shape n."""
    return game.paid @ phi - BETA * np.log(share(logits) / share(game.reference_logits))


def score_gradient(logits: Array, score: Array) -> Array:
    """Return E[grad log pi(y) score(y)] in the logits.

    With J's payment as the score this is the policy gradient: the KL term has no other derivative.

    Args:
        logits: of the policy, shape B N.
        score: shape ... n.

    Returns:
        Shape ... n.
    """
    weights = share(logits)
    by_prompt = (*score.shape[:-1], PROMPTS, RESPONSES)
    mean = PROMPTS * (weights * score).reshape(by_prompt).sum(axis=-1, keepdims=True)
    return weights * (score.reshape(by_prompt) - mean).reshape(score.shape)


def total_derivative(game: Game, *, step: float = 1e-2) -> Array:
    """Return d J(theta, phi*(theta)) / d theta by central differences, extrapolated from two step sizes. Shape n."""
    at_rest = optimum(game, share(game.logits))

    def settled_objective(index: int, change: float) -> float:
        logits = game.logits.copy()
        logits.reshape(-1)[index] += change
        return objective(game, logits, optimum(game, share(logits), at_rest))

    def slope(index: int, width: float) -> float:
        return (settled_objective(index, width) - settled_objective(index, -width)) / (2 * width)

    return np.array([(4 * slope(i, step / 2) - slope(i, step)) / 3 for i in range(game.logits.size)])


def game_kernels(game: Game, influence: Influence) -> Kernels:
    """Return the kernels of all responses; `batch` tests on the policy's own mean, weighted with pi."""
    test = game.paid
    if influence == "batch":
        test = np.broadcast_to(share(game.logits) @ test, test.shape)
    return Kernels(test @ game.directions.T, game.directions @ game.directions.T)


def exact_penalty(game: Game, influence: Influence, phi: Array) -> Array:
    """Return the exact form's penalty of each response. Shape n."""
    forms, value = LOSSES[game.loss], game.directions @ phi
    kernels, weights = game_kernels(game, influence), share(game.logits)
    penalty: Array = forms.exact(kernels, value, game.label, damping=DAMPING, weights=weights)
    return penalty
