"""A policy that begins anew, or goes back to where labels say that it was best: to the bit, and only then."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from foresighted.alignment import reset
from foresighted.alignment.reset import Resets, fallen, of_prompts
from foresighted.alignment.run import train
from foresighted.labels.pair import Pair, Place
from foresighted.models.learner import Learner
from foresighted.store import files, records
from foresighted.store.rows import read


@pytest.fixture
def learner():
    weights = {name: torch.nn.Parameter(torch.full((2, 3), value)) for name, value in (("a", 1.0), ("b", -2.0))}
    return Learner("policy", weights, torch.optim.AdamW(weights.values(), lr=0.1, weight_decay=0.0))


def _step(learner, number: int) -> dict[str, torch.Tensor]:
    """Take a step that depends on the number; return weights and optimiser afterwards."""
    learner.learn(1, lambda _: sum((number * p.cumsum(0).square()).sum() for p in learner.parameters.values()))
    return _of(learner)


def _of(learner) -> dict[str, torch.Tensor]:
    tensors, numbers = learner.state()
    assert not numbers
    return {name: value.detach().clone() for name, value in {**learner.parameters, **tensors}.items()}


def _same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _pairs(*labels: float | None) -> list[Pair]:
    return [Pair(str(i), "?", "yes", "no", label, place=Place(i, 0, None)) for i, label in enumerate(labels)]


def test_a_policy_begins_anew_before_every_round_after_k_others(tiny, learner):
    start = _of(learner)
    resets = Resets(replace(tiny, policy_reset_every=3), learner)
    after, told = {}, []
    for number in range(1, 8):
        told.append(resets.at_start(number))
        assert _same(_of(learner), start) == (number in (1, 4, 7))
        assert resets.by_labels(number, _pairs(0.0, 0.0)) is None
        after[number] = _step(learner, (number - 1) % 3 + 1)
    assert told == [None, None, None, 1, None, None, 1]
    assert _same(after[4], after[1])  # the optimiser begins anew, too
    assert _same(after[6], after[3])


def _labelled(resets, learner, rounds) -> tuple[list[int | None], list[dict[str, torch.Tensor]]]:
    """Play rounds with given labels; return where they went back, and the state that wrote each round."""
    told, wrote = [], []
    for number, labels in enumerate(rounds, 1):
        assert resets.at_start(number) is None
        wrote.append(_of(learner))
        told.append(resets.by_labels(number, _pairs(*labels)))
        if told[-1] is None:
            _step(learner, number)
    return told, wrote


HIGH, LOW = [0.7, 0.5, 0.6, 0.8], [0.2, 0.1, 0.3, 0.2]


def test_a_policy_goes_back_to_what_wrote_the_last_round_of_its_best_window(tiny, learner):
    resets = Resets(replace(tiny, rollback_window=2), learner)
    told, wrote = _labelled(resets, learner, [LOW, HIGH, HIGH, LOW, LOW, HIGH])
    assert told == [None, None, None, None, 3, None]  # rounds 2 and 3 are best; 4 and 5 have fallen, 3 and 4 not yet
    assert _same(wrote[5], wrote[2])
    assert not _same(wrote[4], wrote[2])


def test_after_a_return_a_window_is_filled_before_it_is_compared(tiny, learner):
    resets = Resets(replace(tiny, rollback_window=2), learner)
    told, wrote = _labelled(resets, learner, [HIGH, HIGH, LOW, LOW, LOW, LOW, LOW])
    assert told == [None, None, None, 2, None, 2, None]
    assert _same(wrote[4], wrote[1])
    assert _same(wrote[6], wrote[1])


def test_chance_alone_takes_no_policy_back(tiny, learner):
    source = random.Random(0)
    rounds = [[source.choice([0.4, 0.5, 0.6]) for _ in range(4)] for _ in range(12)]
    assert _labelled(Resets(replace(tiny, rollback_window=5), learner), learner, rounds)[0] == [None] * 12
    assert _labelled(Resets(tiny, learner), learner, [HIGH] * 6 + [LOW] * 6)[0] == [None] * 12


def test_what_has_fallen():
    assert fallen(2 * HIGH, 2 * LOW)
    assert not fallen(2 * LOW, 2 * HIGH)
    assert not fallen([1.0] * 4, [0.0] * 4)  # 4 bits of 4 against 0 of 4: chance can do that
    assert fallen([1.0] * 8, [0.0] * 8)
    many = [0.5 + 1e-4 * i for i in range(10)]
    assert not fallen(many, [value - reset.MARGIN + 1e-6 for value in many])  # clear, and too small to matter
    assert fallen(many, [value - reset.MARGIN - 1e-6 for value in many])


def test_labels_of_a_prompts_candidates_count_as_one():
    pairs = _pairs(0.5, None, 1.0)
    pairs += [Pair("x", "?", "so", "no", 0.0, place=Place(0, 1, None)), Pair("y", "?", "so", "no", 1.0)]
    assert of_prompts(pairs) == [0.25, 1.0]


def test_a_checkpoint_holds_all_of_it(tiny, learner, tmp_path):
    config = replace(tiny, rollback_window=2)
    resets = Resets(config, learner)
    _labelled(resets, learner, [HIGH, HIGH, LOW])
    resets.save(tmp_path)
    best = resets._best.weights
    other = Resets(config, learner)
    other.restore(tmp_path)
    assert other._seen == resets._seen
    assert all(torch.equal(other._best.weights[name], best[name]) for name in best)
    assert [one.by_labels(4, _pairs(*LOW)) for one in (resets, other)] == [2, 2]
    (tmp_path / "none").mkdir()
    Resets(tiny, learner).save(tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())


@pytest.mark.slow
def test_a_run_that_goes_back_and_dies_goes_on_to_the_same_bits(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(reset, "EVIDENCE", 0.0)
    monkeypatch.setattr(reset, "MARGIN", 0.0)  # every window below the best one has fallen
    config = replace(tiny, rounds=7, rollback_window=1, checkpoint_every=3)
    train(config, tmp_path / "whole")
    rounds = read(tmp_path / "whole" / records.ROUNDS, records.RoundRow)
    back = {row.round: row.returned_to for row in rounds if row.returned_to is not None}
    assert back
    assert all(row.policy_loss is None for row in rounds if row.round in back)
    assert all(1 <= to < number for number, to in back.items())
    original, dies = files.append, max(back)

    def append(path, lines):
        if path.name == records.ROUNDS and f'"round": {dies},' in lines:
            raise RuntimeError("killed")
        original(path, lines)

    monkeypatch.setattr(files, "append", append)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(files, "append", original)
    train(config, tmp_path / "parts", resume=True)
    for name in (*records.RECORD_FILES, "policy/adapter_model.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_a_run_that_begins_anew_says_so_and_goes_on_to_the_same_bits(tiny, tmp_path):
    config = replace(tiny, rounds=3, policy_reset_every=2, reward_model_buffer=-1)
    train(config, tmp_path / "whole")
    lines = (tmp_path / "whole" / records.ROUNDS).read_text().splitlines()
    assert ["returned_to" in line for line in lines] == [False, False, True]
    assert read(tmp_path / "whole" / records.ROUNDS, records.RoundRow)[2].returned_to == 1
    train(replace(config, rounds=2), tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    for name in (*records.RECORD_FILES, "policy/adapter_model.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
