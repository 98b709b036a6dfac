from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from foresighted.errors import ConfigError, NumericalError
from foresighted.influence import naive_gradients
from foresighted.influence.curvature import (
    AdamW,
    Descent,
    adamw_metric,
    adamw_state,
    conjugate_gradients,
    solved_products,
    unrolled_penalties,
)
from foresighted.steering import kernels, pairwise

pytestmark = pytest.mark.slow

B, N = 2, 3
LABELS = torch.tensor([[0.9, 0.1, 0.4], [0.2, 1.0, 0.7]], dtype=torch.float64)


def _system(size=12, low=0.1, high=3.0):
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    values = torch.linspace(low, high, size, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, torch.randn(size, generator=generator, dtype=torch.float64)


def test_conjugate_gradients_solve_and_say_how_long_they_took():
    matrix, right = _system()
    solution = conjugate_gradients(lambda v: matrix @ v, right, tolerance=1e-12)
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, right))
    assert 1 <= solution.iterations <= 13
    assert solution.residual <= 1e-12
    assert conjugate_gradients(lambda v: matrix @ v, torch.zeros(12)).iterations == 0


def test_conjugate_gradients_that_do_not_converge_or_meet_a_negative_curvature_say_so():
    matrix, right = _system(low=1e-6)
    with pytest.raises(NumericalError, match=r"3 iterations.*1e-12; raise the damping"):
        conjugate_gradients(lambda v: matrix @ v, right, tolerance=1e-12, iterations=3)
    with pytest.raises(NumericalError, match=r"Hessian: curvature .* after damping, must be above 0"):
        conjugate_gradients(lambda v: (matrix - torch.eye(12)) @ v, right)


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
@pytest.mark.parametrize(
    ("family", "scope"), [("BERT", "head:2"), ("Llama", "head"), ("Llama", "head:2"), ("DeBERTa-v3", "head:2")]
)
def test_solved_products_equal_dense_algebra(models, family, scope, curvature):
    model, inputs = models.build(family, hidden_size=16, intermediate_size=24), models.batch()
    damping = 3.0  # above the most negative eigenvalue of these random models' Hessians
    rewards, g = naive_gradients(model, inputs, scope=scope)
    g = g.view(B, N + 1, -1)
    d = (g[:, :-1] - g[:, -1:]).flatten(0, 1)
    matrix = _dense_hessian(model, inputs, scope) if curvature == "hessian" else _dense_gauss_newton(rewards, d)
    solved = torch.linalg.solve(matrix + damping * torch.eye(d.shape[1]), d.T).T
    for influence in ("self", "batch"):

        def asked(own, influence=influence):
            return own if influence == "self" else own.mean(0).expand_as(own)

        ours = partial(
            solved_products, model, inputs, LABELS, prompts=B, scope=scope, damping=damping, influence=influence,
            curvature=curvature, tolerance=1e-10,
        )  # fmt: skip
        got, iterations = ours()
        want = (asked(g[:, :-1].flatten(0, 1)) * solved).sum(1)
        torch.testing.assert_close(got.flatten(), want, rtol=1e-6, atol=1e-8)
        assert iterations >= 1
        if scope == "head":  # a linear head: the Hessian is the Gauss-Newton matrix, and the kernel form is the same
            paid, _ = ours(paid="margin")
            torch.testing.assert_close(paid.flatten(), (asked(d) * solved).sum(1), rtol=1e-6, atol=1e-8)
            flat, margin = g.flatten(0, 1), _margins(rewards)
            kernel = kernels(flat @ flat.T, prompts=B, influence=influence)
            closed = pairwise.exact(kernel, margin, LABELS.flatten(), damping=damping)
            residual = margin.sigmoid() - LABELS.flatten()
            torch.testing.assert_close(got.flatten() * residual, closed, rtol=1e-6, atol=1e-8)


def _margins(rewards):
    rewards = rewards.view(B, N + 1)
    return (rewards[:, :-1] - rewards[:, -1:]).flatten()


def _dense_gauss_newton(rewards, d):
    p = _margins(rewards).sigmoid()
    return (d * (p * (1 - p) / len(p))[:, None]).T @ d


def _dense_hessian(model, inputs, scope):
    from torch.func import functional_call

    from foresighted.influence import select

    parameters = select(model, scope)
    shapes = [p.shape for p in parameters.values()]

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(parameters, parts, shapes, strict=True)}
        margin = _margins(functional_call(model, values, kwargs=dict(inputs)).logits[:, 0])
        return torch.nn.functional.binary_cross_entropy_with_logits(margin, LABELS.flatten())

    with sdpa_kernel(SDPBackend.MATH):
        flat = torch.cat([p.detach().flatten() for p in parameters.values()])
        return torch.autograd.functional.hessian(loss, flat, vectorize=True)


def _linear():
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(B, N + 1, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, generator=generator, dtype=torch.float64)
    return features, {"w": weight}, lambda parameters: features @ parameters["w"]


def test_one_plain_step_is_relaxed_and_many_are_exact():
    features, start, rewards = _linear()
    flat = features.flatten(0, 1)
    batch = kernels((flat @ flat.T).numpy(), prompts=B)
    margin = (rewards(start)[:, :-1] - rewards(start)[:, -1:]).flatten().numpy()
    one = unrolled_penalties(rewards, start, LABELS, Descent(0.3), steps=1)
    relaxed = pairwise.relaxed(batch.products().gram, margin, LABELS.flatten().numpy(), gamma=0.3)
    torch.testing.assert_close(one.flatten(), torch.tensor(relaxed))
    for influence, paid in itertools.product(("self", "batch"), ("reward", "margin")):
        batch = kernels((flat @ flat.T).numpy(), prompts=B, influence=influence, paid=paid)
        ours = unrolled_penalties(rewards, start, LABELS, Descent(0.3), steps=7, influence=influence, paid=paid)
        theirs = pairwise.unrolled(batch, margin, LABELS.flatten().numpy(), steps=7, rate=0.3)
        torch.testing.assert_close(ours.flatten(), torch.tensor(theirs))


def test_the_differentiable_adamw_takes_the_steps_of_torchs_own():
    features, start, _ = _linear()
    parameter = torch.nn.Parameter(start["w"].clone())
    optimizer = torch.optim.AdamW([parameter], lr=0.05, weight_decay=0.0)
    state: AdamW = adamw_state(optimizer, {"w": parameter})
    ours = {"w": start["w"].clone()}
    for step in range(6):
        for value in (parameter, ours["w"].requires_grad_()):
            scored = features @ value
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scored[:, :-1] - scored[:, -1:], LABELS)
            (gradient,) = torch.autograd.grad(loss, value)
            if value is parameter:
                parameter.grad = gradient
                optimizer.step()
            else:
                ours, state = state.update({"w": value.detach()}, {"w": gradient})
        torch.testing.assert_close(ours["w"], parameter.detach())
        if step == 2:  # a state that is read in the middle goes on from there
            state = adamw_state(optimizer, {"w": parameter})
    metric = adamw_metric(optimizer, {"w": parameter})["w"]
    torch.testing.assert_close(metric, 1 / ((state.square["w"] / (1 - 0.999**6)).sqrt() + 1e-8))


def test_bad_unrolling_is_named():
    _, start, rewards = _linear()
    with pytest.raises(ConfigError, match="steps: got 0"):
        unrolled_penalties(rewards, start, LABELS, Descent(0.3), steps=0)
    with pytest.raises(NumericalError, match="diverge; lower its learning rate"):
        unrolled_penalties(rewards, start, LABELS, Descent(torch.inf), steps=3)
    parameter = torch.nn.Parameter(start["w"])
    with pytest.raises(ConfigError, match=r"weight decay 0\.01"):
        adamw_state(torch.optim.AdamW([parameter]), {"w": parameter})
