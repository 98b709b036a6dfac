"""A loop on an accelerator: nothing of it is left on the CPU, and its words and numbers are the CPU's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foresighted.alignment.compare import compare
from foresighted.alignment.run import train
from foresighted.settings import CompareConfig
from foresighted.store import records
from foresighted.store.rows import read

pytestmark = pytest.mark.slow
ARMS = ("rlhf:kl_coefficient=0", "practical", "labels", "shuffled", "rlhf:policy_update=best-of-n",
        "rlhf:policy_update=dpo:dpo_beta=0.5", "rlhf:policy_reset_every=1", "rlhf:rollback_window=1",
        "practical:ensemble=3:confidence=1:shaping=par", "practical:reward_model_pairs=influence",
        "proximal:steering_labels=group:correction=0.5")  # fmt: skip
WORDS = ("round", "prompt_id", "candidate", "text", "chosen")
NUMBERS = ("reward", "penalty", "score")


@pytest.fixture
def config(tiny):
    return replace(
        tiny, policy_update="policy-gradient", lora_layers="last:1", max_new_tokens=5, optimizer="adamw", rounds=2,
        kl_coefficient=0.3, kl_unit="share", references=2, reward_model_steps="auto", reward_model_buffer=-1,
        reward_model_l2=0.01, reward_model_pairs="random",
    )  # fmt: skip


def _same(here, there):
    mine, theirs = (list(read(out / records.CANDIDATES, records.CandidateRow)) for out in (here, there))
    assert len(mine) > 0
    for one, other in zip(mine, theirs, strict=True):
        assert [getattr(one, name) for name in WORDS] == [getattr(other, name) for name in WORDS]
        assert [getattr(one, name) for name in NUMBERS] == pytest.approx(
            [getattr(other, name) for name in NUMBERS], rel=1e-3, abs=1e-4
        )


def test_it_refuses_what_an_accelerator_does(elsewhere):
    with elsewhere() as there:
        own, other = torch.ones(3, device=there), torch.ones(3)
        assert str(own.device) == there
        with pytest.raises(RuntimeError, match="one device"):
            own + other
        with pytest.raises(RuntimeError, match="one device"):
            other[own.bool()]
        with pytest.raises(RuntimeError, match="numpy"):
            own.numpy()
        own[[0]] = other.sum()  # a number may come from anywhere
        assert own[torch.tensor([0, 1])].cpu().tolist() == [3, 1]


def test_loops_side_by_side(config, tmp_path, elsewhere):
    asked = CompareConfig(config, ARMS, (0,))
    compare(asked, tmp_path / "here")
    with elsewhere() as there:
        compare(replace(asked, train=replace(config, device=there)), tmp_path / "there")
    for run in (tmp_path / "here/arms").glob("*/*"):
        _same(run, tmp_path / "there" / run.relative_to(tmp_path / "here"))


@pytest.mark.parametrize(
    "settings",
    [
        {"reward_model_train": "lora", "scope": "lora"},
        {"reward_model_train": "all", "scope": "head", "steering": "exact"},
        {"policy_train": "all", "lora_layers": "all", "steering": "relaxed"},
    ],
    ids=str,
)
def test_a_loop_alone(config, tmp_path, elsewhere, settings):
    own = replace(config, **settings)
    train(own, tmp_path / "here")
    with elsewhere() as there:
        train(replace(own, device=there), tmp_path / "there")
    _same(tmp_path / "here", tmp_path / "there")
