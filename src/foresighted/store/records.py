"""What happened in a run: one JSON line a candidate, one a round, one a held-out answer.

The loop writes these files, audit and report read nothing else. A line is a dataclass below; a file is only ever
appended to, in whole rounds, and cut back to a checkpoint's byte count when a run resumes. Nothing in a line depends
on the clock, so that two runs that did the same leave the same bytes (wall time goes to `timings.jsonl`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from foresighted.errors import DataError, RunError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class CandidateRow:
    """One candidate of one prompt in one round."""

    round: int
    prompt_id: str
    prompt: str
    candidate: int
    text: str
    tokens: int
    reward: float
    """Proxy reward r(x, y) before this round's update of the reward model."""
    reference_reward: float
    """Proxy reward of this prompt's reference response, or the mean over the other candidates where there is none."""
    gram: float
    """S = <t, g - g'>, g the reward model's gradient at the candidate (in the run's scope), g' at the reference; t is g
    itself (g - g' if the margin is paid), or the mean over the round's candidates (influence `batch`)."""
    utility: float | None
    """True utility U(x, y) where it was read, else null."""
    label: float | None
    """Preference of the candidate over the reference (or, without one, over the candidates it was compared with), in
    [0, 1], where it was read, else null."""
    influence: float
    """I(y), what training on y would do to its own reward, or to the round's mean: -penalty."""
    penalty: float
    kl: float | None
    """log pi(y | x) - log pi_ref(y | x) in nats, where `kl_coefficient` made it needed, else null."""
    score: float
    """reward - penalty - kl_coefficient * kl: what the choice was made by."""
    chosen: bool


@dataclass(frozen=True)
class RoundRow:
    """One round: means over its prompts (`_chosen`: winners only)."""

    round: int
    reward: float
    reward_chosen: float
    reward_reference: float
    utility_chosen: float | None
    utility_reference: float | None
    penalty: float
    penalty_chosen: float
    overconfidence: float | None
    """Mean over the pairs labelled in this round of sigma(|margin|) - label of the side that the reward model prefers,
    before the update (0 for a margin of 0): above 0, it believes too much. Null without a label."""
    reward_model_loss: float | None
    """Before the update; null in a round without one."""
    reward_model_accuracy: float | None
    """Share of these pairs that the reward model ordered as the label does, before the update: a margin of 0 counts one
    half, a label of one half not at all. Null without a pair."""
    policy_loss: float | None
    """Null where another engine trains the policy."""
    tokens: float
    empty: int
    """Candidates without any visible text: never chosen."""
    labels: int
    labels_total: int
    """Preferences read so far for selection or training, the initial pairs included."""
    gamma: float | None = None
    """Steering weight in the form's own units; 0 without steering, null in records of 0.1.0."""
    gamma_share: float | None = None
    """The same as a share of the spread of rewards within a prompt; null without steering or without spread."""
    reward_model_drift: float | None = None
    """Mean absolute change, since the first round, of the rewards of a fixed set of responses; null where none is."""
    labels_failed: int = 0
    """Labels asked for and not given in time: no label was guessed."""


@dataclass(frozen=True)
class HeldoutRow:
    """One held-out prompt answered by the policy after `round` rounds (0: before the first)."""

    round: int
    prompt_id: str
    prompt: str
    kind: str
    text: str
    tokens: int
    reward: float
    utility: float | None
    kl: float | None
    """Sum over the answer's tokens of log pi - log pi_ref: a sample of KL(pi || pi_ref) in nats, or null."""
    distinct_1: float
    distinct_2: float
    """Share of distinct words and word pairs in the answer."""


@dataclass(frozen=True)
class ReferenceRow:
    """The frozen policy's response that a round's candidates are compared with; the same for every arm of a seed."""

    round: int
    prompt_id: str
    prompt: str
    text: str
    tokens: int
    utility: float | None


@dataclass(frozen=True)
class PairRow:
    """One labelled pair of frozen-policy responses on which the reward model was first fitted."""

    prompt_id: str
    prompt: str
    first: str
    second: str
    label: float


CANDIDATES = "candidates.jsonl"
ROUNDS = "rounds.jsonl"
HELDOUT = "heldout.jsonl"
REFERENCES = "references.jsonl"
INITIAL_PAIRS = "initial_pairs.jsonl"
TIMINGS = "timings.jsonl"
RECORD_FILES = (CANDIDATES, ROUNDS, HELDOUT)
"""The files that a checkpoint pins to a byte count."""

Row = TypeVar("Row", bound="DataclassInstance")


def to_line(row: Any) -> str:
    """Return a record as one line of JSON. A float that is not finite is an error here, never a NaN in a file."""
    mapping = row if isinstance(row, Mapping) else asdict(row)
    return json.dumps(mapping, ensure_ascii=False, allow_nan=False) + "\n"


def append(path: Path, rows: Iterable[Any]) -> None:
    """Append rows to a file as whole lines, flushed to the disk before returning."""
    data = "".join(to_line(row) for row in rows).encode()
    if not data:
        return
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_mappings(path: Path, *, ours: bool = True) -> list[dict[str, Any]]:
    """Read a JSONL file; a bad line is an error.

    Args:
        path: the file.
        ours: every whole line ends in a newline, so that what follows the last one is torn (a process died while
            writing) and is left out. In the files of others it is a line like any other.

    Raises:
        DataError: the file is not there, or a line is not a JSON object.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); is this a run directory?") from None
    lines = data.split(b"\n")
    last = lines.pop()  # what follows the last newline
    lines += [last] if last.strip() and not ours else []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object; restore the file or remove this line")
        rows.append(row)
    return rows


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Read a record file as rows of `kind`; columns that a later version added are passed over, those that an earlier
    one did not have yet take their default.

    Raises:
        DataError: a line lacks a column that `kind` has, or a value is of another type or not finite, with its line.
    """
    hints = get_type_hints(kind)
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    rows: list[Row] = []
    for number, mapping in enumerate(read_mappings(path), start=1):
        missing = [name for name in needed if name not in mapping]
        if missing:
            raise DataError(f"{path}, line {number}: lacks {', '.join(missing)}; a {kind.__name__} needs them")
        values = {name: mapping[name] for name in hints if name in mapping}
        for name, value in values.items():
            if not _fits(value, hints[name]):
                raise DataError(
                    f"{path}, line {number}: {name} is {repr(value)[:60]}; expected {_described(hints[name])}"
                )
        rows.append(kind(**values))
    return rows


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is float:
        return _finite(value)
    if isinstance(hint, type):
        return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    return any(_fits(value, part) for part in get_args(hint))


def _finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    names = {
        int: "a whole number", float: "a finite number", str: "text", bool: "true or false", type(None): "null",
    }  # fmt: skip
    return names.get(hint) or " or ".join(_described(part) for part in get_args(hint))


def byte_counts(directory: Path) -> dict[str, int]:
    """Return the present size in bytes of each record file (0 where it does not exist yet)."""
    return {name: (directory / name).stat().st_size if (directory / name).exists() else 0 for name in RECORD_FILES}


def cut_back(directory: Path, counts: Mapping[str, int]) -> dict[str, int]:
    """Cut each record file back to a checkpoint's byte count; return how many bytes each lost.

    Raises:
        RunError: a file is shorter than the checkpoint says, so records are missing.
    """
    dropped = {}
    for name, have in byte_counts(directory).items():
        want = counts[name]
        if have < want:
            raise RunError(
                f"{directory / name}: has {have} bytes, the checkpoint was written at {want}; restore the file,"
                " or remove the newest checkpoint to go on from the one before"
            )
        if have > want:
            os.truncate(directory / name, want)
            dropped[name] = have - want
    return dropped


def arm_directory(out: Path, arm: str, seed: int) -> Path:
    """Return the run directory of one arm and seed inside a comparison, for example `OUT/arms/practical/seed-0`."""
    return out / "arms" / "".join(c if c.isalnum() or c in "._" else "-" for c in arm) / f"seed-{seed}"


def start_directory(out: Path, seed: int) -> Path:
    """Return where a comparison keeps what all arms of a seed share: references and the fitted reward model."""
    return out / "start" / f"seed-{seed}"
