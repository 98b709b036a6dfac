from __future__ import annotations

import math

import pytest
import torch

from foresighted.errors import ConfigError, ModelError
from foresighted.labels.asking import load_labels
from foresighted.labels.labellers import (
    GoldRewardLabels,
    LikelihoodLabels,
    RelevanceLabels,
    added,
    knows_utility,
    one_by_one,
)
from foresighted.texts import repetition
from foresighted.types import Labeller, Utility

PROMPTS = ["Why is the sky blue?", "What is rain?"]
FIRST, SECOND = ["Air scatters light.", "Water falls."], ["It is.", "Rain rain rain rain."]


@pytest.fixture(params=["likelihood", "gold", "relevance", "callable"])
def labeller(request, players):
    policy, reward_model, _ = players
    return {
        "likelihood": lambda: LikelihoodLabels(policy),
        "gold": lambda: GoldRewardLabels(reward_model),
        "relevance": lambda: RelevanceLabels(policy, torch.device("cpu")),
        "callable": lambda: one_by_one(lambda prompt, a, b: len(a) / (len(a) + len(b))),
    }[request.param]()


def test_contract_of_every_labeller(labeller):
    """One preference a row, in [0, 1], antisymmetric, and sigmoid of the utility difference where there is one."""
    assert isinstance(labeller, Labeller)
    forth, back = labeller(PROMPTS, FIRST, SECOND), labeller(PROMPTS, SECOND, FIRST)
    assert len(forth) == 2
    assert all(0 <= p <= 1 for p in forth)
    assert [a + b for a, b in zip(forth, back, strict=True)] == pytest.approx([1, 1], abs=1e-5)
    if isinstance(labeller, Utility):
        u, v = labeller.utility(PROMPTS, FIRST), labeller.utility(PROMPTS, SECOND)
        assert forth == pytest.approx([1 / (1 + math.exp(b - a)) for a, b in zip(u, v, strict=True)], abs=1e-5)


def test_likelihood_is_the_clipped_mean_of_the_frozen_policy(players):
    policy, *_ = players
    rollout = policy.encode_responses(FIRST)
    mean = policy.log_likelihood(PROMPTS, rollout, frozen=True) / torch.tensor(rollout.lengths())
    assert LikelihoodLabels(policy).utility(PROMPTS, FIRST) == pytest.approx((mean + 5).clamp(-15, 5).tolist())


def test_only_what_an_answer_adds_is_relevant():
    assert (
        added("Is Northern Ireland part of England?", "Northern Ireland is part of the United Kingdom.")
        == "the united kingdom"
    )
    assert added("What is rain?", "What is rain? Rain is what?") == ""
    assert added("Why does ice float?", "Ice floats, it is floating.") == "it is"
    assert added("Does a plant move?", "A plane moves on the planet") == "plane on the planet"
    assert repetition("it is it is it is") == pytest.approx(0.6)
    assert repetition("a plain answer") == 0.0
    assert repetition("") == 0.0


@pytest.mark.slow
def test_the_embedded_policy_speaks_and_by_it_echo_and_repetition_do_not_pay():
    from foresighted.models.loading import load_policy
    from foresighted.settings import TrainConfig

    config = TrainConfig()
    device = torch.device("cpu")
    policy = load_policy(config, device)
    said = policy.sample(["What is the capital of France?"], 4, [1, 2, 3, 4]).texts
    assert any("Paris" in answer for answer in said)
    labels = RelevanceLabels(policy, device)
    prompts = ["Is Northern Ireland part of England?"] * 4
    answers = [
        "No, Northern Ireland is part of the United Kingdom, not of England.",
        "Northern Ireland is part of England is a part of England is a part of England.",
        "Kingdom state sovereign country United island Britain London Belfast",
        "I like cheese and long walks on the beach with friends.",
    ]
    sound, *gamed = labels.utility(prompts, answers)
    assert sound > max(gamed) + 1


def test_a_function_in_a_file(tmp_path, tiny, players):
    from dataclasses import replace

    path = tmp_path / "mine.py"
    path.write_text("def shorter(prompt, first, second):\n    return 1.0 if len(first) < len(second) else 0.0\n")
    policy, *_ = players
    source = load_labels(replace(tiny, labels=f"{path}:shorter"), policy, torch.device("cpu"))
    assert source.preferences(["p", "p"], ["a", "aaa"], ["bb", "bb"]) == [1.0, 0.0]
    assert source.utility(["p", "p"], ["a", "aaa"]) == [None, None]
    path.write_text(
        "class Shorter:\n"
        "    def utility(self, prompts, responses):\n        return [-len(r) for r in responses]\n"
        "    def __call__(self, prompts, first, second):\n"
        "        return [float(len(a) < len(b)) for a, b in zip(first, second)]\n"
        "shorter = Shorter()\n"
    )
    own = load_labels(replace(tiny, labels=f"{path}:shorter"), policy, torch.device("cpu"))
    assert (own.preferences(["p"], ["a"], ["bb"]), own.utility(["p"], ["a"])) == ([1.0], [-1.0])
    with pytest.raises(ModelError, match="no trained head"):
        load_labels(replace(tiny, labels="reward:embedded"), policy, torch.device("cpu"))
    (tmp_path / "bad.py").write_text("import sys\nsys.exit(4)\n")
    for labels, words in [
        (f"{tmp_path / 'bad.py'}:f", "^labels: .*bad.py fails with SystemExit: 4"),
        (f"{path}:longer", "no function 'longer'"),
        ("/no/file.py:f", "no file"),
        ("liklihood", "expected"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load_labels(replace(tiny, labels=labels), policy, torch.device("cpu"))


def test_who_knows_a_utility_is_known_before_anything_is_loaded(tmp_path):
    path = tmp_path / "judge.py"
    path.write_text(
        "def prefer(prompt, first, second):\n    return 0.5\n\n\nclass Gold:\n"
        "    def utility(self, prompts, responses):\n        return [0.0] * len(prompts)\n\n"
        "    def __call__(self, prompts, first, second):\n        return [0.5] * len(prompts)\n\n\ngold = Gold()\n"
    )
    assert all(knows_utility(name) for name in ("relevance", "likelihood", "reward:model.py:x", f"{path}:gold"))
    assert not knows_utility(f"{path}:prefer")
    assert not knows_utility("object:judge", one_by_one(lambda prompt, first, second: 0.5))
    with pytest.raises(ConfigError, match="labels: "):
        knows_utility(f"{path}:prefr")
