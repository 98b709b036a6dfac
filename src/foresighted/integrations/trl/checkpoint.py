"""What of foresight is saved with each of the trainer's checkpoints: `checkpoint-N/foresighted/`.

Weights, optimiser state and features are safetensors, the rest is JSON with a hash of every file; the folder appears
by one rename. A checkpoint without it cannot be gone on from: a fresh reward model would not be the run's.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from foresighted.alignment.checkpoint import fsync, sha256, write_tensors
from foresighted.errors import RunError
from foresighted.integrations.trl.follower import Probe, Replica
from foresighted.settings import renamed, to_mapping
from foresighted.store import records

_STATE = "state.json"
_WEIGHTS, _OPTIMIZER, _FEATURES = "reward_model", "optimizer", "features"
MAY_CHANGE = ("records", "label_timeout", "label_retries", "influence_chunk", "reward_model_batch_size", "placement")
"""Settings that a resumed run may change: they leave what is computed as it is, but for the last bits."""


def save(folder: Path, follower: Replica, journal: Path | None) -> None:
    """Write the state to a folder beside the trainer's own checkpoint, by one rename."""
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors, numbers = follower.learner.state()
    plain, features = follower.buffer.state()
    files = {_WEIGHTS: follower.learner.parameters, _OPTIMIZER: tensors, _FEATURES: features}
    state = {
        "config": to_mapping(follower.config),
        **plain,
        "frozen": follower.frozen_fingerprint,
        "optimizer": numbers,
        "probe": asdict(follower.probe),
        "records": None if journal is None else records.byte_counts(journal),
        "sha256": write_tensors(temporary, files),
    }
    (temporary / _STATE).write_text(json.dumps(state))
    fsync(temporary / _STATE)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    fsync(folder.parent)


def restore(folder: Path, follower: Replica) -> dict[str, int] | None:
    """Put back what `save` wrote; return the byte counts of the records at that time.

    Raises:
        RunError: the state is absent, damaged, or of another configuration or reward model.
    """
    state = _read(folder)
    asked = to_mapping(follower.config)
    was = renamed(state["config"], asked)
    differ = [name for name in asked if name not in MAY_CHANGE and was.get(name) != asked[name]]
    if differ:
        changes = "; ".join(f"{name} was {was.get(name)!r}, now {asked[name]!r}" for name in differ)
        raise RunError(f"{folder}: belongs to another configuration ({changes}); start a new run for it")
    saved = load_file(folder / f"{_WEIGHTS}.safetensors")
    parameters = follower.learner.parameters
    if saved.keys() != parameters.keys() or any(saved[key].shape != parameters[key].shape for key in saved):
        raise RunError(f"{folder}: its reward model has other parameters than the one given; give the same one")
    if state["frozen"] != follower.frozen_fingerprint:
        raise RunError(f"{folder}: its reward model has another body than the one given; give the same one")
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(saved[key])
    follower.learner.load_state((load_file(folder / f"{_OPTIMIZER}.safetensors"), state["optimizer"]))
    device = str(follower.reward_model.device)
    follower.buffer.load_state(state, load_file(folder / f"{_FEATURES}.safetensors", device=device))
    follower.probe = Probe(**state["probe"])
    counts: dict[str, int] | None = state["records"]
    return counts


def _read(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text())
    except FileNotFoundError:
        raise RunError(f"{folder}: absent, so the run's reward model is lost here; {_instead(folder)}") from None
    except (OSError, ValueError):
        raise RunError(f"{folder / _STATE}: cannot be read; {_instead(folder)}") from None
    for name, value in state["sha256"].items():
        path = folder / name
        if not path.exists() or sha256(path) != value:
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
