"""Runs side by side: each is what it would be alone, and what befalls one does not touch the others."""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from foresighted.alignment import players, reset, side_by_side
from foresighted.alignment.compare import compare
from foresighted.alignment.given import Given
from foresighted.alignment.run import train
from foresighted.alignment.within import compare_within
from foresighted.errors import ConfigError, RunError
from foresighted.models.loading import load_policy
from foresighted.settings import CompareConfig
from foresighted.store import records
from foresighted.store.directory import arm_directory, start_directory
from foresighted.store.rows import read

pytestmark = pytest.mark.slow
ARMS = ("rlhf:kl_coefficient=0", "rlhf", "practical", "labels", "rlhf:policy_update=best-of-n",
        "rlhf:policy_update=dpo:dpo_beta=0.5", "rlhf:policy_reset_every=2", "rlhf:rollback_window=1",
        "practical:ensemble=3:confidence=1:shaping=par", "proximal:steering_labels=group:correction=0.5")  # fmt: skip
NAMES = [records.CANDIDATES, records.ROUNDS, records.HELDOUT, "policy/adapter_model.safetensors"]


@pytest.fixture(scope="module")
def config(tiny):
    own = replace(
        tiny, policy_update="policy-gradient", lora_layers="last:1", max_new_tokens=6, optimizer="adamw", rounds=4,
        kl_coefficient=0.3, kl_unit="share", references=2, reward_model_steps="auto", reward_model_buffer=-1,
        reward_model_l2=0.01, reward_model_pairs="random",
    )  # fmt: skip
    return CompareConfig(own, ("rlhf", "practical"), (0,))


def _bytes(out: Path, names=NAMES) -> dict[str, bytes]:
    runs = sorted(out.glob("arms/*/*"))
    return {f"{run.relative_to(out)}/{name}": (run / name).read_bytes() for run in runs for name in names}


@pytest.fixture(scope="module")
def played(config, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("played") / "out"
    compare(config, out)
    return out


def _double(load, *args, **kwargs):
    made = load(*args, **kwargs)
    (made.body if hasattr(made, "body") else made.model).double()
    return made


def test_a_run_is_what_it_is_alone(config, tmp_path, monkeypatch):
    for name in ("load_policy", "load_reward_model"):
        monkeypatch.setattr(players, name, partial(_double, getattr(players, name)))
    monkeypatch.setattr(reset, "EVIDENCE", 0.0)
    monkeypatch.setattr(reset, "MARGIN", 0.0)  # a policy goes back whenever its labels are below its best
    config = replace(config, arms=ARMS, seeds=(0, 1), train=replace(config.train, rounds=3))
    compare(config, tmp_path / "together")
    for arm in ARMS:
        for seed in (0, 1) if arm == "practical" else (0,):
            beside = arm_directory(tmp_path / "together", arm, seed)
            out = tmp_path / f"alone-{seed}-{ARMS.index(arm)}"
            train(config.arm(arm, seed), out)
            for name, kind in ((records.CANDIDATES, records.CandidateRow), (records.HELDOUT, records.HeldoutRow)):
                rows, alone = read(beside / name, kind), read(out / name, kind)
                assert len(rows) == len(alone) > 0
                for one, other in zip(rows, alone, strict=True):
                    for field, value in vars(one).items():
                        expected = vars(other)[field]
                        known = pytest.approx(expected, abs=1e-9) if isinstance(expected, float) else expected
                        assert value == known, (arm, seed, name, field)
        back = [row.returned_to for row in read(beside / records.ROUNDS, records.RoundRow)]
        assert any(back) == ("reset" in arm or "rollback" in arm)
    kept = [(start_directory(tmp_path / "together", seed) / "references.jsonl").read_bytes() for seed in (0, 1)]
    assert kept[0] != kept[1]


def test_a_set_goes_on_to_the_same_bits_from_one_round(config, played, tmp_path):
    out = tmp_path / "out"
    compare(replace(config, train=replace(config.train, rounds=2)), out)
    ahead, behind = (arm_directory(out, arm, 0) for arm in config.arms)
    shutil.rmtree(behind / "checkpoints" / "round-000002")  # as if the process had died between two saves
    shutil.rmtree(behind / "policy")
    shutil.rmtree(ahead / "policy")
    compare(config, out, resume=True)
    assert _bytes(out) == _bytes(played)


@pytest.mark.campaign
@pytest.mark.processes
def test_a_set_that_is_killed_again_and_again_ends_in_the_same_bits(config, played, tmp_path, script, start_script):
    out, rng, ended = tmp_path / "out", random.Random(0), []
    while not ended or ended[-1] != 0:
        kill_at = rng.randint(2, 24) if len(ended) < 4 else None
        process = start_script(script("dying.py"), names={"CONFIG": config, "OUT": out, "KILL_AT": kill_at})
        process.join()
        ended.append(process.exitcode)
        assert ended[-1] in (0, -signal.SIGKILL), process.stderr
    assert len(ended) > 3, "it got to its end before it could be killed"
    assert _bytes(out) == _bytes(played)


def test_one_arm_is_taken_up_alone(config, played, tmp_path):
    shutil.copytree(played, tmp_path / "out")
    run = arm_directory(tmp_path / "out", "practical", 0)
    train(replace(config.arm("practical", 0), rounds=5), run, resume=True, start=start_directory(tmp_path / "out", 0))
    assert [row.round for row in read(run / records.ROUNDS, records.RoundRow)] == [1, 2, 3, 4, 5]


def test_one_that_is_not_finite_ends_alone(config, played, tmp_path, caplog):
    out, wild = tmp_path / "out", "rlhf:policy_learning_rate=1e30"
    with pytest.raises(RunError, match=r"^arm rlhf:policy_learning_rate=1e30, seed 0: round 2: .*is whole$"):
        compare(replace(config, arms=(*config.arms, wild)), out)
    assert f"arm {wild}, seed 0 ends: round 2" in caplog.text
    found = _bytes(played)
    assert {name: (out / name).read_bytes() for name in found} == found
    assert len(read(arm_directory(out, wild, 0) / records.ROUNDS, records.RoundRow)) == 1


def test_a_labeller_is_asked_once_a_round_for_all(config, tmp_path):
    calls = []

    def labels(prompts, first, second):
        calls.append(list(zip(prompts, first, second, strict=True)))
        return [0.5] * len(prompts)

    compare(
        replace(config, arms=("rlhf", "labels", "practical"), train=replace(config.train, rounds=2, initial_pairs=0)),
        tmp_path / "out", given=Given(labels=labels),
    )  # fmt: skip
    assert len(calls) == 2
    assert len(set(calls[0])) == len(calls[0]) == 2 * 3  # in the first round all write the same


def test_more_runs_than_memory_holds_are_refused_and_fewer_are_played_by_turns(
    config, played, tmp_path, monkeypatch, caplog
):
    kept = []
    monkeypatch.setattr(side_by_side, "free_memory", lambda _device: kept[-1])
    plays = side_by_side.SideBySide(config.train, Given(), side_by_side_prompts(config))
    for free in (10**7 * 2**i for i in range(12)):
        kept.append(free)
        if plays._most(100) >= 3:
            break
    fits = plays._most(100)
    assert 3 <= fits < 100
    with pytest.raises(ConfigError, match=rf"side_by_side: got 100, .* holds {fits} runs; give {fits}"):
        plays.at_a_time(tmp_path, 100, 200)
    assert plays.at_a_time(tmp_path, None, 200) == fits
    assert f"memory holds {fits} of 200 runs" in caplog.text
    kept.append(10**15)
    assert plays.at_a_time(tmp_path, None, 200) == fits  # as before


def test_rounds_are_those_that_the_minutes_hold(config, tmp_path, monkeypatch):
    longer = replace(config, train=replace(config.train, rounds=12, heldout_every=6))
    with pytest.raises(ConfigError, match=r"minutes: got 1e-05, enough for 2 rounds of 2 loops .* give \d+ minutes"):
        compare_within(longer, tmp_path / "out", 1e-5)
    assert compare_within(longer, tmp_path / "out", 60) == 12  # as many as there may be, from where it stood
    assert compare_within(longer, tmp_path / "out", 1e-5) == 12  # counted once and for all
    rows = read(arm_directory(tmp_path / "out", "rlhf", 0) / records.ROUNDS, records.RoundRow)
    assert [row.round for row in rows] == list(range(1, 13))


def side_by_side_prompts(config):
    from foresighted.prompts import load_prompts

    return load_prompts(config.train.prompts)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"lora_dropout": 0.1}, "without dropout"), ({"policy_train": "all", "lora_layers": "all"}, "LoRA")],
    ids=str,
)
def test_what_cannot_be_shared_is_said(config, change, why):
    with pytest.raises(side_by_side.Apart, match=why):
        side_by_side.SideBySide(replace(config.train, **change), Given(), side_by_side_prompts(config))


def test_adapters_are_drawn_as_if_alone(config):
    policy = load_policy(config.train, torch.device("cpu"))
    for seed in (config.train.seed, 7):
        alone = load_policy(replace(config.train, seed=seed), torch.device("cpu")).trainable()
        drawn = policy.stack.fresh(seed)
        assert list(drawn) == list(alone)
        assert all(torch.equal(drawn[name], alone[name]) for name in alone)
