from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from foresighted.games import NETWORK, NetworkSettings, simulate

pytestmark = pytest.mark.slow

SHORT = NetworkSettings(iterations=12, float64=True)


def published_rounds(s: NetworkSettings, form: str, gamma: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The network game in torch, one seed, autograd through per-weight gradients: mean action and proxy by round."""
    start, draws = NETWORK.start_draws(s, seed, 0), NETWORK.round_draws(s, seed)
    weights = []
    for w in start:
        weights += [torch.tensor(s.initial_noise * w), torch.zeros(w.shape[:-1], dtype=torch.float64)]
    for tensor in weights:
        tensor.requires_grad_()
    optimiser = torch.optim.Adam(weights, lr=s.reward_model_step, weight_decay=s.reward_model_decay)
    ideal = torch.tensor([s.ideal if k < s.signal_dimension else 0.0 for k in range(s.dimension)])

    def utility(y):
        return s.utility_height * torch.exp(-s.utility_sharpness * ((y - ideal) ** 2).sum(-1))

    def reward(y):
        w1, b1, w2, b2, w3, b3 = weights
        soft = torch.nn.functional.softplus
        return soft(soft(y @ w1.T + b1) @ w2.T + b2) @ w3 + b3

    theta = torch.zeros(s.dimension, dtype=torch.float64, requires_grad=True)
    seen, proxy, actions = [], [], torch.zeros((0, s.dimension), dtype=torch.float64)
    for t in range(s.iterations):
        falling = 1 - (t / s.iterations) ** s.decay_power
        sigma = s.final_sigma + (s.sigma - s.final_sigma) * falling
        rate = s.final_policy_step + (s.policy_step - s.final_policy_step) * falling
        for k in range(s.inner_steps):
            y = theta + sigma * torch.tensor(draws["policy"][t, k, 0].astype(np.float64))
            r = reward(y)
            norm = sum((g**2).sum() for g in torch.autograd.grad(r, weights, create_graph=True))
            error = {"rlhf": 0.0, "practical": 1.0, "relaxed": r - utility(y).detach()}
            penalty = gamma * norm * (r - utility(y).detach()) / (1 + gamma * norm) if form == "proximal" else 0.0
            penalty = penalty if form == "proximal" else gamma * error[form] * norm
            (slope,) = torch.autograd.grad(r - s.action_cost * (y**2).sum() - penalty, theta)
            theta.data += rate * slope.clamp(-s.gradient_clip, s.gradient_clip)
        seen.append(theta.detach().numpy().copy())
        proxy.append(float(reward(theta).detach()))
        new = theta.detach() + sigma * torch.tensor(draws["follower"][t].astype(np.float64))
        actions = torch.cat([actions, new])[-s.buffer_size :]
        optimiser.zero_grad()
        ((reward(actions) - utility(actions)) ** 2).mean().backward()
        optimiser.step()
    return np.array(seen), np.array(proxy)


def test_equals_the_naive_game_in_torch():
    arms = {"rlhf": 0.0, "practical": 0.005, "relaxed": 0.005, "proximal": 0.05}
    found = simulate(NETWORK, tuple(arms), [3], SHORT)
    for i, (form, gamma) in enumerate(arms.items()):
        action, proxy = published_rounds(SHORT, form, gamma, 3)
        np.testing.assert_allclose(found.action[i, 0, 1:], action, rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.proxy_reward[i, 0, 1:], proxy, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_fast_norm_equals_the_gradient_of_every_weight(scale):
    s = NetworkSettings()
    with jax.enable_x64(True):
        weights = [(jnp.asarray(scale * w), jnp.ones(w.shape[:-1])) for w in NETWORK.start_draws(s, 0, 0)]
        y = jnp.linspace(-1.0, 2.0, s.dimension)
        r, norm = NETWORK.reward_and_norm(s, weights, y)
        value, slope = jax.value_and_grad(lambda w: NETWORK.reward(s, w, y))(weights)
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(slope))
    np.testing.assert_allclose([r, norm], [value, squares], rtol=1e-12)


def test_softplus_has_the_right_derivatives():
    from foresighted.games.network import _softplus

    with jax.enable_x64(True):
        z = jnp.asarray([-40.0, -2.0, 0.0, 0.5, 30.0])
        np.testing.assert_allclose(_softplus(z)[0], jnp.logaddexp(z, 0.0), rtol=1e-12)
        for order in (lambda f: jax.grad(f), lambda f: jax.grad(jax.grad(f))):
            ours = jax.vmap(order(lambda x: _softplus(x)[0]))(z)
            np.testing.assert_allclose(ours, jax.vmap(order(jax.nn.softplus))(z), rtol=1e-9, atol=1e-14)


def test_settings_do_not_shift_each_other_s_noise():
    plain = NETWORK.round_draws(NetworkSettings(iterations=5), 0)
    noisy = NETWORK.round_draws(NetworkSettings(iterations=5, labels="sampled", labels_per_round=7), 0)
    np.testing.assert_array_equal(plain["policy"], noisy["policy"])
    assert noisy["follower"].shape == (5, 7, 10)
    assert plain["policy_label"] is None
