"""Checkpoints: a folder that appears by one rename, with a hash of every file and the byte counts of the records.

Weights and optimiser states are safetensors, the rest is JSON; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foresighted.alignment.round import Loop
from foresighted.errors import RunError
from foresighted.labels.buffer import Counts
from foresighted.store import records

_log = logging.getLogger(__name__)
_STATE = "state.json"
_OPTIMIZERS = ("policy_optimizer", "reward_model_optimizer")
_COUNTS = ("labels_total", "labels_trained", "labels_sum")


def _folder(out: Path) -> Path:
    return out / "checkpoints"


def fsync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensors(loop: Loop) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, float]]]:
    learners = (loop.policy_learner, loop.follower.learner)
    states = [learner.state() for learner in learners]
    files = {"policy": learners[0].parameters, "reward_model": learners[1].parameters}
    files |= {name: state[0] for name, state in zip(_OPTIMIZERS, states, strict=True)}
    return files, {name: state[1] for name, state in zip(_OPTIMIZERS, states, strict=True)}


def write_tensors(folder: Path, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """Write `NAME.safetensors` for each name, flushed to the disk; return each file's SHA-256 by file name."""
    hashes = {}
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
        fsync(path)
        hashes[path.name] = sha256(path)
    return hashes


def save(out: Path, loop: Loop, number: int) -> None:
    """Write the state after round `number` under OUT/checkpoints, then drop all but the newest few."""
    target = _folder(out) / f"round-{number:06d}"
    temporary = target.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    files, numbers = _tensors(loop)
    state = {
        "round": number,
        **{name: getattr(loop.follower.buffer.counts, name) for name in _COUNTS},
        "records": records.byte_counts(out),
        "optimizers": numbers,
        "sha256": write_tensors(temporary, files),
    }
    (temporary / _STATE).write_text(json.dumps(state, indent=1))
    fsync(temporary / _STATE)
    shutil.rmtree(target, ignore_errors=True)  # only a damaged one can be there
    temporary.rename(target)
    fsync(target.parent)
    for old in _all(out)[: -loop.config.keep_checkpoints]:
        shutil.rmtree(old)


def _all(out: Path) -> list[Path]:
    return sorted(path for path in _folder(out).glob("round-*") if path.suffix != ".tmp")


def newest(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None; damaged ones are named in a warning and passed over."""
    for folder in reversed(_all(out)):
        try:
            state = json.loads((folder / _STATE).read_text())
            whole = all(sha256(folder / name) == value for name, value in state["sha256"].items())
        except (OSError, ValueError, KeyError):
            whole = False
        if whole:
            return folder
        _log.warning("%s is damaged; going back to the checkpoint before it", folder)
    return None


def restore(out: Path, loop: Loop) -> int:
    """Put back the newest whole checkpoint, cut the records back to it, and return its round (0: none, start anew).

    Raises:
        RunError: records are shorter than the checkpoint says, or it belongs to other models.
    """
    folder = newest(out)
    if folder is None:
        _report_dropped(records.cut_back(out, dict.fromkeys(records.RECORD_FILES, 0)), 0)
        return 0
    state = json.loads((folder / _STATE).read_text())
    if "labels_sum" not in state:
        raise RunError(f"{folder}: written by foresighted 0.1.0; finish this run with it, or choose another --out")
    learners = {"policy": loop.policy_learner, "reward_model": loop.follower.learner}
    for name, learner in learners.items():
        saved = load_file(folder / f"{name}.safetensors")
        if saved.keys() != learner.parameters.keys():
            raise RunError(f"{folder}: its {name} has other parameters than this configuration's; use another --out")
        with torch.no_grad():
            for key, parameter in learner.parameters.items():
                parameter.copy_(saved[key])
    for name, learner in zip(_OPTIMIZERS, learners.values(), strict=True):
        learner.load_state((load_file(folder / f"{name}.safetensors"), state["optimizers"][name]))
    loop.follower.buffer.counts = Counts(**{name: state[name] for name in _COUNTS})
    _report_dropped(records.cut_back(out, state["records"]), state["round"])
    return int(state["round"])


def _report_dropped(dropped: dict[str, int], number: int) -> None:
    for name, count in dropped.items():
        _log.warning("%s: %d bytes after round %d were not yet checkpointed and are made again", name, count, number)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
