from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import replace

import pytest
import yaml
from filelock import FileLock

from foresighted.settings import to_yaml
from foresighted.store import records
from foresighted.store.directory import arm_directory
from foresighted.store.records import CandidateRow, HeldoutRow, RoundRow
from foresighted.store.rows import read


def test_help_shows_every_setting_with_its_default(foresighted):
    code, out, _ = foresighted("compare", "--help-all")
    text = " ".join(out.split())
    assert code == 0
    assert "--policy-learning-rate X" in text
    assert "AdamW learning rate of the policy (default: 0.0005)" in text
    assert "--arms A,B" in text


@pytest.mark.parametrize("command", ["train", "compare", "evaluate", "simulate linear", "simulate network"])
def test_help_opens_with_examples_and_ten_settings(foresighted, command):
    code, out, _ = foresighted(*command.split(), "--help")
    assert code == 0
    usage, examples, rest = out.split("\n\n", 2)
    assert usage.startswith(f"usage: foresighted {command} ")
    assert [line.split()[:2] for line in examples.splitlines()[1:]] == [["foresighted", command.split()[0]]] * 3
    section = rest.split("settings that matter most:\n")[1].split("\n\n")[0]
    assert len(re.findall(r"^  --", section, re.MULTILINE)) == 10
    assert "--help-all" in rest
    _, every, _ = foresighted(*command.split(), "--help-all")
    assert set(re.findall(r"--[a-z-]+", out)) <= set(re.findall(r"--[a-z-]+", every)) | {"--plots"}
    assert len(re.findall(r"^  --", every, re.MULTILINE)) > 30


def test_dry_run_prints_a_configuration_that_runs_and_writes_nothing(foresighted, config_file, tmp_path):
    code, out, _ = foresighted("train", "--out", tmp_path / "x", "--config", config_file, "--gamma", "2", "--dry-run")
    assert code == 0
    assert yaml.safe_load(out)["gamma"] == 2.0
    assert not (tmp_path / "x").exists()


def test_preset_file_and_flag_count_in_this_order(foresighted, tmp_path):
    (tmp_path / "c.yaml").write_text("candidates: 6\ngamma: 1\n")
    flags = ["--preset", "paper", "--config", tmp_path / "c.yaml", "--gamma", "3", "--prompts", "bundled"]
    _, out, _ = foresighted("train", "--out", tmp_path / "x", "--dry-run", *flags)
    config = yaml.safe_load(out)
    assert (config["max_new_tokens"], config["candidates"], config["gamma"]) == (32, 6, 3.0)


@pytest.mark.slow
def test_train_prints_where_and_resumes_from_its_own_file(foresighted, config_file, tmp_path):
    out = tmp_path / "run"
    code, text, err = foresighted("train", "--out", out, "--config", config_file, "--rounds", "2")
    assert (code, err) == (0, "")
    assert str(out) in text
    code, _, err = foresighted("train", "--out", out, "--config", config_file)
    assert code == 2
    assert "--resume" in err
    assert foresighted("train", "--out", out, "--resume", "--rounds", "3")[0] == 0
    assert [r.round for r in read(out / records.ROUNDS, RoundRow)] == [1, 2, 3]
    code, _, err = foresighted("train", "--out", out, "--resume", "--gamma", "9")
    assert code == 2
    assert "gamma was 1.0, now 9.0" in err
    code, text, _ = foresighted("report", out)
    assert code == 0
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_tensorboard_gets_the_rounds(foresighted, config_file, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    flags = ["--config", config_file, "--rounds", "2", "--report-to", "tensorboard"]
    assert foresighted("train", "--out", out, *flags)[0] == 0
    events = EventAccumulator(str(out / "foresighted")).Reload()
    assert [e.step for e in events.Scalars("reward_chosen")] == [1, 2]


@pytest.mark.slow
def test_paper_preset_runs_with_tiny_models_of_its_architectures(
    foresighted, tmp_path, tiny_llama, tiny_deberta, prompt_file
):
    """Every number of the published protocol, but one round, no 4-bit base and no 8-bit optimiser (no GPU here)."""
    flags = ["--policy", tiny_llama, "--reward-model", tiny_deberta, "--prompts", prompt_file, "--rounds", "1"]
    flags += ["--quantization", "none", "--optimizer", "adamw", "--heldout-prompts", "2", "--device", "cpu"]
    code, _, err = foresighted("train", "--preset", "paper", "--out", tmp_path / "run", *flags)
    assert (code, err) == (0, "")
    rows = read(tmp_path / "run" / records.CANDIDATES, CandidateRow)
    assert len(rows) == 4 * 8
    assert all(row.label is not None and 5 <= row.tokens <= 32 for row in rows)
    assert read(tmp_path / "run" / records.ROUNDS, RoundRow)[-1].labels_total == 32


@pytest.fixture(scope="module")
def comparison(tiny, tmp_path_factory, start_foresighted):
    """A comparison run by the real command: two arms at the same time, each in a process of its own."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "tiny.yaml").write_text(to_yaml(replace(tiny, rounds=2)))
    words = ["compare", "--config", folder / "tiny.yaml", "--out", folder / "c", "--jobs", 2, "--side-by-side", 1]
    process = start_foresighted(*words, "--arms", "rlhf,relaxed:gamma=5", "--seeds", 0)
    assert process.wait() == 0, process.stderr
    return folder / "c", process.stdout


@pytest.mark.processes
def test_compare_holds_everything_but_the_arm_fixed(comparison):
    out, printed = comparison
    assert "report: " in printed
    assert "labels" in printed
    arms = [arm_directory(out, arm, 0) for arm in ("rlhf", "relaxed:gamma=5")]
    first, second = ([c for c in read(arm / records.CANDIDATES, CandidateRow) if c.round == 1] for arm in arms)
    assert [(c.prompt_id, c.text, c.reward) for c in first] == [(c.prompt_id, c.text, c.reward) for c in second]
    a, b = (read(arm / records.HELDOUT, HeldoutRow)[:3] for arm in arms)
    assert a == b
    summary = json.loads((out / "summary.json").read_text())
    assert summary["sentences"]
    assert {arm["label"] for arm in summary["arms"]} == {"rlhf", "relaxed:gamma=5"}
    assert "<html" in (out / "report.html").read_text()


@pytest.mark.processes
def test_compare_resumes_and_adds_an_arm_without_touching_the_others(comparison, foresighted):
    out, _ = comparison
    before = {p: p.stat().st_mtime_ns for p in out.glob("arms/*/*/candidates.jsonl")}
    assert foresighted("compare", "--out", out)[0] == 2
    more = ["--arms", "rlhf,relaxed:gamma=5,practical,shuffled", "--side-by-side", "4"]
    code, text, err = foresighted("compare", "--out", out, "--resume", *more)
    assert code == 0, err
    assert "practical" in text
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert all((arm_directory(out, arm, 0) / "policy").is_dir() for arm in ("practical", "shuffled"))


@pytest.mark.processes
def test_an_arm_of_a_comparison_is_a_plain_train_run(comparison, foresighted, tmp_path):
    """The same numbers come from `foresighted train` with the arm's own config file."""
    out, _ = comparison
    own = arm_directory(out, "relaxed:gamma=5", 0)
    assert foresighted("train", "--config", own / "config.yaml", "--out", tmp_path / "alone")[0] == 0
    assert (tmp_path / "alone" / records.CANDIDATES).read_bytes() == (own / records.CANDIDATES).read_bytes()


@pytest.mark.processes
def test_a_run_that_fails_passes_its_line_on(foresighted, config_file, tmp_path, tiny_llama):
    """Its process is started as a user's would be."""
    flags = ["--config", config_file, "--reward-model", tiny_llama, "--arms", "rlhf", "--seeds", "0"]
    code, _, err = foresighted("compare", "--out", tmp_path / "c", *flags, "--side-by-side", "1")
    assert code == 2
    assert "arm rlhf, seed 0: reward_model:" in err
    assert "is a LlamaForCausalLM" in err
    assert err.count("\n") == 1
    mended = ["--config", config_file, "--rounds", "1", "--arms", "rlhf", "--seeds", "0"]
    assert foresighted("compare", "--out", tmp_path / "c", *mended)[0] == 0  # nothing had been done there yet


@pytest.mark.processes
@pytest.mark.parametrize(
    ("sent", "code", "arms", "at_a_time"),
    [(signal.SIGINT, 130, ("rlhf", "practical"), 2), (signal.SIGTERM, 143, ("rlhf",), 1)],
)
def test_an_interrupted_comparison_leaves_no_process_and_resumes(
    config_file, start_foresighted, tmp_path, sent, code, arms, at_a_time
):
    """Ctrl-C reaches the whole group and finishes the rounds; SIGTERM reaches the parent alone and ends its runs."""
    out = tmp_path / "c"
    flags = ["--rounds", 5000, "--heldout-every", 5000, "--arms", ",".join(arms), "--seeds", 0, "--jobs", 2]
    flags += ["--side-by-side", at_a_time]
    process = start_foresighted("compare", "--config", config_file, "--out", out, *flags, "--quiet")
    records_of = [arm_directory(out, arm, 0) / records.ROUNDS for arm in arms]
    deadline = time.monotonic() + 300
    while not all(path.exists() for path in records_of):
        assert process.is_alive(), process.stderr
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        os.kill(process.pid, sent)
    assert process.wait() == code
    if sent == signal.SIGINT:
        assert "which is saved; go on with --resume" in process.stderr
    for path in records_of:
        with FileLock(path.parent / ".lock", timeout=120):  # nobody writes there any more
            assert len(read(path, RoundRow)) < 5000
