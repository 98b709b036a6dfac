"""What the loop charges a candidate, against the naive twin: one autograd call a response, dense linear algebra."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch

from foresighted.alignment.foresight import Foresight
from foresighted.influence import naive_gradients
from foresighted.models.learner import reward_model_learner
from foresighted.models.loading import load_reward_model

pytestmark = pytest.mark.slow

PROMPTS = ["Why is the sky blue?", "What is rain?"]
TEXTS = ["Light scatters.", "Because of air", "It just is blue, blue, blue.", "Water falls", "Clouds cool down", "rain"]
REFERENCES = ["The air scatters blue light most.", "Rain is water that falls from clouds."]
LABELS = torch.tensor([[0.9, 0.2, 0.5], [0.0, 1.0, 0.35]])
SOURCES = ["embedded", "tiny_deberta", "tiny_llama_reward"]
B, N = LABELS.shape


@pytest.fixture(scope="module", params=SOURCES)
def source(request):
    return request.param if request.param == "embedded" else str(request.getfixturevalue(request.param))


def _players(tiny, source, reference="response", **changes):
    config = replace(tiny, reward_model=source, **{"gamma_unit": "raw", **changes})
    model = load_reward_model(config, torch.device("cpu"))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    learner = reward_model_learner(model.trainable(), config)
    prompts = [p for p in PROMPTS for _ in range(N)]

    def loss(index):
        sides = [prompts[i] for i in index], [TEXTS[i] for i in index], [REFERENCES[i // N] for i in index]
        return model.loss(*sides, LABELS.flatten()[index])

    learner.learn(len(TEXTS), loss, steps=3)  # AdamW has a state
    return config, model, Foresight(config, model, learner.optimizer, reference), learner, loss


def _forms(config, model, learner, forms, reference="response"):
    """Yield the form, the influence and what charges for it, for each of both on one model."""
    for form, influence in product(forms, ("self", "batch")):
        yield (
            form,
            influence,
            Foresight(replace(config, steering=form, influence=influence), model, learner.optimizer, reference),
        )


def _score(foresight):
    if foresight.reference == "leave-one-out":
        return foresight.score([p for p in PROMPTS for _ in range(N)], TEXTS, groups=B)
    prompts = [p for p in PROMPTS for _ in range(N + 1)]
    texts = [t for b in range(B) for t in (*TEXTS[b * N : (b + 1) * N], REFERENCES[b])]
    return foresight.score(prompts, texts, groups=B)


def _twin(model, scope):
    """Return rewards (B N), margins, g (B N P) and d = g - g' in float64."""
    prompts = [p for p in PROMPTS for _ in range(N + 1)]
    texts = [t for b in range(B) for t in (*TEXTS[b * N : (b + 1) * N], REFERENCES[b])]
    inputs = model.encode(prompts, texts)
    rewards, gradients = naive_gradients(model.network, inputs, scope=scope, forward=lambda i: model.network(**i))
    rewards, gradients = rewards.view(B, N + 1).double(), gradients.view(B, N + 1, -1).double()
    return (
        rewards[:, :-1], rewards[:, :-1] - rewards[:, -1:], gradients[:, :-1], gradients[:, :-1] - gradients[:, -1:],
    )  # fmt: skip


def _want(form, gamma, influence, margin, g, d, damping, paid="reward"):
    test = d if paid == "margin" else g
    test = test if influence == "self" else test.mean((0, 1)).expand_as(g)
    label = LABELS.double()
    s, spread = (test * d).sum(-1), d.square().sum(-1)
    if form == "practical":
        return gamma * s
    if form == "relaxed":
        return gamma * s * (margin.sigmoid() - label)
    if form == "proximal":
        low, high = margin - gamma * spread - 1, margin + gamma * spread + 1
        for _ in range(200):
            middle = (low + high) / 2
            above = middle - margin + gamma * spread * (middle.sigmoid() - label) > 0
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return gamma * s * (low.sigmoid() - label)
    flat = d.flatten(0, 1)
    bend = (margin.sigmoid() * (1 - margin.sigmoid())).flatten() / (B * N)
    hessian = (flat * bend[:, None]).T @ flat + damping * torch.eye(flat.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(hessian, flat.T).T.view_as(d)
    return gamma * (test * solved).sum(-1) * (margin.sigmoid() - label)


def test_penalty_from_features_equals_the_naive_twin(tiny, source):
    config, model, _, learner, _ = _players(tiny, source, steering="practical", gamma=0.3, damping=0.05)
    reward, margin, g, d = _twin(model, "head")
    for form, influence, foresight in _forms(config, model, learner, ["practical", "relaxed", "proximal", "exact"]):
        scores = _score(foresight)
        torch.testing.assert_close(scores.reward.double(), reward, rtol=1e-5, atol=1e-5)
        penalty = foresight.penalty(scores, LABELS)
        want = _want(form, 0.3, influence, margin, g, d, 0.05)
        torch.testing.assert_close(
            penalty.value.double(), want, rtol=1e-4, atol=2e-5, msg=partial("{} {}: {}".format, form, influence)
        )
        assert penalty.gamma == 0.3
        assert penalty.share is not None


@pytest.mark.parametrize(("scope", "train"), [("head:2", "all"), ("last:1", "all"), ("lora", "lora"), ("all", "all")])
def test_penalty_in_larger_scopes_equals_the_naive_twin(tiny, tiny_deberta, scope, train):
    changes = {"steering": "relaxed", "gamma": 0.3, "scope": scope, "reward_model_train": train}
    config, model, _, learner, _ = _players(tiny, str(tiny_deberta), **changes)
    _, margin, g, d = _twin(model, scope)
    for form, influence, foresight in _forms(config, model, learner, ["relaxed", "proximal"]):
        penalty = foresight.penalty(_score(foresight), LABELS)
        want = _want(form, 0.3, influence, margin, g, d, 0.0)
        torch.testing.assert_close(
            penalty.value.double(), want, rtol=1e-3, atol=1e-4, msg=partial("{} {}: {}".format, form, influence)
        )


@pytest.mark.parametrize(("forms", "scope"), [(["relaxed", "exact"], "head"), (["proximal"], "all")])
def test_a_policy_that_is_paid_the_margin(tiny, tiny_deberta, forms, scope):
    changes = {"steering": "relaxed", "gamma": 0.3, "paid": "margin", "damping": 0.05}
    train = {"scope": scope, "reward_model_train": "all" if scope == "all" else "head"}
    config, model, _, learner, _ = _players(tiny, str(tiny_deberta), **changes, **train)
    _, margin, g, d = _twin(model, scope)
    for form, influence, foresight in _forms(config, model, learner, forms):
        penalty = foresight.penalty(_score(foresight), LABELS)
        want = _want(form, 0.3, influence, margin, g, d, 0.05, "margin")
        torch.testing.assert_close(
            penalty.value.double(), want, rtol=1e-3, atol=1e-4, msg=partial("{} {}: {}".format, form, influence)
        )


def test_exact_by_kernel_and_by_conjugate_gradients_agree(tiny, tiny_deberta):
    changes = {"steering": "exact", "gamma": 1.0, "scope": "head:2", "reward_model_train": "all", "damping": 20.0}
    _, _, kernel, _, _ = _players(tiny, str(tiny_deberta), **changes)
    _, _, full, _, _ = _players(tiny, str(tiny_deberta), curvature="hessian", **changes)
    ours, theirs = (f.penalty(_score(f), LABELS).value for f in (kernel, full))
    assert bool((ours - theirs).abs().max() > 1e-6)  # the second-derivative part is there,
    torch.testing.assert_close(ours, theirs, rtol=0.1, atol=1e-3)  # and small before such a damping


@pytest.mark.parametrize("source_name", ["embedded", "tiny_deberta"])
@pytest.mark.parametrize("influence", ["self", "batch"])
def test_unrolled_is_the_derivative_of_the_real_optimisers_steps(tiny, request, source_name, influence):
    """Finite differences in a candidate's weight, each step taken by the loop's own AdamW."""
    name = source_name if source_name == "embedded" else str(request.getfixturevalue(source_name))
    changes = {
        "steering": "unrolled", "gamma": 1.0, "unrolled_steps": 3, "influence": influence,
        "reward_model_learning_rate": 1e-2,
    }  # fmt: skip
    _, model, foresight, learner, _ = _players(tiny, name, **changes)
    penalty = foresight.penalty(_score(foresight), LABELS).value
    prompts = [p for p in PROMPTS for _ in range(N)]
    features = model.features(prompts, TEXTS)
    reference = model.features(PROMPTS, REFERENCES).repeat_interleave(N, 0)
    kept = model.head.weight.detach().clone(), learner.state()
    kept_state = ({k: v.clone() for k, v in kept[1][0].items()}, dict(kept[1][1]))

    def after(weights):
        with torch.no_grad():
            model.head.weight.copy_(kept[0])
        learner.load_state(({k: v.clone() for k, v in kept_state[0].items()}, kept_state[1]))
        for _ in range(3):
            margin = model.rewards(features) - model.rewards(reference)
            each = torch.nn.functional.binary_cross_entropy_with_logits(margin, LABELS.flatten(), reduction="none")
            (each * weights).sum().backward()
            learner.optimizer.step()
            learner.optimizer.zero_grad()
        rewards = model.rewards(features).detach().double()
        return rewards if influence == "self" else rewards.mean().expand(len(TEXTS))

    size = 2e-2 / len(TEXTS)
    for i in range(len(TEXTS)):
        shift = torch.zeros(len(TEXTS))
        shift[i] = size
        slope = (after(1 / len(TEXTS) + shift)[i] - after(1 / len(TEXTS) - shift)[i]) / (2 * size)
        assert float(penalty.flatten()[i]) == pytest.approx(-float(slope), rel=2e-2, abs=2e-3)


def test_unrolled_through_the_whole_model_equals_that_through_its_head(tiny, tiny_deberta):
    changes = {"steering": "unrolled", "gamma": 1.0, "unrolled_steps": 2}
    _, _, features, _, _ = _players(tiny, str(tiny_deberta), **changes)
    _, _, whole, _, _ = _players(tiny, str(tiny_deberta), scope="head:1", **changes)
    torch.testing.assert_close(
        features.penalty(_score(features), LABELS).value, whole.penalty(_score(whole), LABELS).value,
        rtol=1e-3, atol=1e-5,
    )  # fmt: skip


def test_adamw_curvature_with_the_learning_rate_for_gamma_is_the_step_it_would_take(tiny, tiny_deberta):
    changes = {"steering": "exact", "gamma": 0.01, "curvature": "adamw"}
    _, model, foresight, learner, _ = _players(tiny, str(tiny_deberta), **changes)
    _, margin, g, d = _twin(model, "head")
    state = learner.optimizer.state[model.head.weight]
    root = (state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))).sqrt().flatten().double()
    weight = torch.cat([1 / (root + 1e-8), torch.zeros(g.shape[2] - len(root), dtype=torch.float64)])
    want = 0.01 * (g * weight * d).sum(-1) * (margin.sigmoid() - LABELS)
    got = foresight.penalty(_score(foresight), LABELS).value
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-5)
    _, _, whole, _, _ = _players(tiny, str(tiny_deberta), scope="head:1", **changes)
    torch.testing.assert_close(whole.penalty(_score(whole), LABELS).value, got, rtol=1e-3, atol=1e-5)


def test_gamma_as_a_share_of_the_rewards_spread(tiny, source):
    _, _, foresight, _, _ = _players(tiny, source, steering="practical", gamma=0.5, gamma_unit="share")
    scores = _score(foresight)
    penalty = foresight.penalty(scores, None)
    rewards, penalties = (x.var(-1, correction=0).mean().sqrt() for x in (scores.reward, penalty.value))
    assert float(penalties) == pytest.approx(0.5 * float(rewards), rel=1e-4)
    assert penalty.share == 0.5
    _, _, raw, _, _ = _players(tiny, source, steering="practical", gamma=penalty.gamma)
    again = raw.penalty(scores, None)
    torch.testing.assert_close(again.value, penalty.value)
    assert again.share == pytest.approx(0.5, rel=1e-4)


def test_rlhf_has_no_penalty(tiny, source):
    _, _, foresight, _, _ = _players(tiny, source, steering="rlhf")
    penalty = foresight.penalty(_score(foresight), None)
    assert not penalty.value.any()
    assert (penalty.gamma, penalty.share) == (0.0, None)


def test_a_scope_that_is_not_trained_is_said(tiny, tiny_deberta, caplog):
    _players(tiny, str(tiny_deberta), steering="relaxed", scope="all")
    assert any("parameters that reward_model_train=head does not train" in r.message for r in caplog.records)


def _twin_of_groups(model, scope):
    """Return margins, g and d = g - mean of the prompt's other g, in float64."""
    inputs = model.encode([p for p in PROMPTS for _ in range(N)], TEXTS)
    rewards, gradients = naive_gradients(model.network, inputs, scope=scope, forward=lambda i: model.network(**i))
    rewards, g = rewards.view(B, N).double(), gradients.view(B, N, -1).double()
    others = [[j for j in range(N) if j != i] for i in range(N)]
    margin = torch.stack([rewards[:, i] - rewards[:, rest].mean(1) for i, rest in enumerate(others)], 1)
    return margin, g, torch.stack([g[:, i] - g[:, rest].mean(1) for i, rest in enumerate(others)], 1)


@pytest.mark.parametrize("scope", ["head", "head:2"])
def test_penalty_against_the_other_candidates_equals_the_naive_twin(tiny, tiny_deberta, scope):
    train = "head" if scope == "head" else "all"
    changes = {"gamma": 0.3, "damping": 0.05, "scope": scope, "reward_model_train": train, "steering": "relaxed"}
    config, model, _, learner, _ = _players(tiny, str(tiny_deberta), "leave-one-out", **changes)
    margin, g, d = _twin_of_groups(model, scope)
    for paid, forms in (("margin", ["practical"]), ("reward", ["relaxed", "proximal", "exact"])):
        own = replace(config, paid=paid)
        for form, influence, foresight in _forms(own, model, learner, forms, "leave-one-out"):
            scores = _score(foresight)
            torch.testing.assert_close(scores.margin.double(), margin, rtol=1e-4, atol=1e-4)
            want, got = _want(form, 0.3, influence, margin, g, d, 0.05, paid), foresight.penalty(scores, LABELS).value
            torch.testing.assert_close(
                got.double(), want, rtol=1e-3, atol=1e-4, msg=partial("{} {}: {}".format, form, influence)
            )


@pytest.mark.parametrize("influence", ["self", "batch"])
def test_steps_and_solves_against_the_other_candidates_agree_across_scopes(tiny, tiny_deberta, influence):
    for changes in (
        {"steering": "unrolled", "unrolled_steps": 2},
        {"steering": "exact", "curvature": "hessian", "damping": 0.05},
        {"steering": "exact", "curvature": "adamw"},
    ):
        both = [
            _players(tiny, str(tiny_deberta), "leave-one-out", gamma=1.0, influence=influence, scope=scope, **changes)[
                2
            ]
            for scope in ("head", "head:1")
        ]
        features, whole = (foresight.penalty(_score(foresight), LABELS).value for foresight in both)
        assert bool(features.abs().max() > 1e-4)
        torch.testing.assert_close(features, whole, rtol=2e-3, atol=1e-4)
