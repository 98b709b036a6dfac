"""What of foresight is saved with each of the trainer's checkpoints: `checkpoint-N/foresighted/`.

Weights, optimiser state and features are safetensors, the rest is JSON with a hash of every file; the folder appears
by one rename. A checkpoint without it cannot be gone on from: a fresh reward model would not be the run's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from foresighted.errors import DataError, RunError
from foresighted.integrations.trl.follower import Probe, Replica
from foresighted.labels.buffer import Counts
from foresighted.labels.pair import Pair
from foresighted.settings import renamed, to_mapping
from foresighted.store.directory import differences
from foresighted.store.files import byte_counts, damaged, hashes, new_folder
from foresighted.store.records import RECORD_FILES
from foresighted.store.rows import plain, read_json, write_json
from foresighted.store.tensors import save_tensors

_STATE = "state.json"
_WEIGHTS, _OPTIMIZER, _FEATURES = "reward_model", "optimizer", "features.safetensors"
MAY_CHANGE = ("records", "label_timeout", "label_retries", "influence_chunk", "reward_model_batch_size", "placement")
"""Settings that a resumed run may change: they leave what is computed as it is, but for the last bits."""


@dataclass(frozen=True)
class State:
    """What is saved besides tensors."""

    config: Mapping[str, Any]
    counts: Counts
    frozen: str
    """Fingerprint of the weights that are not trained."""
    optimizer: dict[str, float]
    probe: Probe
    ready: list[Pair]
    pending: list[Pair]
    records: dict[str, int] | None
    """Size in bytes of each record file."""
    sha256: Mapping[str, str]
    """Hash of each file of tensors."""


def save(folder: Path, follower: Replica, journal: Path | None) -> None:
    """Write the state to a folder beside the trainer's own checkpoint, by one rename."""
    pairs, features = follower.buffer.state()
    with new_folder(folder) as temporary:
        numbers = follower.learner.save(temporary, _WEIGHTS, _OPTIMIZER)
        save_tensors(temporary / _FEATURES, features)
        state = {
            "config": to_mapping(follower.config),
            **pairs,
            "frozen": follower.frozen_fingerprint,
            "optimizer": numbers,
            "probe": follower.probe,
            "records": None if journal is None else byte_counts(journal, RECORD_FILES),
            "sha256": hashes(temporary),
        }
        write_json(temporary / _STATE, state)


def restore(folder: Path, follower: Replica) -> dict[str, int] | None:
    """Put back what `save` wrote; return the byte counts of the records at that time.

    Raises:
        RunError: the state is absent, damaged, or of another configuration or reward model.
    """
    state = _read(folder)
    asked = plain(to_mapping(follower.config))
    if changes := differences(renamed(plain(state.config), asked), asked, MAY_CHANGE):
        raise RunError(f"{folder}: belongs to another configuration ({changes}); start a new run for it")
    if state.frozen != follower.frozen_fingerprint:
        raise RunError(f"{folder}: its reward model has another body than the one given; give the same one")
    told = f"{folder}: its reward model has other parameters than the one given; give the same one"
    follower.learner.restore(folder, _WEIGHTS, _OPTIMIZER, state.optimizer, told)
    features = load_file(folder / _FEATURES, device=str(follower.reward_model.device))
    follower.buffer.load_state(state.counts, state.ready, state.pending, features)
    follower.probe = state.probe
    return state.records


def _read(folder: Path) -> State:
    if not (folder / _STATE).exists():
        raise RunError(f"{folder}: absent, so the run's reward model is lost here; {_instead(folder)}")
    try:
        state = read_json(folder / _STATE, State, what="state", again=_instead(folder))
    except DataError as error:
        raise RunError(str(error)) from None
    if (path := damaged(folder, state.sha256)) is not None:
        raise RunError(f"{path}: damaged; {_instead(folder)}")
    return state


def _instead(folder: Path) -> str:
    """Return what to do: an earlier checkpoint that is whole, or a new run."""
    siblings = [path for path in folder.parents[1].glob("checkpoint-*") if path != folder.parent]
    whole = [path for path in siblings if (path / folder.name / _STATE).exists()]
    if not whole:
        return "start a new run"
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
    return f"resume_from_checkpoint={str(newest)!r} has it"


def of_step(step: int, output_dir: Path, told: Path | None, log: list[Any]) -> Path:
    """Return the trainer's checkpoint that training goes on from.

    A callback is not told which one the trainer read; it is the one of this step whose log is the trainer's.

    Raises:
        RunError: no such checkpoint, or one of another run.
    """
    checkpoint = told or output_dir / f"checkpoint-{step}"
    hint = "give FPOReward(resume_from=CHECKPOINT) the checkpoint that the trainer resumes from"
    try:
        there = json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        raise RunError(f"{checkpoint}: is no checkpoint of the trainer; {hint}") from None
    if there.get("global_step") != step or _numbers(there.get("log_history")) != _numbers(log):
        raise RunError(f"{checkpoint}: is not what the trainer went on from at step {step}; {hint}")
    return checkpoint


def _numbers(log: Any) -> str:
    return json.dumps(log, sort_keys=True, default=repr)
