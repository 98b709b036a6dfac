"""Two processes on gloo against one: the same records, equal replicas, no process that waits for ever."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).parent / "distributed.py"
TIMEOUT = 300


@pytest.fixture
def two(start_script, free_port) -> Callable[..., None]:
    """Run a scenario on two processes, with the environment that torchrun gives each."""

    def two(*words: object) -> None:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        shared |= {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        ranks = [start_script(SCRIPT, *words, env=shared | {"RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(2)]
        try:
            assert [rank.wait(TIMEOUT) for rank in ranks] == [0, 0], [rank.stderr for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()

    return two


@pytest.fixture
def distributed() -> SimpleNamespace:
    """The script's scenarios, for one process: this one."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_llama, tiny_deberta) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_llama, folder / "llama")
    shutil.copytree(tiny_deberta, folder / "deberta")
    return folder


def _rows(out: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (out / "foresighted" / name).read_text().splitlines()]


def _spread(rows: list[dict]) -> dict[tuple[int, str], float]:
    """Return the largest size of each column in each round."""
    found: dict[tuple[int, str], float] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float):
                found[row["round"], name] = max(found.get((row["round"], name), 0.0), abs(value))
    return found


def test_groups_that_straddle_two_processes_leave_the_records_of_one(models, tmp_path, distributed, two):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    distributed.replay(models, tmp_path / "1")
    torch.set_num_threads(threads)
    two(models, tmp_path / "2", "replay")
    assert {path.name for path in (tmp_path / "2").iterdir()} == set(distributed.ARMS)
    for arm in distributed.ARMS:
        one, two = tmp_path / "1" / arm, tmp_path / "2" / arm
        for name in ("candidates.jsonl", "rounds.jsonl"):
            # Gradients are summed in another order. In float64 the records agree to 1e-12; in float32 a product that is
            # a small difference of large ones (gram, penalty) keeps the rounding of those, so columns give the scale.
            largest = _spread(_rows(one, name))
            for a, b in zip(_rows(one, name), _rows(two, name), strict=True):
                for column, value in a.items():
                    if isinstance(value, float):
                        near = 1e-3 * largest[a["round"], column] + 1e-6
                        assert value == pytest.approx(b[column], rel=0, abs=near), (arm, name, column)
                    else:
                        assert value == b[column], (arm, name, column)


def test_a_mistake_on_one_process_is_said_on_both(models, tmp_path, two):
    two(models, tmp_path, "failures")
    said = {path.stem: path.read_text() for path in tmp_path.glob("*.txt")}
    assert said["different-0"] == said["different-1"]
    assert "RunError: reward model: after loading its replica on process 1 differs from" in said["different-0"]
    assert said["away-0"] == "ConnectionError: the disk is away"
    assert said["away-1"] == "RunError: ConnectionError: the disk is away"
    assert said["refused-0"].startswith("DataError: labels: got 1.5; a preference lies in [0, 1]")
    assert said["refused-1"].startswith("RunError: labels: got 1.5; a preference lies in [0, 1]")


def test_a_killed_trainer_goes_on_to_the_same_records_weights_and_policy(models, tmp_path, two):
    two(models, tmp_path, "killed_and_resumed")
    whole, cut = tmp_path / "whole", tmp_path / "killed"
    names = ["foresighted/candidates.jsonl", "foresighted/rounds.jsonl", "foresighted/heldout.jsonl"]
    names += [f"weights-{rank}.json" for rank in range(2)]
    names += ["checkpoint-6/model.safetensors", "checkpoint-6/foresighted/reward_model.safetensors"]
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    assert len({(whole / f"weights-{rank}.json").read_text() for rank in range(2)}) == 1
    rounds = _rows(whole, "rounds.jsonl")
    assert [row["reward_model_loss"] is not None for row in rounds] == [False, True] * 3
    assert {row["round"] for row in _rows(whole, "heldout.jsonl")} == {2, 4, 6}
