"""How the reward model learns from its pairs: with a memory, drawn back to its start, or until it stops improving."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.alignment.follower import Follower, partition
from foresighted.alignment.run import train
from foresighted.errors import ConfigError
from foresighted.labels.pair import Pair
from foresighted.models.learner import reward_model_learner
from foresighted.models.loading import load_reward_model
from foresighted.settings.train import FEWEST
from foresighted.store import records
from foresighted.store.rows import read

pytestmark = pytest.mark.slow


def _follower(tiny, **changes):
    config = replace(tiny, reward_model_learning_rate=1e-2, **changes)
    model = load_reward_model(config, torch.device("cpu"))
    return Follower(model, reward_model_learner(model.trainable(), config), config=config)


def _pairs(follower, count, first=0):
    made = [Pair(f"{i}", "Why?", f"because {i}", "no", label=float(i % 3 > 0)) for i in range(first, first + count)]
    for pair in made:
        pair.features = follower.reward_model.features(["Why?", "Why?"], [pair.first, pair.second])
    return made


def _weights(follower):
    return torch.cat([p.detach().flatten() for p in follower.learner.parameters.values()])


def test_it_learns_from_what_it_remembers(tiny):
    forgetful, mindful = _follower(tiny), _follower(tiny, reward_model_buffer=-1)
    losses = []
    for follower in (forgetful, mindful):
        pairs = _pairs(follower, 8)
        follower.buffer.add(pairs[:4], read=4)
        follower.update()
        follower.buffer.add(pairs[4:], read=4)
        losses.append(follower.update())
        assert follower.buffer.counts.labels_trained == 8  # each label counts once
    assert [len(follower.buffer.kept) for follower in (forgetful, mindful)] == [0, 8]
    assert losses[0] != losses[1]  # of 4 pairs, and of 8


def test_distance_from_the_start_costs(tiny):
    free, held = _follower(tiny), _follower(tiny, reward_model_l2=100.0)
    start = _weights(free)
    for follower in (free, held):
        for _ in range(20):
            follower.learn(_pairs(follower, 4))
    assert float((_weights(held) - start).norm()) < 0.7 * float((_weights(free) - start).norm())


def test_auto_stops_where_held_back_pairs_are_read_best(tiny):
    follower = _follower(tiny, reward_model_steps="auto", reward_model_buffer=-1)
    pairs = _pairs(follower, 60)
    held, rest = partition(pairs)
    assert 0 < len(held) < 20
    assert len(held) + len(rest) == 60
    before = follower._fit_to(held).now()
    follower.buffer.add(pairs, read=60)
    assert follower.update() is not None
    best = follower._fit_to(held).now()
    assert best <= before
    for _ in range(3):  # each further step from here is no better, or auto would have taken it
        follower._learn(follower._fit_to(rest), 1)
    assert follower._fit_to(held).now() >= best - 1e-3


def test_auto_with_few_pairs_takes_one_step_and_says_so(tiny, caplog):
    auto, one = _follower(tiny, reward_model_steps="auto", reward_model_buffer=-1), _follower(tiny)
    caplog.clear()
    for follower in (auto, one):
        for _ in range(2):
            follower.learn(_pairs(follower, FEWEST - 1))
    assert caplog.text.count("auto takes one step while an update has fewer than 10 pairs") == 1
    assert torch.equal(_weights(auto), _weights(one))


@pytest.mark.parametrize("trained", ["head", "all"])
def test_a_run_with_a_memory_goes_on_to_the_same_bits(tiny, tmp_path, trained):
    config = replace(
        tiny, rounds=3, reward_model_train=trained, reward_model_buffer=-1, reward_model_steps="auto",
        reward_model_l2=1e-2, initial_pairs=12,
    )  # fmt: skip  # one field a line says no more
    train(config, tmp_path / "whole")
    train(replace(config, rounds=2), tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    for name in (records.CANDIDATES, records.ROUNDS, records.HELDOUT, "policy/adapter_model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    assert len(read(tmp_path / "whole" / records.ROUNDS, records.RoundRow)) == 3


def test_auto_that_never_has_enough_pairs_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"reward_model_steps: auto .* never has more than 2; raise"):
        replace(tiny, reward_model_steps="auto")
    assert replace(tiny, reward_model_steps="auto", reward_model_buffer=8).fit.steps == "auto"
