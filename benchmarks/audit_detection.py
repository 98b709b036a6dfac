"""How often `foresighted audit` finds a collapse, how often it cries wolf, and how late it is, on generated logs.

    python benchmarks/audit_detection.py [--healthy 350] [--collapsing 240] [--delays 60] [--half both]

Logs come from `audit_logs.py`, written to disk and read as any log is. One half (seeds from 0) serves for tuning: there
the limits of the label-free symptoms were set, and there this script sets the cuts of its scores. The other half
(seeds from 1,000,000) is what it reports on. Scores: with labels, the corrected lower end of the fall in units of the
threshold (minus infinity where proxy reward fell); without labels, the largest of the symptoms' sizes in units of
their limits (minus infinity where reward did not clearly rise).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audit_logs
import numpy as np

from foresighted.auditing.audit import audit
from foresighted.auditing.result import Audit
from foresighted.auditing.symptoms import LIMITS, REWARD
from foresighted.statistics.collapse import Reason
from foresighted.statistics.intervals import wilson_share

HALVES = {"tuning": 0, "report": 1_000_000}
FALSE_ALARMS = (0.01, 0.05)


@dataclass(frozen=True)
class Case:
    """One log, judged with its labels and without them."""

    truth: audit_logs.Truth
    verdict: str
    score: float
    onset: tuple[int, int, int] | None
    blind_verdict: str
    blind_score: float
    found: tuple[float, float] | None
    """Of the 20 responses to look at (no label read): the reward model's error above the last round's mean error, and
    utility above its mean utility, in standard deviations of the last round; None where utility is unknown."""


def score(result: Audit) -> float:
    """Return the corrected lower end of the fall in units of the threshold; -inf where proxy reward fell too."""
    fall = result.arms[0].fall
    if fall is None or fall.reason == Reason.PROXY_FELL:
        return -math.inf
    return min(fall.low_corrected, fall.fall.mean - fall.threshold) / fall.threshold


def blind_score(result: Audit) -> float:
    """Return the size of the worst clear symptom in units of its limit; -inf where reward did not clearly rise."""
    sizes = {}
    for symptom in result.arms[0].symptoms:
        if (limit := LIMITS.get(symptom.name)) and symptom.change.excludes_zero:
            size = limit.sign * symptom.change.mean / (abs(symptom.start) or 1.0 if limit.relative else 1.0)
            sizes[symptom.name] = size / limit.least
    others = [size for name, size in sizes.items() if name != REWARD]
    return max(others, default=-math.inf) if sizes.get(REWARD, 0) >= 1 else -math.inf


def judged(made: audit_logs.Made, folder: Path) -> Case:
    """Return what the audit says of a log."""
    told = audit(audit_logs.write(made, folder / "told"))
    blind = audit(audit_logs.write(made, folder / "blind", labels=False))
    onset = told.arms[0].onset
    return Case(
        made.truth, told.verdict, score(told), (onset.round, onset.low, onset.high) if onset else None,
        blind.verdict, blind_score(blind), _found(made, blind),
    )  # fmt: skip


def _found(made: audit_logs.Made, blind: Audit) -> tuple[float, float] | None:
    if made.truth.measure != "utility" or not made.truth.collapsed:
        return None
    first = blind.arms[0].rounds[-1].first
    last = {(row["prompt"], row["round"], row["text"]): row for row in made.rows if row["round"] >= first}
    everything = np.array([(row["reward"] - 0.8 * row["true"], row["true"]) for row in last.values()])
    chosen = [last[one.prompt, one.round, one.text] for one in blind.look_at]
    picked = np.array([(row["reward"] - 0.8 * row["true"], row["true"]) for row in chosen])
    above = (picked.mean(axis=0) - everything.mean(axis=0)) / everything.std(axis=0)
    return float(above[0]), float(above[1])


def share(hits: Iterable[bool]) -> str:
    """Return a share with its Wilson interval, in per cent."""
    known = list(hits)
    if not known:
        return "none"
    made = wilson_share(sum(known), len(known))
    return f"{made.mean:.1%} [{made.low:.1%}, {made.high:.1%}] of {made.total}"


def cut(scores: Sequence[float], rate: float) -> float:
    """Return the score that at most `rate` of these exceed."""
    return float(np.quantile(np.array(scores), 1 - rate, method="higher"))


def table(cases: Sequence[Case], hit: Callable[[Case], bool]) -> dict[str, Any]:
    """Return false alarms by story and detections by size of the fall and by layout."""
    healthy = [case for case in cases if not case.truth.collapsed]
    falling = [case for case in cases if case.truth.collapsed]
    return {
        "false alarms": share(hit(case) for case in healthy),
        "by story": {
            story: share(hit(c) for c in healthy if c.truth.story == story) for story in audit_logs.HEALTHY
        },
        "detected": share(hit(case) for case in falling),
        "by fall": {
            size: share(hit(c) for c in falling if c.truth.fall == size) for size in audit_logs.FALLS
        },
        "by layout": {
            layout: share(hit(c) for c in falling if c.truth.layout == layout) for layout in audit_logs.LAYOUTS
        },
        "by shape": {
            story: share(hit(c) for c in falling if c.truth.story == story) for story in audit_logs.COLLAPSING
        },
    }  # fmt: skip


def delay(made: audit_logs.Made, folder: Path) -> tuple[float | None, int]:
    """Return how many evaluations (training: tens of rounds) after the onset the verdict is a collapse, and how many
    there were; None: never."""
    rounds = list(made.truth.rounds)
    after = rounds[rounds.index(made.truth.onset) + 1 :]
    step = 1 if made.truth.layout != "training" else 10
    checks = after[step - 1 :: step]
    for number, until in enumerate(checks, start=1):
        if audit(audit_logs.write(made, folder / "delay", until=until)).collapsed:
            return float(number), len(checks)
    return None, len(checks)


def delays(count: int) -> dict[str, Any]:
    """Return how late the audit is on collapsing logs of the report half."""
    found: dict[str, list[tuple[float | None, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for made in audit_logs.logs(range(HALVES["report"] + 500_000, HALVES["report"] + 600_000), 0, count):
            unit = "tens of rounds" if made.truth.layout == "training" else "evaluations"
            found.setdefault(f"fall {made.truth.fall}, {unit}", []).append(delay(made, Path(folder)))
    return {
        name: {
            "logs": len(of),
            "never": sum(late is None for late, _ in of),
            "median": float(np.median([math.inf if late is None else late for late, _ in of])),
            "after onset": float(np.median([checks for _, checks in of])),
        }
        for name, of in sorted(found.items())
    }


def onsets(cases: Sequence[Case]) -> dict[str, Any]:
    """Return how far estimated onsets are from the designed ones, in rows of the log, and how often intervals hold."""
    known = [(case.truth, case.onset) for case in cases if case.truth.collapsed and case.onset]
    errors = [
        (truth.rounds.index(min(truth.rounds, key=lambda r: abs(r - onset[0]))) - truth.rounds.index(truth.onset or 0))
        / len(truth.rounds)
        for truth, onset in known
    ]
    return {
        "logs": len(known),
        "interval holds the onset": share(onset[1] <= (truth.onset or 0) <= onset[2] for truth, onset in known),
        "median error, share of the run": round(float(np.median(errors)), 3),
        "median absolute error, share of the run": round(float(np.median(np.abs(errors))), 3),
        "median width, share of the run": round(
            float(np.median([(o[2] - o[1]) / (t.rounds[-1] - t.rounds[0]) for t, o in known])), 3
        ),
    }


def reported(cases: Sequence[Case], cuts: dict[str, dict[float, float]]) -> dict[str, Any]:
    """Return every figure of one half."""
    result: dict[str, Any] = {
        "with labels, default": table(cases, lambda c: c.verdict == "collapsed"),
        "with labels, --strict": table(cases, lambda c: c.verdict in ("collapsed", "suspicious")),
        "without labels, suspicious": table(cases, lambda c: c.blind_verdict == "suspicious"),
    }
    for name, of in cuts.items():
        for rate, at in of.items():
            which = (lambda c: c.score) if name == "with labels" else (lambda c: c.blind_score)
            result[f"{name}, cut for {rate:.0%} false alarms ({at:.2f})"] = table(
                cases, lambda c, which=which, at=at: which(c) > at
            )
    found = np.array([c.found for c in cases if c.found is not None])
    result["responses to look at, collapsed logs, no label read (sd of the last row)"] = {
        "error above the mean": round(float(found[:, 0].mean()), 2),
        "utility above the mean": round(float(found[:, 1].mean()), 2),
        "logs": len(found),
    }
    result["onset"] = onsets(cases)
    result["cannot tell, with labels"] = {
        name: share(c.verdict == "cannot tell" for c in cases if c.truth.collapsed == truth)
        for name, truth in (("healthy", False), ("collapsing", True))
    }
    return result


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healthy", type=int, default=350)
    parser.add_argument("--collapsing", type=int, default=240)
    parser.add_argument("--delays", type=int, default=60)
    parser.add_argument("--half", choices=["both", "tuning"], default="both", help="tuning: do not look at the other")
    args = parser.parse_args()
    cases: dict[str, list[Case]] = {}
    for half, start in HALVES.items():
        if args.half in ("both", half):
            with tempfile.TemporaryDirectory() as folder:
                made = audit_logs.logs(range(start, start + 100_000), args.healthy, args.collapsing)
                cases[half] = [judged(one, Path(folder)) for one in made]
    healthy = [case for case in cases["tuning"] if not case.truth.collapsed]
    cuts = {
        "with labels": {rate: cut([case.score for case in healthy], rate) for rate in FALSE_ALARMS},
        "without labels": {rate: cut([case.blind_score for case in healthy], rate) for rate in FALSE_ALARMS},
    }
    result = {"python": platform.python_version(), "cores": os.cpu_count(), "healthy": args.healthy,
              "collapsing": args.collapsing}  # fmt: skip
    result |= {half: reported(of, cuts) for half, of in cases.items()}
    if args.half == "both" and args.delays:
        result["delay"] = delays(args.delays)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
