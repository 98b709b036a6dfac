"""The versions of a reward model on disk: each a folder that appears by one rename and is never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from foresighted.alignment.probed import Probe, ProbedFollower
from foresighted.errors import DataError, RunError
from foresighted.labels.pair import Pair
from foresighted.store.files import damaged, hashes, new_folder
from foresighted.store.rows import read_sealed, write_sealed
from foresighted.store.tensors import save_tensors

VERSIONS = "versions"
_STATE, _WEIGHTS, _OPTIMIZER, _FEATURES = "state.json", "reward_model", "optimizer", "features.safetensors"


@dataclass(frozen=True)
class Version:
    """What is saved of a version besides tensors."""

    version: int
    frozen: str
    """Fingerprint of the weights that are not trained."""
    optimizer: dict[str, float]
    probe: Probe
    learnt: list[str]
    """Ids of the pairs that were new to it, whose features are saved where they are known and never change."""
    sha256: dict[str, str]


def folder_of(owner: Path, version: int) -> Path:
    """Return where a version lies."""
    return owner / VERSIONS / f"{version:06d}"


def present(owner: Path) -> list[int]:
    """Return the versions that are on disk."""
    found = (owner / VERSIONS).glob("[0-9]*") if (owner / VERSIONS).is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit())


def save(owner: Path, version: int, follower: ProbedFollower, learnt: Sequence[Pair]) -> None:
    """Write a version, by one rename."""
    with new_folder(folder_of(owner, version)) as temporary:
        numbers = follower.learner.save(temporary, _WEIGHTS, _OPTIMIZER)
        save_tensors(temporary / _FEATURES, {p.id: p.features for p in learnt if p.features is not None})
        write_sealed(
            temporary / _STATE,
            Version(
                version, follower.frozen_fingerprint, numbers, follower.probe, [p.id for p in learnt], hashes(temporary)
            ),
        )


def restore(owner: Path, version: int, follower: ProbedFollower) -> None:
    """Put a version's weights, optimiser state and probe into a follower.

    Raises:
        RunError: it is absent or damaged, or of another reward model.
    """
    folder = folder_of(owner, version)
    state = _read(folder)
    if state.frozen != follower.frozen_fingerprint:
        raise RunError(f"{folder}: its reward model has another body than the one given; give the same reward_model")
    told = f"{folder}: its reward model has other parameters than the one given; give the same reward_model"
    follower.learner.restore(folder, _WEIGHTS, _OPTIMIZER, state.optimizer, told)
    follower.probe = state.probe
    follower.settle()


def recall(owner: Path, learnt: Mapping[int, Sequence[Pair]], device: str) -> None:
    """Give pairs that versions learnt from the features that were saved with them."""
    for version, pairs in learnt.items():
        known = load_file(folder_of(owner, version) / _FEATURES, device=device) if pairs else {}
        for pair in pairs:
            pair.features = known.get(pair.id)


def _read(folder: Path) -> Version:
    again = "go back to an earlier version: foresighted owner rollback FOLDER VERSION"
    if not (folder / _STATE).exists():
        raise RunError(f"{folder}: absent or not whole; {again}")
    try:
        state, _ = read_sealed(folder / _STATE, Version, what="version", again=again, since="sha256")
    except DataError as error:
        raise RunError(str(error)) from None
    if (path := damaged(folder, state.sha256)) is not None:
        raise RunError(f"{path}: damaged; {again}")
    return state
