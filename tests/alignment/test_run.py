"""A whole run on tiny models: records, resume after any death, bad states, arms that differ in nothing but steering."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from foresighted.alignment import checkpoint
from foresighted.alignment.run import train
from foresighted.errors import DataError, NumericalError, RunError, Stopped
from foresighted.store import files, records
from foresighted.store.directory import start_directory
from foresighted.store.rows import read

pytestmark = pytest.mark.slow


def _bytes(out: Path) -> dict[str, bytes]:
    files = [out / name for name in records.RECORD_FILES]
    files += [p for p in out.glob("start/*/*") if p.suffix in (".jsonl", ".safetensors")]
    files += sorted((out / "checkpoints").glob("*/*")) + sorted((out / "policy").glob("*.safetensors"))
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train(replace(tiny, rounds=6), out)
    return out


def test_a_run_leaves_the_contracts_files(unbroken):
    present = {p.name for p in unbroken.iterdir()}
    assert present >= {
        "config.yaml",
        "rounds.jsonl",
        "candidates.jsonl",
        "heldout.jsonl",
        "checkpoints",
        "environment.json",
    }
    rounds = read(unbroken / records.ROUNDS, records.RoundRow)
    candidates = read(unbroken / records.CANDIDATES, records.CandidateRow)
    heldout = read(unbroken / records.HELDOUT, records.HeldoutRow)
    assert [r.round for r in rounds] == [1, 2, 3, 4, 5, 6]
    assert len(candidates) == 6 * 2 * 3
    assert [h.round for h in heldout] == [r for r in (0, 2, 4, 6) for _ in range(3)]
    assert all(h.kl == 0 for h in heldout[:3])
    assert any(h.kl != 0 for h in heldout[-3:])
    for row in candidates:
        assert row.score == pytest.approx(row.reward - row.penalty, abs=1e-6)
        assert (row.label is not None) == row.chosen  # practical reads the winner's label alone
    by_prompt = [candidates[i : i + 3] for i in range(0, len(candidates), 3)]
    assert all(max(group, key=lambda c: c.score).chosen and sum(c.chosen for c in group) == 1 for group in by_prompt)
    assert [r.labels for r in rounds] == [2] * 6
    assert rounds[-1].labels_total == 3 + 12


def test_training_moves_the_policy_and_the_judge_and_the_export_loads(unbroken, tiny):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.policy)
    adapter = PeftModel.from_pretrained(model, unbroken / "policy")
    assert any(p.abs().sum() > 0 for n, p in adapter.named_parameters() if "lora_B" in n)
    rounds = read(unbroken / records.ROUNDS, records.RoundRow)
    assert rounds[-1].policy_loss < rounds[0].policy_loss


@pytest.fixture
def start(script, start_script):
    """Resume a run in a process of its own, which dies in its write number `kill_at`."""

    def start(config, out, kill_at=None):
        return start_script(script("dying.py"), names={"CONFIG": config, "OUT": out, "KILL_AT": kill_at})

    return start


KILLS = 24 if os.environ.get("FUZZ_POINTS") == "all" else 6


@pytest.mark.campaign
@pytest.mark.processes
def test_killed_at_random_writes_and_moments_a_run_ends_in_the_same_bits(unbroken, tiny, tmp_path, start):
    """SIGKILLs, in the middle of a random write and at random moments by turns; then every byte is compared."""
    config, out, rng = replace(tiny, rounds=6), tmp_path / "run", random.Random(0)
    kills = starts = 0
    while kills < KILLS:
        starts += 1
        assert starts < 120, "processes get to the end before they can be killed"
        kill_at = rng.randint(1, 14) if starts % 2 else None
        process = start(config, out, kill_at)
        if kill_at is None:
            process.join(rng.uniform(0.05, 1.2))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:  # it got to the end first: the next kills meet a fresh run
            assert _bytes(out) == _bytes(unbroken)
            out = tmp_path / f"run-{starts}"
    last = start(config, out)
    last.join()
    assert last.exitcode == 0
    assert _bytes(out) == _bytes(unbroken)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(unbroken, tiny, tmp_path, caplog):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    newest = checkpoint.newest(out)
    (newest / "policy.safetensors").write_bytes(b"half")
    train(replace(tiny, rounds=6), out, resume=True)
    assert "is damaged" in caplog.text
    assert _bytes(out) == _bytes(unbroken)


def test_a_checkpoint_of_an_earlier_version_is_named(unbroken, tiny, tmp_path):
    shutil.copytree(unbroken, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        state = json.loads(path.read_text())
        known = ("round", "labels_total", "labels_trained", "records", "optimizers", "sha256")
        path.write_text(json.dumps({name: state[name] for name in known}))
    with pytest.raises(RunError, match=r"written by foresighted 0\.1\.0; finish this run with it"):
        train(replace(tiny, rounds=6), tmp_path / "run", resume=True)


def test_records_that_are_missing_are_an_error(unbroken, tiny, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    os.truncate(out / records.CANDIDATES, 100)
    with pytest.raises(RunError, match=r"candidates.jsonl: has 100 bytes, .*choose another --out"):
        train(replace(tiny, rounds=8), out, resume=True)


def test_a_full_disk_is_explained_and_nothing_is_lost(unbroken, tiny, tmp_path, monkeypatch):
    import errno

    out = tmp_path / "run"
    original, calls = files.append, []

    def full(path, lines):
        calls.append(path)
        if len(calls) == 9:
            with path.open("ab") as file:
                file.write(b'{"round": 3, "torn')
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(path, lines)

    monkeypatch.setattr(files, "append", full)
    with pytest.raises(RunError, match=r"No space left on device; .*--resume"):
        train(replace(tiny, rounds=6), out)
    monkeypatch.setattr(files, "append", original)
    train(replace(tiny, rounds=6), out, resume=True)
    assert _bytes(out) == _bytes(unbroken)


def test_more_rounds_may_be_asked_for_on_resume(unbroken, tiny, tmp_path):
    train(replace(tiny, rounds=3), tmp_path / "run")
    train(replace(tiny, rounds=6), tmp_path / "run", resume=True)
    mine = read(tmp_path / "run" / records.ROUNDS, records.RoundRow)
    assert mine == read(unbroken / records.ROUNDS, records.RoundRow)


def test_another_configuration_is_refused_and_nothing_changes(unbroken, tiny, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    before = (out / "config.yaml").read_bytes(), _bytes(out)
    with pytest.raises(RunError, match=r"gamma was 1.0, now 0.9"):
        train(replace(tiny, rounds=6, gamma=0.9), out, resume=True)
    with pytest.raises(RunError, match="holds a run already; go on with --resume"):
        train(replace(tiny, rounds=6), out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no run"):
        train(tiny, tmp_path / "other", resume=True)
    assert ((out / "config.yaml").read_bytes(), _bytes(out)) == before


def test_an_interrupt_finishes_the_round(unbroken, tiny, tmp_path):
    def interrupt(row):
        if row.round == 2:
            os.kill(os.getpid(), signal.SIGINT)

    config = replace(tiny, rounds=6, checkpoint_every=5)
    with pytest.raises(Stopped, match="after round 2, which is saved"):
        train(config, tmp_path / "run", on_round=interrupt)
    train(replace(config, checkpoint_every=1), tmp_path / "run", resume=True)
    mine = read(tmp_path / "run" / records.ROUNDS, records.RoundRow)
    assert mine == read(unbroken / records.ROUNDS, records.RoundRow)


def test_arms_share_start_and_noise(tiny, tmp_path):
    """Two arms with the same choice in round 1 write the same round 2; labels are counted by what the arm reads."""
    outs = {}
    for steering, gamma in [("rlhf", 0.0), ("practical", 0.0), ("relaxed", 5.0), ("proximal", 5.0)]:
        outs[steering] = tmp_path / steering
        config = replace(tiny, steering=steering, gamma=gamma, rounds=2)
        train(config, outs[steering], start=tmp_path / "start")
    first = {
        name: [
            (c.prompt_id, c.candidate, c.text, c.reward)
            for c in read(out / records.CANDIDATES, records.CandidateRow)
            if c.round == 1
        ]
        for name, out in outs.items()
    }
    assert first["rlhf"] == first["practical"] == first["relaxed"] == first["proximal"]
    same = [(outs[n] / records.CANDIDATES).read_bytes() for n in ("rlhf", "practical")]
    assert same[0] == same[1]  # gamma 0 is rlhf, to the byte
    labels = {name: read(out / records.ROUNDS, records.RoundRow)[-1].labels_total for name, out in outs.items()}
    assert labels == {"rlhf": 3 + 2 * 2, "practical": 3 + 2 * 2, "relaxed": 3 + 2 * 6, "proximal": 3 + 2 * 6}


GRADIENT = {
    "policy_update": "policy-gradient", "kl_coefficient": 0.1, "references": 2, "reward_model_pairs": "random",
    "reward_model_buffer": -1, "reward_model_l2": 0.01, "lora_layers": "last:1",
}  # fmt: skip  # one table


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_train": "all", "policy_learning_rate": 1e-3, "reward_model_train": "all", "accumulation_steps": 2},
        {"reward_model_pairs": "all", "selection": "labels", "steering": "rlhf", "initial_pairs": 0,
         "dtype": "bfloat16"},
        {"sampled_labels": True, "steering": "relaxed", "reward_model_input": "response", "kl_coefficient": 0.1,
         "policy_learning_rate": 0.1},
        {"steering": "exact", "influence": "batch", "gamma": 1.0, "lora_dropout": 0.1, "policy_steps": 2,
         "reward_model_steps": 3, "lora_targets": ("all-linear",)},
        {"steering": "exact", "curvature": "adamw", "gamma": 5e-3},
        {"steering": "proximal", "scope": "all", "reward_model_train": "all", "gamma": 0.1, "gamma_unit": "share"},
        {"steering": "exact", "scope": "last:1", "reward_model_train": "all", "curvature": "hessian", "damping": 50.0},
        {"steering": "unrolled", "scope": "head:2", "reward_model_train": "all", "unrolled_steps": 2},
        {**GRADIENT, "steering": "relaxed", "control": "shuffled", "scope": "lora", "reward_model_train": "lora",
         "influence": "batch"},
        {**GRADIENT, "steering": "exact", "policy_steps": 2},
        {**GRADIENT, "steering": "unrolled", "gamma": 1.0, "unrolled_steps": 2, "reward_model_pairs": "uncertain"},
        {**GRADIENT, "steering": "proximal", "gamma": 0.1, "gamma_unit": "share", "sampled_labels": True,
         "reward_model_pairs": "all"},
        {**GRADIENT, "steering": "rlhf", "selection": "labels", "kl_unit": "share"},
    ],
)  # fmt: skip  # a run each, so what has nothing to do with each other stands together
def test_every_option_runs_and_repeats_bit_for_bit(tiny, tmp_path, changes):
    config = replace(tiny, rounds=2, **changes)
    for name in "ab":
        train(config, tmp_path / name)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_a_baseline_in_place_of_labels_reads_none_and_resumes_exactly(tiny, tmp_path):
    config = replace(tiny, steering="proximal", steering_labels="baseline", gamma=0.3, rounds=4)
    train(config, tmp_path / "whole")
    train(replace(config, rounds=2), tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    whole, parts = ((tmp_path / name / records.CANDIDATES).read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    rounds = read(tmp_path / "whole" / records.ROUNDS, records.RoundRow)
    assert rounds[-1].labels_total == 3 + 4 * 2  # as plain RLHF: initial pairs, and winners
    pairs = read(start_directory(tmp_path / "whole", 0) / records.INITIAL_PAIRS, records.PairRow)
    labels = [pair.label for pair in pairs]
    candidates = read(tmp_path / "whole" / records.CANDIDATES, records.CandidateRow)
    for row in (row for row in candidates if row.round == 1):
        margin = row.reward - row.reference_reward
        sign = 1 / (1 + math.exp(-margin)) - sum(labels) / len(labels)
        assert row.penalty * row.gram * sign >= 0
    assert all(row.gamma == 0.3 and row.gamma_share is not None for row in rounds)


def test_resume_with_dropout_and_a_lora_judge_is_exact(tiny, tmp_path):
    config = replace(tiny, lora_dropout=0.2, reward_model_train="lora", checkpoint_every=1)
    train(config, tmp_path / "whole")
    train(replace(config, rounds=2), tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    assert (tmp_path / "whole" / records.CANDIDATES).read_bytes() == (
        tmp_path / "parts" / records.CANDIDATES
    ).read_bytes()


def test_other_reward_models_and_labels_run(tiny, tiny_llama_reward, tmp_path):
    train(replace(tiny, rounds=2, reward_model=str(tiny_llama_reward)), tmp_path / "llama")
    gold = replace(tiny, rounds=2, labels=f"reward:{tiny_llama_reward}", reward_model="embedded")
    train(gold, tmp_path / "gold")
    rows = read(tmp_path / "gold" / records.CANDIDATES, records.CandidateRow)
    assert all((row.utility is not None) == row.chosen for row in rows)


def test_a_reward_that_is_not_finite_stops_with_round_and_candidate(unbroken, tiny, tmp_path, monkeypatch):
    from foresighted.models.reward_model import RewardModel

    original, calls = RewardModel.rewards, []

    def broken(self, features):
        value = original(self, features)
        calls.append(value.shape)
        if value.shape == (8,) and sum(s == (8,) for s in calls) == 3:  # 2 prompts, 3 candidates and a reference each
            value[6] = torch.nan
        return value

    config = replace(tiny, rounds=6)
    monkeypatch.setattr(RewardModel, "rewards", broken)
    with pytest.raises(
        NumericalError, match=r"round 3: reward nan for candidate 2 of prompt '\w+'.*checkpoint .*whole"
    ):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    train(config, tmp_path / "run", resume=True)
    assert _bytes(tmp_path / "run") == _bytes(unbroken)


def test_a_policy_that_has_run_away_is_named(tiny, tmp_path):
    told = r"^round 2: the policy gives no numbers for its next token; lower policy_learning_rate.*is whole$"
    with pytest.raises(NumericalError, match=told):
        train(replace(tiny, policy_learning_rate=1e30, rounds=3), tmp_path / "run")


def _nothing(policy, _prompts, responses, **_):
    return next(iter(policy.trainable().values())).sum() * torch.nan * responses.mask


def test_a_loss_that_is_not_finite_stops(tiny, tmp_path, monkeypatch):
    from foresighted.models.policy import Policy

    monkeypatch.setattr(Policy, "token_log_p", _nothing)
    with pytest.raises(NumericalError, match=r"round 1: policy: loss nan"):
        train(tiny, tmp_path / "run")


def test_empty_candidates_are_never_chosen_and_all_empty_stops(tiny, tmp_path, monkeypatch):
    from foresighted.models.policy import Policy

    original, blank = Policy.sample, {1: " "}

    def sample(self, prompts, n, keys, *, frozen=False):
        rollout = original(self, prompts, n, keys, frozen=frozen)
        empty = range(len(rollout.texts)) if n == 3 and "all" in blank else [0, 1] if n == 3 else []
        return rollout._replace(texts=["" if i in empty else text for i, text in enumerate(rollout.texts)])

    monkeypatch.setattr(Policy, "sample", sample)
    train(replace(tiny, rounds=1), tmp_path / "some")
    rows = read(tmp_path / "some" / records.CANDIDATES, records.CandidateRow)
    assert [row.chosen for row in rows[:3]] == [False, False, True]
    assert read(tmp_path / "some" / records.ROUNDS, records.RoundRow)[0].empty == 2
    blank["all"] = ""
    with pytest.raises(DataError, match=r"all 3 candidates of prompt .* are empty"):
        train(replace(tiny, rounds=1), tmp_path / "all")


def test_two_processes_do_not_write_in_one_directory(tiny, tmp_path):
    from filelock import FileLock

    out = tmp_path / "run"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(RunError, match="another process is writing"):
        train(tiny, out)


def test_config_file_runs_again_as_it_is(unbroken, tiny, tmp_path):
    from foresighted.settings import TrainConfig, from_mapping

    again = from_mapping(TrainConfig, yaml.safe_load((unbroken / "config.yaml").read_text()))
    assert again == replace(tiny, rounds=6).resolved()
    assert json.loads((unbroken / "environment.json").read_text())["torch"] == torch.__version__


def test_the_kl_term_is_taken_off_the_score(tiny, tmp_path):
    train(replace(tiny, kl_coefficient=0.2), tmp_path / "run")
    rows = read(tmp_path / "run" / records.CANDIDATES, records.CandidateRow)
    assert all(row.score == pytest.approx(row.reward - row.penalty - 0.2 * row.kl, abs=1e-5) for row in rows)
    assert all(abs(row.kl) < 1e-4 for row in rows if row.round == 1)
    assert any(abs(row.kl) > 1e-3 for row in rows if row.round == 4)
