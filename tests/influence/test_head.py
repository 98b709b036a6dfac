"""The fast path (features) against the naive twin: one autograd call a response, over the head's parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.alignment.labels import Labels
from foresighted.alignment.loading import load_reward_model
from foresighted.alignment.policy import Rollout
from foresighted.alignment.round import penalties, score
from foresighted.errors import DataError
from foresighted.influence import head_products
from foresighted.records import ReferenceRow

PROMPTS = ["Why is the sky blue?", "What is rain?"]
TEXTS = ["Light scatters.", "Because of air", "It just is blue, blue, blue.", "Water falls", "Clouds cool down", "rain"]
REFERENCES = ["The air scatters blue light most.", "Rain is water that falls from clouds."]
LABELS = [0.9, 0.2, 0.5, 0.0, 1.0, 0.35]


def _naive_gradient(model, prompt: str, text: str) -> tuple[float, torch.Tensor]:
    reward = model.rewards(model.features_with_gradient([prompt], [text]))[0]
    parameters = list(model.head.parameters())
    gradient = torch.autograd.grad(reward, parameters)
    return float(reward.detach()), torch.cat([g.flatten() for g in gradient]).double()


def _naive_penalty(steering: str, gamma: float, g, g_ref, margin: float, label: float) -> float:
    s, spread = float(g @ (g - g_ref)), float((g - g_ref) @ (g - g_ref))
    if steering == "practical":
        return gamma * s
    sigmoid = lambda x: 1 / (1 + torch.exp(torch.tensor(-x, dtype=torch.float64)).item())  # noqa: E731
    if steering == "relaxed":
        return gamma * s * (sigmoid(margin) - label)
    low, high = margin - gamma * spread, margin + gamma * spread
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if middle - margin + gamma * spread * (sigmoid(middle) - label) < 0 else (low, middle)
        )
    return gamma * s * (sigmoid(low) - label)


@pytest.fixture(scope="module", params=["embedded", "tiny_deberta", "tiny_llama_reward"])
def reward_model(request, tiny):
    source = request.param if request.param == "embedded" else str(request.getfixturevalue(request.param))
    model = load_reward_model(replace(tiny, reward_model=source), torch.device("cpu"))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model


@pytest.mark.parametrize("steering", ["practical", "relaxed", "proximal"])
def test_penalty_equals_the_naive_twin(reward_model, tiny, steering):
    config = replace(tiny, steering=steering, gamma=0.3)
    references = [
        ReferenceRow(1, str(i), p, r, 5, 0.0) for i, (p, r) in enumerate(zip(PROMPTS, REFERENCES, strict=True))
    ]
    nothing = torch.zeros(len(TEXTS), 1, dtype=torch.long)
    scores = score(reward_model, references, Rollout(nothing, nothing, TEXTS))
    got = penalties(config, scores, Labels(LABELS, [None] * len(LABELS))).flatten()
    for i, text in enumerate(TEXTS):
        prompt, reference = PROMPTS[i // 3], REFERENCES[i // 3]
        r, g = _naive_gradient(reward_model, prompt, text)
        r_ref, g_ref = _naive_gradient(reward_model, prompt, reference)
        want = _naive_penalty(steering, 0.3, g, g_ref, r - r_ref, LABELS[i])
        assert float(got[i]) == pytest.approx(want, rel=1e-5, abs=1e-6), text


def test_rlhf_has_no_penalty(reward_model, tiny):
    references = [ReferenceRow(1, "0", PROMPTS[0], REFERENCES[0], 5, 0.0)]
    nothing = torch.zeros(3, 1, dtype=torch.long)
    scores = score(reward_model, references, Rollout(nothing, nothing, TEXTS[:3]))
    assert not penalties(replace(tiny, steering="rlhf"), scores, None).any()


def test_shapes_that_do_not_match_are_named():
    with pytest.raises(DataError, match=r"\(2, 3, 4\).*\(3, 4\)"):
        head_products(torch.zeros(2, 3, 4), torch.zeros(3, 4))
