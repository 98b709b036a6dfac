from __future__ import annotations

import json

import pytest
import torch

from foresighted.labels.buffer import Buffer, Counts
from foresighted.labels.pair import Pair
from foresighted.store.rows import decode


def test_counts_add_up_and_the_baseline_is_the_mean_of_what_was_learnt():
    buffer = Buffer()
    assert buffer.baseline == 0.5
    pairs = [Pair(str(i), "p", "a", "b", label=0.25 * i) for i in range(3)]
    buffer.fail(3)
    buffer.add(pairs[1:], read=3)  # one label was read for a choice alone
    assert (buffer.counts.labels_total, buffer.counts.labels_failed, buffer.counts.rounds_failed) == (3, 3, 0)
    taken = buffer.take()
    buffer.learnt(torch.tensor([pair.label for pair in taken]))
    assert (buffer.counts.labels_trained, buffer.baseline) == (2, pytest.approx(0.375))
    assert buffer.take() == []


def test_state_is_plain_json_and_comes_back():
    buffer = Buffer(memory=-1)
    buffer.keep(
        [Pair("0-a", "p", "d", "e", label=1.0, features=2 * torch.eye(2)), Pair("0-b", "p", "f", "g", label=0.0)]
    )
    buffer.add([Pair("1-a", [{"role": "user", "content": "p"}], "a", "b", label=0.5, features=torch.eye(2))], read=1)
    buffer.wait_for([Pair("2-b", "p", "a", "c")])
    plain, features = buffer.state()
    again = Buffer()
    read = json.loads(json.dumps(plain))
    parts = [[decode(row, Pair, "state") for row in read[name]] for name in ("ready", "pending", "kept")]
    again.load_state(decode(read["counts"], Counts, "state"), *parts, features)
    assert [(pair.id, pair.label) for pair in again.kept] == [("0-a", 1.0), ("0-b", 0.0)]
    assert torch.equal(again.kept[0].features, 2 * torch.eye(2))
    assert again.kept[1].features is None
    assert again.state()[0] == plain
    assert torch.equal(again.ready[0].features, torch.eye(2))
    assert list(again.pending) == ["2-b"]


def test_the_memory_holds_the_newest():
    pairs = [Pair(str(i), "p", "a", "b", label=0.5) for i in range(5)]
    for memory, kept in ((0, ""), (3, "234"), (-1, "01234")):
        buffer = Buffer(memory=memory)
        buffer.keep(pairs[:2])
        buffer.keep(pairs[2:])
        assert "".join(pair.id for pair in buffer.kept) == kept
