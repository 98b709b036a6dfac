"""An ensemble of heads: each is what it would be alone, with first weights and pairs of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.alignment.ensemble import Ensemble, draws, first_weights
from foresighted.alignment.run import train
from foresighted.influence import bradley_terry
from foresighted.labels.pair import Pair
from foresighted.models.loading import load_reward_model
from foresighted.store import records
from foresighted.store.rows import read


def _pairs(model, count):
    made = [Pair(f"{i}", "Why?", f"because {i}", "no", label=float(i % 3 > 0)) for i in range(count)]
    for pair in made:
        pair.features = model.features(["Why?", "Why?"], [pair.first, pair.second])
    return made


@pytest.mark.slow
def test_heads_are_those_of_followers_apart(tiny):
    config = replace(tiny, ensemble=3, reward_model_steps=4, reward_model_l2=0.5, reward_model_learning_rate=1e-2)
    model = load_reward_model(config, torch.device("cpu"))
    loaded = model.head.weight.detach().clone()
    follower, pairs = Ensemble(model, config), _pairs(model, 6)
    first, counts = first_weights(model.head, 3, config.seed), draws(pairs, 3, config.seed)
    torch.testing.assert_close(first.mean(0, keepdim=True), loaded)  # together they begin as the loaded head
    follower.buffer.add(pairs, read=6)
    said = follower.update()
    losses, heads = [], []
    for k in range(3):
        start = first[k].clone()
        head = start.clone().requires_grad_()
        optimizer = torch.optim.AdamW([head], lr=1e-2, weight_decay=0.0)
        for step in range(4):
            own = 0.5 / 2 * (head - start).square().sum()
            for pair, count in zip(pairs, counts[:, k], strict=True):
                margin = (pair.features[0] - pair.features[1]) @ head
                own = own + count * bradley_terry(margin, torch.tensor(pair.label)) / 6
            losses += [float(own.detach())] if step == 0 else []
            optimizer.zero_grad()
            own.backward()
            optimizer.step()
        heads.append(head.detach())
    every = torch.stack(heads)
    torch.testing.assert_close(follower.learner.parameters["heads.weight"].detach(), every, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.head.weight[0], every.mean(0), rtol=1e-4, atol=1e-5)
    assert said == pytest.approx(sum(losses) / 3, rel=1e-5)
    features = torch.stack([pair.features for pair in pairs])
    rewards = torch.stack([features @ head for head in every])
    torch.testing.assert_close(follower.doubt(features), rewards.var(0, correction=0).sqrt(), rtol=1e-4, atol=1e-5)
    assert float(follower.doubt(features).min()) > 0


def test_each_head_learns_from_half_of_the_pairs_and_never_from_the_same():
    counts = draws([Pair(str(i), "?", "a", "b") for i in range(4000)], 4, 0)
    assert set(counts.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(counts, draws([Pair(str(i), "?", "a", "b") for i in range(4000)], 4, 0))
    together = torch.corrcoef(counts.T)
    assert float((counts.mean(0) - 1).abs().max()) < 0.06
    assert float((together - torch.eye(4)).abs().max()) < 0.06


@pytest.mark.slow
def test_a_run_with_an_ensemble_goes_on_to_the_same_bits(tiny, tmp_path):
    config = replace(
        tiny, rounds=4, ensemble=3, confidence=1.0, reward_model_buffer=-1, reward_model_steps="auto",
        reward_model_l2=1e-2, initial_pairs=12, reward_model_pairs="random",
    )  # fmt: skip  # one field a line says no more
    train(config, tmp_path / "whole")
    train(replace(config, rounds=2), tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    last = "checkpoints/round-000004/reward_model.safetensors"
    for name in (records.CANDIDATES, records.ROUNDS, records.HELDOUT, "policy/adapter_model.safetensors", last):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    rows = read(tmp_path / "whole" / records.CANDIDATES, records.CandidateRow)
    assert all(row.paid < row.reward for row in rows)  # heads that know as little as these differ about everything
    assert all(row.score == pytest.approx(row.paid - row.penalty, abs=1e-5) for row in rows)
    asked = replace(config, confidence=0.0, reward_model_pairs="disagreement", rounds=1)
    train(asked, tmp_path / "disputed", start=tmp_path / "whole" / "start" / "seed-0")
    first = read(tmp_path / "disputed" / records.CANDIDATES, records.CandidateRow)
    assert [sum(row.label is not None for row in first[i : i + 3]) for i in (0, 3)] == [1, 1]
    alone = replace(config, ensemble=1, confidence=0.0, rounds=1)
    train(alone, tmp_path / "alone", start=tmp_path / "whole" / "start" / "seed-0")  # one start serves both


@pytest.mark.slow
def test_what_heads_dispute_is_the_margin_that_a_label_is_about(tiny):
    config = replace(tiny, ensemble=3)
    heads = Ensemble(load_reward_model(config, torch.device("cpu")), config)
    features = torch.randn(2, 5, heads.reward_model.head.in_features)  # three candidates and two references
    rewards = torch.stack([features @ weight for weight in heads._heads.detach()])
    expected = (rewards[:, :, :3] - rewards[:, :, 3:4]).std(0, correction=0)
    assert torch.allclose(heads.dispute(features, 3), expected, atol=1e-5)
