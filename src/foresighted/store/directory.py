"""Directories of runs: what lies there, whose it is, and that only one process writes there."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.settings import read_yaml, renamed
from foresighted.store import files
from foresighted.store.records import CANDIDATES, HELDOUT, ROUNDS

CONFIG = "config.yaml"
LOCK = ".lock"
LOG = "log.txt"
ANSWERS = "answers.jsonl"
JUDGEMENTS = "judgements.jsonl"
QUESTIONS = "questions.jsonl"
EVALUATION = "evaluation.json"
AUDIT = "audit.json"
VERDICTS = "collapse.jsonl"
"""What a monitor said, in the directory of what it watched."""
LOOPS = "loops"
"""Where a rehearsal keeps its loops, as a comparison."""
TRAINER_FOLDER = "foresighted"
"""Where FPOReward keeps its records inside a trainer's output directory."""

Kind = Literal[
    "run", "comparison", "rehearsal", "sweep", "evaluation", "table", "trl", "audit", "owner", "queue", "other",
    "nothing",
]  # fmt: skip
NOUNS: Mapping[Kind, str] = {
    "run": "a run", "comparison": "a comparison", "rehearsal": "a rehearsal", "sweep": "a sweep",
    "evaluation": "an evaluation", "table": "the result of a table of judgements",
    "trl": "the records of a TRL trainer", "audit": "an audit",
    "owner": "a reward owner", "queue": "questions for people", "other": "something else", "nothing": "nothing",
}  # fmt: skip
"""What lies in a directory, in words."""
_TOLD_BY: Mapping[str, Kind] = {
    "group_deadline": "owner",
    "game": "sweep", "judgements": "table", "policies": "evaluation", "minutes": "rehearsal", "arms": "comparison",
    "records": "trl", "policy": "run",
}  # fmt: skip
"""Key of `config.yaml` -> whose it is; the first that is there counts."""
_SHOWN_BY: Mapping[str, Kind] = {
    EVALUATION: "evaluation", AUDIT: "audit", HELDOUT: "run", ROUNDS: "run", CANDIDATES: "run",
    QUESTIONS: "queue",
}  # fmt: skip
"""The same without one, by its files."""
_BEFORE_THE_FIRST_ROW = {
    CONFIG,
    LOCK,
    LOG,
    "environment.json",
    "start",
    "arms",
    LOOPS,
    "prompts.jsonl",
    "parts",
    "judge.sqlite",
    "judge.sqlite-journal",
    ANSWERS,
    "hashes.json",
}
"""What a command may leave that was stopped before it had done anything."""


def kind_of(path: Path) -> Kind:
    """Return what lies at a path, by the settings in its `config.yaml`, else by the files that are there."""
    if path.is_file():
        return "evaluation" if path.name == EVALUATION else "audit" if path.name == AUDIT else "other"
    if not path.is_dir() or not _names(path) - {LOCK, LOG}:
        return "nothing"
    config = _config(path)
    shown: Kind = next((kind for name, kind in _SHOWN_BY.items() if (path / name).exists()), "other")
    kind = next((kind for key, kind in _TOLD_BY.items() if key in config), shown)
    return "evaluation" if kind == "table" and (path / ANSWERS).exists() else kind


def what_to_read(path: Path) -> Literal["evaluation", "audit", "comparison", "rehearsal"]:
    """Return as what a report reads what lies at a path; a run is a comparison of one arm.

    Raises:
        DataError: nothing that a report reads lies there.
    """
    kind = kind_of(path)
    if kind in ("run", "comparison", "trl", "owner"):
        return "comparison"
    if kind in ("audit", "rehearsal"):
        return kind
    if kind in ("evaluation", "table"):
        return "evaluation"
    what = f"holds {NOUNS[kind]}" if path.exists() else "cannot be read, nothing is there"
    raise DataError(
        f"{path}: {what}; give a directory of train, compare, rehearse, evaluate or audit --out, its {EVALUATION} or"
        f" {AUDIT}, or the output_dir of a trainer with FPOReward"
    )


def _names(path: Path) -> set[str]:
    return {inside.name for inside in path.iterdir() if not inside.name.endswith(".tmp")}


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path / CONFIG)
    except ConfigError:
        return {}


def records_of(path: Path) -> Path:
    """Return the path itself, or the folder of records inside a trainer's output directory."""
    inside = path / TRAINER_FOLDER
    return inside if kind_of(inside) in ("run", "trl") and not (path / ROUNDS).exists() else path


class Taken(RunError):  # noqa: N818  # nothing is wrong with it
    """A directory that another process has."""


@dataclass(frozen=True)
class Claim:
    """What is to lie in a directory."""

    kind: Kind
    config: str
    """Its `config.yaml`."""
    may_change: Collection[str] = ()
    """Settings that may be other ones than in the `config.yaml` that is there."""
    usual: Mapping[str, Any] = field(default_factory=dict)
    """Settings that it may not name, because an earlier version did not have them, and what they were."""


def check_claim(claim: Claim, out: Path, *, resume: bool) -> dict[str, Any]:
    """Check that a directory is free, or holds this very run and `resume` is set. Writes nothing.

    Args:
        claim: what is to lie there.
        out: the directory.
        resume: go on with what is there.

    Returns:
        What that `config.yaml` says; nothing where nothing was done yet.

    Raises:
        RunError: the directory holds something else, another configuration, or a run without `resume`.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"out: {out} is a file; choose another --out")
    kind, found = claim.kind, kind_of(out)
    begun = found != "nothing" and (_begun(out) or bool(_names(out) - _BEFORE_THE_FIRST_ROW))
    if found == "nothing" or (found != "other" and not begun):
        return {}
    if found == "other":
        raise RunError(f"out: {out} is not empty and holds no {NOUNS[kind].split()[-1]}; choose another --out")
    if found != kind:
        raise RunError(f"out: {out} holds {NOUNS[found]}, and {NOUNS[kind]} was to go there; choose another --out")
    if not resume:
        raise RunError(f"out: {out} holds {NOUNS[kind]} already; go on with --resume, or choose another --out")
    asked = yaml.safe_load(claim.config) or {}
    saved = renamed(read_yaml(out / CONFIG), asked)
    if changes := differences({**claim.usual, **saved}, asked, claim.may_change):
        raise RunError(
            f"out: {out} belongs to another configuration ({changes}); give the same, or choose another --out"
        )
    return saved


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any], may_change: Collection[str]) -> str:
    """Return, in words, the settings that are now asked for otherwise, but for those that may change.

    What `saved` does not name is passed over.
    """
    differ = [n for n, value in asked.items() if n not in may_change and saved.get(n, value) != value]
    return "; ".join(f"{name} was {saved[name]!r}, now {asked[name]!r}" for name in differ)


def _begun(out: Path) -> bool:
    return any(path.stat().st_size for path in out.rglob("*.jsonl")) or any((out / "parts").glob("[!.]*"))


@contextmanager
def claimed(claim: Claim, out: Path, *, resume: bool, look: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Make a directory a run's own by writing `config.yaml`, and keep other processes out for a `with` block.

    Args and errors are those of `check_claim`, `alone` and `explained`. `look` is called before anything is written, so
    that what it raises leaves the directory as it was.
    """
    check_claim(claim, out, resume=resume)  # before a lock file is put where nothing of ours belongs
    with alone(out):
        check_claim(claim, out, resume=resume)
        look()
        files.write(out / CONFIG, claim.config)
        yield


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Make a directory if need be and keep a second process out of it for the time of a `with` block.

    Raises:
        RunError: another process holds it, it cannot be written, or what `explained` raises.
    """
    from filelock import FileLock, Timeout

    try:
        files.make_folder(out)
        held = FileLock(out / LOCK, timeout=0).acquire()
    except Timeout:
        raise Taken(f"out: another process is writing in {out}; wait for it or choose another --out") from None
    except OSError as error:
        raise RunError(f"out: {out} cannot be written ({error.strerror}); choose another --out") from None
    with held, explained(out):
        yield


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Turn what the operating system refuses in a `with` block, for example on a full disk, into one line.

    Raises:
        RunError: in place of an `OSError`, and of what `store.files.named` knows for one.
    """
    try:
        with files.named(out):
            yield
    except BrokenPipeError:  # whoever read what was printed has gone
        raise
    except OSError as error:
        raise RunError(f"{refused(error)}, then go on with --resume: what is done is kept") from None


def refused(error: OSError) -> str:
    """Return in words what the operating system refused, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
    return f"{what}; {'free some space' if full else 'mend this'}"


def arm_directory(out: Path, arm: str, seed: int) -> Path:
    """Return the run directory of one arm and seed inside a comparison, for example `OUT/arms/practical/seed-0`."""
    return out / "arms" / "".join(c if c.isalnum() or c in "._" else "-" for c in arm) / f"seed-{seed}"


def start_directory(out: Path, seed: int) -> Path:
    """Return where a comparison keeps what all arms of a seed share: references and the fitted reward model."""
    return out / "start" / f"seed-{seed}"
