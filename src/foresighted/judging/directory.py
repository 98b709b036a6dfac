"""The directory of an evaluation: whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from foresighted.errors import ConfigError, RunError
from foresighted.judging.settings import DIGESTS, MAY_CHANGE_ON_RESUME, EvaluateConfig
from foresighted.settings import read_yaml, to_yaml
from foresighted.store.directory import CONFIG, JUDGEMENTS, Claim, check_claim, claimed, kind_of
from foresighted.store.files import sha256


@contextmanager
def claim(config: EvaluateConfig, out: Path, *, resume: bool) -> Iterator[None]:
    """Make a directory this evaluation's own for the time of a `with` block.

    Raises:
        RunError: as `store.directory.claimed`, or it has answers of a policy, or verdicts by a file, that are not asked
            for now.
    """
    digests = _digests(config)
    text = to_yaml(config) + (yaml.safe_dump({DIGESTS: digests}) if digests else "")
    own = Claim("evaluation", text, (*MAY_CHANGE_ON_RESUME, DIGESTS))
    if kind_of(out) == "evaluation":
        _check_policies(config, out)
    _check_files(config, digests, check_claim(own, out, resume=resume), out)
    with claimed(own, out, resume=resume):
        yield


@contextmanager
def claim_for_table(mapping: Mapping[str, Any], out: Path) -> Iterator[None]:
    """Make a directory that of a table's result for the time of a `with` block; an earlier one may be there.

    Args:
        mapping: what `config.yaml` is to say, the key `judgements` included.
        out: the directory.

    Raises:
        RunError: as `store.directory.claimed`.
    """
    text = yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True)
    with claimed(Claim("table", text, tuple(mapping)), out, resume=True):
        yield


def _digests(config: EvaluateConfig) -> dict[str, str]:
    try:
        return {name: sha256(path) for name, path in config.own_files.items()}
    except OSError as error:
        raise ConfigError(f"config: {error.filename} cannot be read ({error.strerror})") from None


def _check_policies(config: EvaluateConfig, out: Path) -> None:
    saved = read_yaml(out / CONFIG) if (out / CONFIG).exists() else {}
    gone = [policy for policy in saved.get("policies", []) if policy not in config.policies]
    if gone:
        raise RunError(f"out: {out} has answers of {gone[0]}, which --policies does not name; choose another --out")


def _check_files(config: EvaluateConfig, digests: Mapping[str, str], saved: Mapping[str, Any], out: Path) -> None:
    before = saved.get(DIGESTS)
    changed = [name for name in digests if isinstance(before, dict) and before.get(name) != digests[name]]
    if changed and (out / JUDGEMENTS).exists():
        raise RunError(
            f"{changed[0]}: {config.own_files[changed[0]]} is not as it was when {out / JUDGEMENTS} was written; put it"
            " back, remove that file to have every pair judged anew, or choose another --out"
        )
