"""Checkpoints: a folder that appears by one rename, with a hash of every file and the byte counts of the records.

Weights and optimiser states are safetensors, the rest is JSON; nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from foresighted.alignment.round import Loop
from foresighted.errors import RunError
from foresighted.labels.buffer import Counts
from foresighted.store.files import byte_counts, cut_back, damaged, hashes, new_folder
from foresighted.store.records import RECORD_FILES
from foresighted.store.rows import read_json, write_json
from foresighted.store.tensors import read_tensors, save_tensors

_log = logging.getLogger(__name__)
_STATE = "state.json"
_OPTIMIZERS = ("policy_optimizer", "reward_model_optimizer")


@dataclass(frozen=True)
class State:
    """What a checkpoint holds besides tensors."""

    round: int
    labels_total: int
    labels_trained: int
    labels_sum: float
    records: Mapping[str, int]
    """Size in bytes of each record file."""
    optimizers: dict[str, dict[str, float]]
    sha256: Mapping[str, str]
    """Hash of each file of tensors."""


def _folder(out: Path) -> Path:
    return out / "checkpoints"


def _tensors(loop: Loop) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, float]]]:
    learners = (loop.policy_learner, loop.follower.learner)
    states = [learner.state() for learner in learners]
    files = {"policy": learners[0].parameters, "reward_model": learners[1].parameters}
    files |= {name: state[0] for name, state in zip(_OPTIMIZERS, states, strict=True)}
    return files, {name: state[1] for name, state in zip(_OPTIMIZERS, states, strict=True)}


def save(out: Path, loop: Loop, number: int) -> None:
    """Write the state after round `number` under OUT/checkpoints, then drop all but the newest few."""
    tensors, numbers = _tensors(loop)
    counts = loop.follower.buffer.counts
    with new_folder(_folder(out) / f"round-{number:06d}") as folder:
        for name, values in tensors.items():
            save_tensors(folder / f"{name}.safetensors", values)
        state = State(
            number, counts.labels_total, counts.labels_trained, counts.labels_sum, byte_counts(out, RECORD_FILES),
            numbers, hashes(folder),
        )  # fmt: skip
        write_json(folder / _STATE, state)
    for old in _all(out)[: -loop.config.keep_checkpoints]:
        shutil.rmtree(old)


def _all(out: Path) -> list[Path]:
    return sorted(path for path in _folder(out).glob("round-*") if path.suffix != ".tmp")


def newest(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None; damaged ones are named in a warning and passed over."""
    for folder in reversed(_all(out)):
        try:
            if not damaged(folder, json.loads((folder / _STATE).read_bytes())["sha256"]):
                return folder
        except (OSError, ValueError, KeyError):
            pass
        _log.warning("%s is damaged; going back to the checkpoint before it", folder)
    return None


def restore(out: Path, loop: Loop) -> int:
    """Put back the newest whole checkpoint, cut the records back to it, and return its round (0: none, start anew).

    Raises:
        RunError: records are shorter than the checkpoint says, or it belongs to other models.
    """
    folder = newest(out)
    if folder is None:
        _report_dropped(cut_back(out, dict.fromkeys(RECORD_FILES, 0)), 0)
        return 0
    if "labels_sum" not in json.loads((folder / _STATE).read_bytes()):
        raise RunError(f"{folder}: written by foresighted 0.1.0; finish this run with it, or choose another --out")
    state = read_json(folder / _STATE, State, what="state", again="remove this checkpoint to go on from the one before")
    learners = {"policy": loop.policy_learner, "reward_model": loop.follower.learner}
    for name, learner in learners.items():
        read_tensors(
            folder / f"{name}.safetensors", learner.parameters,
            f"{folder}: its {name} has other parameters than this configuration's; use another --out",
        )  # fmt: skip
    for name, learner in zip(_OPTIMIZERS, learners.values(), strict=True):
        learner.load_state((load_file(folder / f"{name}.safetensors"), state.optimizers[name]))
    loop.follower.buffer.counts = Counts(
        labels_total=state.labels_total, labels_trained=state.labels_trained, labels_sum=state.labels_sum
    )
    _report_dropped(cut_back(out, state.records), state.round)
    return state.round


def _report_dropped(dropped: dict[str, int], number: int) -> None:
    for name, count in dropped.items():
        _log.warning("%s: %d bytes after round %d were not yet checkpointed and are made again", name, count, number)
