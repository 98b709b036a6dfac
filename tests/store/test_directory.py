"""One home of run directories: what lies there, whose it is, one wording for every command."""

from __future__ import annotations

import errno

import pytest
import yaml
from filelock import FileLock

from foresighted.errors import RunError
from foresighted.store.directory import (
    NOUNS,
    Claim,
    alone,
    arm_directory,
    check_claim,
    claimed,
    explained,
    kind_of,
    records_of,
)

CONFIGS = {
    "run": {"policy": "embedded", "rounds": 3, "gamma": 0.5},
    "comparison": {"policy": "embedded", "rounds": 3, "arms": ["rlhf"]},
    "sweep": {"game": "linear", "arms": ["rlhf"], "seeds": "0:4"},
    "evaluation": {"policies": ["a=x"]},
    "table": {"judgements": "x.csv"},
    "trl": {"steering": "practical", "records": "foresighted"},
}
DONE = {"run": "rounds.jsonl", "comparison": "arms/rlhf/seed-0/rounds.jsonl", "sweep": "parts/0/runs.json",
        "evaluation": "answers.jsonl", "table": "evaluation.json", "trl": "rounds.jsonl"}  # fmt: skip


def _made(path, kind, *, done=True):
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(CONFIGS[kind]))
    if done:
        (path / DONE[kind]).parent.mkdir(parents=True, exist_ok=True)
        (path / DONE[kind]).write_text("{}\n")
    return path


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_lies_here(tmp_path, kind):
    assert kind_of(_made(tmp_path / "whole", kind)) == kind
    assert kind_of(_made(tmp_path / "begun", kind, done=False)) == kind


def test_what_lies_here_without_a_configuration(tmp_path):
    assert kind_of(tmp_path / "absent") == kind_of(tmp_path) == "nothing"
    (tmp_path / ".lock").write_text("")
    assert kind_of(tmp_path) == "nothing"
    for name, kind in (("thesis.tex", "other"), ("audit.json", "audit"), ("evaluation.json", "evaluation")):
        (tmp_path / name).write_text("{}")
        assert kind_of(tmp_path) == kind
        assert kind_of(tmp_path / name) == kind
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "candidates.jsonl").write_text("")
    assert kind_of(tmp_path / "records") == "run"


def test_records_of_a_trainer_are_found_in_its_folder(tmp_path):
    _made(tmp_path / "foresighted", "trl")
    assert records_of(tmp_path) == tmp_path / "foresighted"
    assert records_of(tmp_path / "foresighted") == tmp_path / "foresighted"


@pytest.mark.parametrize("asked", ["run", "comparison", "sweep", "evaluation"])
@pytest.mark.parametrize("there", CONFIGS)
def test_every_command_is_refused_what_is_not_its_own_in_the_same_words(tmp_path, asked, there):
    claim = Claim(asked, yaml.safe_dump(CONFIGS[asked]))
    out = _made(tmp_path / "out", there)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if asked == there:
        with pytest.raises(RunError, match=f"holds {NOUNS[there]} already; go on with --resume, or choose another"):
            check_claim(claim, out, resume=False)
        assert check_claim(claim, out, resume=True) == CONFIGS[asked]
        return
    with (
        pytest.raises(RunError, match=f"holds {NOUNS[there]}, and {NOUNS[asked]} was to go there"),
        claimed(claim, out, resume=True),
    ):
        pass
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_directory_that_nothing_was_done_in_is_free(tmp_path):
    out = _made(tmp_path / "out", "run", done=False)
    with claimed(Claim("comparison", yaml.safe_dump(CONFIGS["comparison"])), out, resume=False):
        assert kind_of(out) == "comparison"
    (out / "mine.txt").write_text("")
    with pytest.raises(RunError, match="holds a comparison, and a run was to go there"):
        check_claim(Claim("run", ""), out, resume=False)


def test_a_configuration_of_another_program_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("rounds: 3\n")
    for kind in ("run", "sweep", "evaluation"):
        with pytest.raises(RunError, match=f"not empty and holds no {kind}"):
            check_claim(Claim(kind, ""), tmp_path, resume=True)
    with pytest.raises(RunError, match="is a file"):
        check_claim(Claim("run", ""), tmp_path / "config.yaml", resume=True)


def test_other_settings_are_named_but_for_those_that_may_change(tmp_path):
    out = _made(tmp_path / "out", "run")
    asked = CONFIGS["run"] | {"rounds": 9, "gamma": 0.9, "kl": 0.1}
    with pytest.raises(RunError, match=r"\(gamma was 0.5, now 0.9\); give the same, or choose another --out"):
        check_claim(Claim("run", yaml.safe_dump(asked), ("rounds",)), out, resume=True)
    with pytest.raises(RunError, match=r"\(kl was 0.0, now 0.1\)"):  # a setting that an earlier version did not have
        check_claim(Claim("run", yaml.safe_dump(asked), ("rounds", "gamma"), {"kl": 0.0}), out, resume=True)
    with claimed(Claim("run", yaml.safe_dump(asked), ("rounds", "gamma"), {"kl": 0.1}), out, resume=True):
        assert yaml.safe_load((out / "config.yaml").read_text()) == asked


def test_two_processes_do_not_write_in_one_directory(tmp_path):
    with alone(tmp_path / "out"), pytest.raises(RunError, match="another process is writing"), alone(tmp_path / "out"):
        pass
    lock = FileLock(tmp_path / "out" / ".lock", timeout=0)
    with lock, pytest.raises(RunError, match="another process"), alone(tmp_path / "out"):
        pass
    with alone(tmp_path / "out"):
        pass


def test_a_full_disk_and_a_place_that_cannot_be_written_are_one_line(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", "x")
    words = "x: No space left on device; free some space, then go on with --resume"
    with pytest.raises(RunError, match=words), explained(tmp_path):
        raise full
    (tmp_path / "file").write_text("")
    words = r"cannot be written \(Not a directory\); choose another --out"
    with pytest.raises(RunError, match=words), alone(tmp_path / "file" / "out"):
        pass


def test_directories_of_a_comparison(tmp_path):
    assert arm_directory(tmp_path, "relaxed:gamma=0.5", 3) == tmp_path / "arms" / "relaxed-gamma-0.5" / "seed-3"


def test_a_refused_process_changes_nothing(tmp_path):
    """Neither a second process nor a resume that finds something wrong has written a setting that may change."""
    out = _made(tmp_path / "out", "evaluation")
    before = (out / "config.yaml").read_bytes()
    more = Claim("evaluation", yaml.safe_dump({"policies": ["a=x", "b=y"]}), ("policies",))
    with alone(out), pytest.raises(RunError, match="another process"), claimed(more, out, resume=True):
        pass

    def look():
        raise RunError("damaged")

    with pytest.raises(RunError, match="damaged"), claimed(more, out, resume=True, look=look):
        pass
    assert (out / "config.yaml").read_bytes() == before
    with claimed(more, out, resume=True):
        assert (out / "config.yaml").read_bytes() != before
