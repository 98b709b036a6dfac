"""What an audit says, as frozen dataclasses: `foresighted audit` prints them, `audit.json` holds them.

Every estimate is an `Interval` of `foresighted.statistics.intervals`: mean, low, high, level and the numbers of seeds
and prompts it rests on, and the method that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foresighted.errors import DataError
from foresighted.labels.quality import Quality
from foresighted.statistics.collapse import Fall, Onset
from foresighted.statistics.intervals import Interval
from foresighted.store.directory import AUDIT
from foresighted.store.rows import read_json, write_json

Verdict = Literal["collapsed", "suspicious", "cannot tell", "no collapse seen"]
VERDICTS: tuple[Verdict, ...] = ("collapsed", "suspicious", "cannot tell", "no collapse seen")
"""Worst first; the audit's verdict is the worst of its arms'."""


@dataclass(frozen=True)
class Source:
    """What was read."""

    path: str
    format: str
    """In words: `comparison`, `run`, `TRL completion logs`, `verl rollout dump`, `JSONL`, ..."""
    files: int
    rows: int
    columns: Mapping[str, str]
    """Our name of a column -> what it is called there; `file name` for a round that only the file's name tells."""
    guessed: tuple[str, ...]
    """Which of them were guessed, not told."""
    remarks: tuple[str, ...]
    """What could not be used, and what was assumed."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that were read, where there are no responses."""


@dataclass(frozen=True)
class Round:
    """One row of the table: the rounds from `first` to `last`, pooled where one round alone has too few prompts.

    None: not known. Text measures read a sample of the responses (`read`), everything else all of them.
    """

    first: int
    last: int
    responses: int
    """Logs, where there are no responses."""
    prompts: int
    utility: Interval | None
    """Mean true utility, or mean label where that stands for it."""
    reward: Interval | None
    gap: Interval | None
    """Growth of reward less growth of utility since the first row, each in prompt-to-prompt standard deviations."""
    kl: Interval | None
    length: Interval | None
    """Tokens where they are recorded, else characters."""
    distinct_2: Interval | None
    """Share of distinct word pairs in the first 64 words of a response."""
    alike: Interval | None
    """Chance that two responses to different prompts begin with the same 32 characters."""
    read: int
    """Responses whose text was read."""
    idle: Interval | None = None
    """Share of groups whose responses all have one reward: they teach nothing."""


@dataclass(frozen=True)
class Calibration:
    """Predicted preference sigma(margin) of the reward model against the label, rounds `first` to `last`."""

    first: int
    last: int
    pairs: int
    brier: Interval
    """Mean squared difference; 0.25 is what a coin gets against labels of 0 and 1."""
    ece: Interval
    """Expected calibration error, ten bins of equal count; positive by chance alone where pairs are few."""
    overconfidence: Interval
    """Mean predicted preference for the response that the reward model prefers, less the label's for that one."""
    accuracy: Interval | None
    """Share of pairs in the order of their label: a margin of 0 counts one half, a label of one half not at all. None
    without a pair that has an order."""


@dataclass(frozen=True)
class Kind:
    """One kind of prompts: how far its utility fell from the arm's best row to the last, and from when on."""

    kind: str
    prompts: int
    fall: Interval
    fell_by: int | None
    """First row after the best one from which on its fall stays above the threshold; None: it does not."""


@dataclass(frozen=True)
class Symptom:
    """One thing that can be seen without labels, first row against last."""

    name: str
    what: str
    """In words, unit included."""
    start: float
    end: float
    change: Interval
    alarming: bool
    """Clear, large and in the direction in which a collapsing loop goes."""


@dataclass(frozen=True)
class Response:
    """One response that a person should look at."""

    arm: str
    seed: str
    round: int
    prompt: str
    kind: str | None
    text: str
    reward: float
    utility: float | None
    excess: float
    """What it was ranked by, in standard deviations; see `Audit.look_rule`."""
    earlier_round: int | None
    """A response to the same prompt in the first row, for comparison."""
    earlier_text: str | None
    earlier_reward: float | None


@dataclass(frozen=True)
class LabelsNeeded:
    """How many labels would settle whether utility fell by `fall` standard deviations."""

    what: str
    """`comparisons` (early against late response to one prompt) or `ratings` (single responses, both halves)."""
    labels: int
    known: int
    power: float
    level: float
    fall: float
    sentence: str


@dataclass(frozen=True)
class Component:
    """One part of the reward by rows of the table: its share in the reward's variance, or in its size."""

    name: str
    weight: float
    """With which it is in the reward."""
    of: Literal["variance", "size"]
    shares: tuple[Interval, ...]
    rounds: tuple[int, ...]
    """Last round of each row."""


@dataclass(frozen=True)
class ArmAudit:
    """One arm: the runs (seeds) that share a configuration."""

    label: str
    seeds: tuple[str, ...]
    verdict: Verdict
    reason: str
    measured_by: str | None
    """`utility`, `label`, or None: nothing tells what is true."""
    paired: bool
    """Whether the same prompts are answered in every row of the table."""
    rounds: tuple[Round, ...]
    fall: Fall | None
    to_last: Fall | None
    """The fall to the last row, where `fall` is one to an earlier row; else None."""
    seed_falls: tuple[Fall, ...]
    onset: Onset | None
    calibration: tuple[Calibration, ...]
    kinds: tuple[Kind, ...]
    """Those that fell first come first."""
    symptoms: tuple[Symptom, ...]
    components: tuple[Component, ...] = ()
    """Parts of the reward, where several are logged."""
    logs: int = 0
    """Logs of a run without responses, which is judged as `CollapseMonitor` does; 0: responses were judged."""


@dataclass(frozen=True)
class Audit:
    """The whole result."""

    format: Literal[2]
    """Version of these fields."""
    verdict: Verdict
    headline: str
    """One sentence for somebody who reads nothing else."""
    sentences: tuple[str, ...]
    source: Source
    arms: tuple[ArmAudit, ...]
    look_at: tuple[Response, ...]
    look_rule: str
    labels_needed: LabelsNeeded | None
    label_quality: Quality | None = None
    """How far labels can be trusted that people gave; None where a run asked nobody."""

    @property
    def collapsed(self) -> bool:
        """Whether the exit code is 1."""
        return self.verdict == "collapsed"


def write_audit(audit: Audit, directory: Path) -> Path:
    """Write `DIRECTORY/audit.json`, whole or not at all.

    Raises:
        DataError: the directory cannot be made or written.
    """
    path = directory / AUDIT
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, audit)
    except OSError as error:
        raise DataError(f"out: {directory} cannot be written ({error.strerror}); give another --out") from None
    return path


def read_audit(path: Path) -> Audit:
    """Read what `write_audit` wrote.

    Args:
        path: the file, or the directory that holds it.

    Raises:
        DataError: it cannot be read, is not JSON, or is no audit of this format, with the place of the fault.
    """
    again = "write it again with foresighted audit --out"
    return read_json(path / AUDIT if path.is_dir() else path, Audit, what="audit", again=again, earlier=_is_earlier)


def _is_earlier(audit: Mapping[str, Any]) -> bool:
    return audit.get("format") == 1
