"""Checkpoints: a folder that appears by one rename, with a hash of every file, of itself and of the records so far.

Weights and optimiser states are safetensors, the rest is JSON; nothing is pickled. What a run goes on from is found and
checked whole (`find`) before anything is written (`restore`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from foresighted.alignment.round import Loop
from foresighted.errors import DataError, RunError
from foresighted.labels.buffer import Counts
from foresighted.labels.pair import Pair
from foresighted.models.learner import Learner
from foresighted.prompts import PromptSet
from foresighted.settings import MAY_CHANGE_ON_RESUME, TrainConfig, renamed, to_mapping
from foresighted.store.directory import differences
from foresighted.store.files import Pins, damaged, hashes, new_folder, pinned
from foresighted.store.records import RECORD_FILES
from foresighted.store.rows import plain, read_sealed, write_sealed
from foresighted.store.tensors import save_tensors

_log = logging.getLogger(__name__)
_STATE = "state.json"
_FEATURES = "kept.safetensors"
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
    records_sha256: Mapping[str, str] = field(default_factory=dict)
    """Hash of each record file, as long as it was. None of 0.2 has one, or any of the following."""
    config: Mapping[str, Any] = field(default_factory=dict)
    prompts: str = ""
    """`prompts_digest` of all prompts of the run."""
    kept: list[Pair] = field(default_factory=list)
    """What the reward model goes on learning from; none of 0.2, whose reward model forgot it."""
    pending: list[Pair] = field(default_factory=list)
    """What people were asked and have not answered yet."""

    @property
    def pins(self) -> Pins:
        """The records as they were."""
        return Pins(self.records, self.records_sha256)


class Found(NamedTuple):
    """A whole checkpoint."""

    folder: Path
    state: State


def prompts_digest(prompts: PromptSet) -> str:
    """Return a hash of the prompts that a run asks: a file may have changed since it began."""
    told = [[(prompt.id, prompt.text) for prompt in part] for part in prompts]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def save(out: Path, loop: Loop, number: int, prompts: str) -> None:
    """Write the state after round `number` under OUT/checkpoints."""
    counts = loop.follower.buffer.counts
    with new_folder(out / _FOLDER / f"round-{number:06d}") as folder:
        numbers = {f"{n}_optimizer": learner.save(folder, n, f"{n}_optimizer") for n, learner in _learners(loop)}
        pins = pinned(out, RECORD_FILES)
        remembered, features = loop.follower.buffer.state()
        if features:
            save_tensors(folder / _FEATURES, features)
        loop.resets.save(folder)
        state = State(
            number, counts.labels_total, counts.labels_trained, counts.labels_sum, pins.records, numbers,
            hashes(folder), pins.records_sha256, to_mapping(loop.config), prompts, remembered["kept"],
            remembered["pending"],
        )  # fmt: skip
        write_sealed(folder / _STATE, state)


def prune(out: Path, keep: int) -> None:
    """Drop all but the newest checkpoints, and what a process left that was killed while it wrote one."""
    for old in _all(out)[:-keep]:
        shutil.rmtree(old)
    for left in (out / _FOLDER).glob("round-*.tmp"):
        shutil.rmtree(left)


def _learners(loop: Loop) -> tuple[tuple[str, Learner], ...]:
    return ("policy", loop.policy_learner), ("reward_model", loop.follower.learner)


def _all(out: Path) -> list[Path]:
    return sorted(path for path in (out / _FOLDER).glob("round-*") if path.suffix != ".tmp")


def newest(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None; damaged ones are named in a warning and passed over."""
    found = next(iter(_whole(out)), None)
    return None if found is None else found.folder


def _whole(out: Path) -> Iterable[Found]:
    for folder in reversed(_all(out)):
        try:
            state = _read(folder)
        except DataError:
            _log.warning("%s is damaged; going back to the checkpoint before it", folder)
        else:
            yield Found(folder, state)


def _read(folder: Path) -> State:
    path, again = folder / _STATE, "remove this checkpoint to go on from the one before"
    _refuse_first_version(folder)
    state, _ = read_sealed(path, State, what="state", again=again, since="records_sha256")
    if (file := damaged(folder, state.sha256)) is not None:
        raise DataError(f"{file} is damaged")
    if folder.name != f"round-{state.round:06d}" or any(size < 0 for size in state.records.values()):
        raise DataError(f"{path} is damaged")
    return state


def _refuse_first_version(folder: Path) -> None:
    try:
        state = json.loads((folder / _STATE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(state, dict) and "labels_total" in state and not {"labels_sum", "seal"} & state.keys():
        raise RunError(f"{folder}: written by foresighted 0.1.0; finish this run with it, or choose another --out")


def find(out: Path, config: TrainConfig, prompts: str, *, at: int | None = None) -> Found | None:
    """Return what a run goes on from: its newest whole checkpoint, or None where there is none yet. Writes nothing.

    Args:
        out: the run directory.
        config: of the run now.
        prompts: `prompts_digest` of its prompts now.
        at: the round to go on from, where its checkpoint is whole; else, and for None, the newest.

    Raises:
        RunError: every checkpoint is damaged; or records, settings or prompts are not what the newest whole one says.
    """
    whole = iter(_whole(out))
    found = next(whole, None)
    if at is not None and found is not None and found.state.round > at:
        found = next((one for one in whole if one.state.round == at), found)
    if found is None:
        if _all(out):
            raise RunError(
                f"{out / _FOLDER}: every checkpoint is damaged; restore one, or remove that folder to begin anew"
            )
        return None
    folder, state = found
    asked = plain(to_mapping(config))
    if changes := differences(renamed(plain(state.config), asked), asked, MAY_CHANGE_ON_RESUME):
        raise RunError(f"{folder}: belongs to another configuration ({changes}); give the same, or another --out")
    if state.prompts not in ("", prompts):
        raise RunError(
            f"prompts: {config.prompts} holds others than when {out} began; put them back, or choose another --out"
        )
    if wrong := state.pins.changed(out):
        before = next((one.folder.name for one in whole if not one.state.pins.changed(out)), None)
        advice = f"remove the checkpoints after {before}" if before else "choose another --out"
        raise RunError(f"{wrong}; restore the file, or {advice}")
    if not state.records_sha256:
        _log.warning("%s: of an earlier version, which kept no hash of the records: they are taken as they are", folder)
    return found


def restore(out: Path, loop: Loop, found: Found | None) -> int:
    """Put back a checkpoint, cut the records back to it, and return its round (None: 0, nothing was saved yet).

    Raises:
        RunError: it belongs to other models.
    """
    if found is None:
        _report_dropped(Pins(dict.fromkeys(RECORD_FILES, 0)).cut_back(out), 0)
        return 0
    folder, state = found
    for name, learner in _learners(loop):
        told = f"{folder}: its {name} has other parameters than this configuration's; use another --out"
        learner.restore(folder, name, f"{name}_optimizer", state.optimizers.get(f"{name}_optimizer", {}), told)
    loop.follower.settle()
    loop.resets.restore(folder)
    counts = Counts(labels_total=state.labels_total, labels_trained=state.labels_trained, labels_sum=state.labels_sum)
    device = str(loop.follower.reward_model.device)
    features = load_file(folder / _FEATURES, device=device) if _FEATURES in state.sha256 else {}
    loop.follower.buffer.load_state(counts, (), state.pending, state.kept, features)
    _report_dropped(state.pins.cut_back(out), state.round)
    return state.round


def _report_dropped(dropped: dict[str, int], number: int) -> None:
    for name, count in dropped.items():
        _log.warning("%s: %d bytes after round %d were not yet checkpointed and are made again", name, count, number)
