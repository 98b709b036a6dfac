"""The directory of an evaluation: whose it is, and that only one process writes there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from foresighted.errors import ConfigError, RunError
from foresighted.judging.rows import ANSWERS, CAPABILITIES, CONFIG, EVALUATION, JUDGEMENTS
from foresighted.judging.settings import DIGESTS, MAY_CHANGE_ON_RESUME, EvaluateConfig
from foresighted.settings import read_yaml, to_yaml

LOCK = ".lock"
_TABLE = "judgements"  # key of config.yaml in the result of a table
ALLOWED = (
    CONFIG,
    ANSWERS,
    JUDGEMENTS,
    CAPABILITIES,
    EVALUATION,
    LOCK,
    "judge.sqlite",
    "environment.json",
    "report.html",
)
"""What an evaluation leaves; a directory with anything else and no `config.yaml` is left alone."""


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a second process out of a directory for the time of a `with` block.

    Raises:
        RunError: another process holds it, or the disk is full.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout:
        raise RunError(f"out: another process is writing in {out}; wait for it or choose another --out") from None
    except OSError as error:  # a full disk, for example
        raise RunError(
            f"{error.filename or out}: {error.strerror or error}; mend this, then go on with"
            " --resume: what is done is kept"
        ) from None


def claim(config: EvaluateConfig, out: Path, *, resume: bool) -> None:
    """Make a directory this evaluation's own by writing `config.yaml`.

    Raises:
        RunError: it holds something else, another configuration, or an evaluation without `resume`.
    """
    path, digests = out / CONFIG, _digests(config)
    begun = any((out / name).exists() and (out / name).stat().st_size for name in (ANSWERS, JUDGEMENTS))
    if path.exists() and begun:
        if not resume:
            raise RunError(f"out: {out} holds an evaluation already; go on with --resume, or choose another --out")
        _check_same(config, digests, read_yaml(path), out)
    text = to_yaml(config) + (yaml.safe_dump({DIGESTS: digests}) if digests else "")
    write_config(out, text, allowed=ALLOWED)


def claim_for_table(mapping: Mapping[str, Any], out: Path) -> None:
    """Make a directory that of a table's result by writing `mapping`, which has the key `judgements`.

    Raises:
        RunError: it holds anything but an earlier result of a table.
    """
    path = out / CONFIG
    own = path.exists() and _TABLE in read_yaml(path)
    found = [name for name in (CONFIG, ANSWERS, JUDGEMENTS, EVALUATION) if (out / name).exists()]
    foreign = [name for name in found if name == ANSWERS or not own]
    if foreign:
        raise RunError(f"out: {out} holds {foreign[0]} that --judgements did not write; choose another --out")
    write_config(out, yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True), allowed=ALLOWED)


def refuse_table(saved: Mapping[str, Any], out: Path) -> None:
    """Refuse to go on in the directory of a table's result.

    Raises:
        RunError: `saved`, what its `config.yaml` holds, is that of a table.
    """
    if _TABLE in saved:
        raise RunError(f"out: {out} holds the result of a table of judgements; choose another --out")


def _digests(config: EvaluateConfig) -> dict[str, str]:
    try:
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in config.own_files.items()}
    except OSError as error:
        raise ConfigError(f"config: {error.filename} cannot be read ({error.strerror})") from None


def _check_same(config: EvaluateConfig, digests: dict[str, str], saved: dict[str, Any], out: Path) -> None:
    refuse_table(saved, out)
    asked = yaml.safe_load(to_yaml(config))
    gone = [policy for policy in saved.get("policies", []) if policy not in asked["policies"]]
    if gone:
        raise RunError(f"out: {out} has answers of {gone[0]}, which --policies does not name; choose another --out")
    differ = [
        name for name, value in asked.items() if name not in MAY_CHANGE_ON_RESUME and saved.get(name, value) != value
    ]
    if differ:
        changes = "; ".join(f"{name} was {saved[name]!r}, now {asked[name]!r}" for name in differ)
        raise RunError(f"out: {out} belongs to another configuration ({changes}); choose another --out")
    before = saved.get(DIGESTS)
    changed = [name for name in digests if isinstance(before, dict) and before.get(name) != digests[name]]
    if changed and (out / JUDGEMENTS).exists():
        raise RunError(
            f"{changed[0]}: {config.own_files[changed[0]]} is not as it was when {out / JUDGEMENTS} was written; put it"
            " back, remove that file to have every pair judged anew, or choose another --out"
        )


def write_config(out: Path, text: str, *, allowed: Sequence[str]) -> None:
    """Write `config.yaml` by one rename, if what is in the directory may be there.

    Raises:
        RunError: the directory holds something else, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"out: {out} is a file; choose another --out")
    if out.is_dir() and not (out / CONFIG).exists() and any(path.name not in allowed for path in out.iterdir()):
        raise RunError(f"out: {out} is not empty and holds no evaluation; choose another --out")
    if (out / CONFIG).exists() and any((out / name).exists() for name in ("candidates.jsonl", "arms")):
        raise RunError(f"out: {out} holds a run of train or compare; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = out / f"{CONFIG}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, out / CONFIG)
    except OSError as error:
        raise RunError(f"out: {out} cannot be written ({error.strerror}); choose another --out") from None
