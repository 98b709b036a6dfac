"""What of foresight is saved with each of the trainer's checkpoints: `checkpoint-N/foresighted/`.

Weights, optimiser state and features are safetensors, the rest is JSON with a hash of every file; the folder appears
by one rename. A checkpoint without it cannot be gone on from: a fresh reward model would not be the run's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from foresighted.alignment.probed import Probe
from foresighted.errors import DataError, RunError
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.follower import Replica
from foresighted.labels.buffer import Counts
from foresighted.labels.pair import Pair
from foresighted.settings import names, renamed, to_mapping
from foresighted.store.directory import differences
from foresighted.store.files import Pins, damaged, hashes, new_folder, pinned
from foresighted.store.records import RECORD_FILES
from foresighted.store.rows import plain, read_sealed, write_sealed
from foresighted.store.tensors import save_tensors

_log = logging.getLogger(__name__)
_STATE = "state.json"
_WEIGHTS, _OPTIMIZER, _FEATURES = "reward_model", "optimizer", "features.safetensors"
MAY_CHANGE = (
    "records", "label_timeout", "label_retries", "influence_chunk", "reward_model_batch_size", "placement",
    "wait_for_labels",
)  # fmt: skip  # one list
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
    references: dict[str, list[str]] = field(default_factory=dict)
    """Responses of the frozen policy by the prompt's id, those written first first; none of 0.2."""
    kept: list[Pair] = field(default_factory=list)
    """None of 0.2, whose reward model forgot what it had learnt from."""
    records_sha256: Mapping[str, str] = field(default_factory=dict)
    """Hash of each record file, as long as it was; none of 0.2."""

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration under today's names."""
        return renamed(plain(self.config), names(FPOConfig))

    @property
    def told(self) -> dict[str, Any]:
        """What processes that hold no reward model go on from, too."""
        return {"settings": self.settings, "references": self.references}

    @property
    def pins(self) -> Pins | None:
        """The records as they were; None where none are kept."""
        return None if self.records is None else Pins(self.records, self.records_sha256)


def save(folder: Path, follower: Replica, journal: Path | None, references: Mapping[str, list[str]]) -> None:
    """Write the state to a folder beside the trainer's own checkpoint, by one rename."""
    pairs, features = follower.buffer.state()
    with new_folder(folder) as temporary:
        numbers = follower.learner.save(temporary, _WEIGHTS, _OPTIMIZER)
        save_tensors(temporary / _FEATURES, features)
        pins = None if journal is None else pinned(journal, RECORD_FILES)
        state = {
            "config": to_mapping(follower.config),
            **pairs,
            "frozen": follower.frozen_fingerprint,
            "optimizer": numbers,
            "probe": follower.probe,
            "references": references,
            "records": None if pins is None else pins.records,
            "sha256": hashes(temporary),
            "records_sha256": {} if pins is None else pins.records_sha256,
        }
        write_sealed(temporary / _STATE, state)


def restore(folder: Path, state: State, follower: Replica, journal: Path | None) -> Pins | None:
    """Put back what `save` wrote and `read_state` read; return the records as they were at that time.

    No file is changed.

    Raises:
        RunError: the state is of another configuration or reward model; or what the records in `journal` begin with
            are not those that it was written beside.
    """
    if journal is not None and state.pins is not None and (wrong := state.pins.changed(journal)):
        raise RunError(f"{wrong}; restore the file, or begin a new run")
    if changes := differences(state.settings, plain(to_mapping(follower.config)), MAY_CHANGE):
        raise RunError(f"{folder}: belongs to another configuration ({changes}); start a new run for it")
    if state.frozen != follower.frozen_fingerprint:
        raise RunError(f"{folder}: its reward model has another body than the one given; give the same one")
    told = f"{folder}: its reward model has other parameters than the one given; give the same one"
    follower.learner.restore(folder, _WEIGHTS, _OPTIMIZER, state.optimizer, told)
    features = load_file(folder / _FEATURES, device=str(follower.reward_model.device))
    follower.buffer.load_state(state.counts, state.ready, state.pending, state.kept, features)
    follower.probe = state.probe
    return state.pins


def read_state(folder: Path) -> State:
    """Read what `save` wrote.

    Raises:
        RunError: it is absent or damaged.
    """
    if not (folder / _STATE).exists():
        raise RunError(f"{folder}: absent, so the run's reward model is lost here; {_instead(folder)}")
    try:
        again = _instead(folder)
        state, sealed = read_sealed(folder / _STATE, State, what="state", again=again, since="records_sha256")
    except DataError as error:
        raise RunError(str(error)) from None
    if (path := damaged(folder, state.sha256)) is not None:
        raise RunError(f"{path}: damaged; {_instead(folder)}")
    if not sealed:
        _log.warning("%s: of an earlier version, which hashed neither it nor the records: taken as they are", folder)
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
    except (OSError, ValueError, RecursionError):
        there = None
    if not isinstance(there, dict):
        raise RunError(f"{checkpoint}: is no checkpoint of the trainer; {hint}")
    if there.get("global_step") != step or _numbers(there.get("log_history")) != _numbers(log):
        raise RunError(f"{checkpoint}: is not what the trainer went on from at step {step}; {hint}")
    return checkpoint


def _numbers(log: Any) -> str:
    return json.dumps(log, sort_keys=True, default=repr)
