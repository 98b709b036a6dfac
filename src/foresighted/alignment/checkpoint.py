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

from foresighted.alignment.round import Loop
from foresighted.errors import RunError
from foresighted.labels.buffer import Counts
from foresighted.models.learner import Learner
from foresighted.store.files import byte_counts, cut_back, damaged, hashes, new_folder
from foresighted.store.records import RECORD_FILES
from foresighted.store.rows import read_json, write_json

_log = logging.getLogger(__name__)
_STATE = "state.json"
_FOLDER = "checkpoints"


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


def save(out: Path, loop: Loop, number: int) -> None:
    """Write the state after round `number` under OUT/checkpoints, then drop all but the newest few."""
    counts = loop.follower.buffer.counts
    with new_folder(out / _FOLDER / f"round-{number:06d}") as folder:
        numbers = {f"{n}_optimizer": learner.save(folder, n, f"{n}_optimizer") for n, learner in _learners(loop)}
        state = State(
            number, counts.labels_total, counts.labels_trained, counts.labels_sum, byte_counts(out, RECORD_FILES),
            numbers, hashes(folder),
        )  # fmt: skip
        write_json(folder / _STATE, state)
    for old in _all(out)[: -loop.config.keep_checkpoints]:
        shutil.rmtree(old)


def _learners(loop: Loop) -> tuple[tuple[str, Learner], ...]:
    return ("policy", loop.policy_learner), ("reward_model", loop.follower.learner)


def _all(out: Path) -> list[Path]:
    return sorted(path for path in (out / _FOLDER).glob("round-*") if path.suffix != ".tmp")


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
    for name, learner in _learners(loop):
        told = f"{folder}: its {name} has other parameters than this configuration's; use another --out"
        learner.restore(folder, name, f"{name}_optimizer", state.optimizers[f"{name}_optimizer"], told)
    loop.follower.buffer.counts = Counts(
        labels_total=state.labels_total, labels_trained=state.labels_trained, labels_sum=state.labels_sum
    )
    _report_dropped(cut_back(out, state.records), state.round)
    return state.round


def _report_dropped(dropped: dict[str, int], number: int) -> None:
    for name, count in dropped.items():
        _log.warning("%s: %d bytes after round %d were not yet checkpointed and are made again", name, count, number)
