"""The audit itself: read, lay out, judge, say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foresighted.auditing.calibration import calibrate
from foresighted.auditing.logged import judge_logged, steps_of
from foresighted.auditing.metrics import Logged
from foresighted.auditing.power import LOOK_RULE, LOOK_RULE_KNOWN, labels_needed, look_at
from foresighted.auditing.result import (
    VERDICTS,
    ArmAudit,
    Audit,
    Kind,
    LabelsNeeded,
    Round,
    Source,
    Symptom,
    Verdict,
)
from foresighted.auditing.rollouts import Rollouts, arms
from foresighted.auditing.sentences import headline, left_out, sentences
from foresighted.auditing.sources import GAMES, OUR_FORMATS, Log, Progress, read_log
from foresighted.auditing.symptoms import Measures, idle_groups, lengths, suspicious, symptoms, within_prompts
from foresighted.auditing.texts import read_texts
from foresighted.errors import ConfigError
from foresighted.labels.quality import quality_of_run
from foresighted.statistics.collapse import ArmFalls, Fall, Reason, could_have_seen, family_size, judge_arm, onset
from foresighted.statistics.intervals import Interval
from foresighted.statistics.layout import Layout, choose_layout
from foresighted.statistics.numbers import Floats, Mask
from foresighted.statistics.profile import Profile, gather, of_grid, profile
from foresighted.statistics.wording import REASONS

FEWEST_MEASURED = 2
"""Rounds with known utility from which it is judged by."""
MOST_KINDS = 50
FEWEST_PROMPTS_OF_A_KIND = 3


@dataclass(frozen=True)
class _Arm:
    """One arm on its way: what the table shows, by what it is judged, and what else was seen."""

    label: str
    table: Rollouts
    training: Rollouts
    measure: str | None
    known: Mask
    layout: Layout
    untrue: str = "no utility, no label"
    """Why nothing tells what is true, where nothing does, or too little of it."""


def audit(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    power: float = 0.8,
    progress: Progress = lambda done, total: None,
) -> Audit:
    """Say whether, when and how a loop collapsed.

    Args:
        path: a run or a comparison of ours, the output directory of a TRL trainer, a directory of rollout dumps, or
            a file of JSON lines, JSON, CSV or Parquet.
        columns: our name of a column -> what it is called there; those not named are guessed.
        power: chance with which the labels asked for should settle the question, in (0, 1).
        progress: told how many files were read, of how many.

    Returns:
        The result; `write_audit` keeps it.

    Raises:
        DataError: nothing to read, files of different kinds, a bad line, a column that is missing.
        ConfigError: an unknown column name, or `power` out of range.

    Example:
        >>> result = audit(Path("runs/demo"))  # doctest: +SKIP
        >>> result.verdict  # doctest: +SKIP
        'collapsed'
    """
    if not 0 < power < 1:
        raise ConfigError(f"power: got {power}, must be between 0 and 1, for example 0.8")
    log = read_log(path, columns or {}, progress)
    if log.runs:
        return _told(log.source, [judge_logged(run, len(log.runs)) for run in log.runs])
    made = _arms(log)
    family = family_size([len(np.unique(arm.table.run[arm.known])) for arm in made])
    judged = [judge_logged(_as_logged(arm), family) if _alone(arm, log) else _judge(arm, family) for arm in made]
    verdict = min((arm.verdict for arm in judged), key=VERDICTS.index)
    measured = any(arm.measured_by for arm in judged)
    shown = look_at([(arm.label, arm.table, arm.layout, arm.measure) for arm in made])
    first = made[[arm.verdict for arm in judged].index(verdict)]
    said = [text for arm in made for text in left_out(arm.label, arm.table, arm.layout, arm.measure)]
    source = replace(log.source, remarks=(*log.source.remarks, *said))
    open_ = verdict in ("cannot tell", "suspicious") and not judged[made.index(first)].logs
    needed = _labels_needed(first, power) if open_ else None
    bare = Audit(2, verdict, "", (), source, tuple(judged), shown, LOOK_RULE_KNOWN if measured else LOOK_RULE, needed)
    bare = replace(bare, headline=headline(bare))
    quality, of_labels = quality_of_run(path)
    return replace(bare, sentences=(*sentences(bare), *of_labels), label_quality=quality)


def _told(source: Source, judged: list[ArmAudit]) -> Audit:
    """Return the audit of metrics without responses."""
    verdict = min((arm.verdict for arm in judged), key=VERDICTS.index)
    bare = Audit(2, verdict, "", (), source, tuple(judged), (), "", None)
    bare = replace(bare, headline=headline(bare))
    return replace(bare, sentences=sentences(bare))


def _alone(arm: _Arm, log: Log) -> bool:
    """Return whether an arm is metrics: one run, one value a round of each (on one row or several), nobody's words."""
    table, source = arm.table, log.source
    if {"prompt", "prompt_id", "response"} & source.columns.keys() or source.format in (*OUR_FORMATS, GAMES):
        return False
    rounds = [table.round[table.known(name)] for name in table.numbers]
    return len(np.unique(table.run)) == 1 and all(len(np.unique(one)) == len(one) for one in rounds)


def _as_logged(arm: _Arm) -> Logged:
    table = arm.table
    known = {name: steps_of(table.round, values) for name, values in table.numbers.items()}
    measure = next((name for name in ("utility", "label") if known.get(name)), None)
    others = {name: known[name] for name in ("kl", "tokens") if known.get(name)}
    return Logged(arm.label, known.get("reward", {}), known.get(measure or "", {}), {}, {}, others, measured_by=measure)


def _labels_needed(arm: _Arm, power: float) -> LabelsNeeded | None:
    """Return how many labels would settle it; None where labels cannot: one round, or a fall without any reward."""
    blind = arm.measure is not None and not arm.table.known("reward").any()
    utility = _column(arm, arm.measure)
    if arm.layout.rows < 2 or (blind and utility and could_have_seen(utility)):
        return None
    known = int(arm.known.sum()) if arm.measure else 0
    return labels_needed(utility, arm.layout.paired, power=power, known=known, repeated=_repeats(arm))


def _arms(log: Log) -> list[_Arm]:
    parts = [dict(arms(rollouts)) for rollouts in (log.heldout, log.training) if rollouts is not None]
    labels = dict.fromkeys(label for part in parts for label in part)
    made = [_arm(label, [part[label] for part in parts if label in part]) for label in labels]
    aside = " and ".join(log.set_aside)
    return [replace(arm, untrue=f"{aside} measures the prompt, not the response") for arm in made] if aside else made


def _arm(label: str, both: list[Rollouts]) -> _Arm:
    """Choose what an arm is judged by: utility before labels, held-out answers before training responses."""
    for measure in ("utility", "label"):
        for table in both:
            known = table.known(measure)
            if "reward" in table.numbers:
                known = known & table.known("reward")
            if len(np.unique(table.round[known])) >= FEWEST_MEASURED:
                return _Arm(label, table, both[-1], measure, known, choose_layout(table, known))
    table = both[0]
    known = table.known("reward")
    if not known.any():
        known = np.ones(len(table), bool)
    return _Arm(label, table, both[-1], None, known, choose_layout(table, known), _untrue(both))


def _untrue(both: list[Rollouts]) -> str:
    """Return why nothing tells what is true: nothing is recorded, or never beside a reward."""
    for measure, table in ((measure, table) for measure in ("utility", "label") for table in both):
        known = table.known(measure)
        beside = known & table.known("reward")
        if known.any() and "reward" in table.numbers:
            rounds = len(np.unique(table.round[beside]))
            return (
                f"{measure} is known of {int(known.sum())} rows, with a reward on the same row of {int(beside.sum())}"
                f" (of {rounds} round{'' if rounds == 1 else 's'}); write both on one row"
            )
    return "no utility, no label"


def _column(arm: _Arm, name: str | None, rows: Mask | None = None) -> Profile | None:
    """Return the profile of a column over an arm's rows; of the judged responses unless `rows` says which."""
    if name is None or name not in arm.table.numbers:
        return None
    values = arm.table.numbers[name]
    known = arm.known if rows is None else rows
    units = gather(arm.table, known & np.isfinite(values), arm.layout)
    return profile(values, units) if units else None


def _judge(arm: _Arm, family: int) -> ArmAudit:
    utility, reward = _column(arm, arm.measure), _column(arm, "reward")
    falls = _falls(arm, family)
    fall, seed_falls = (falls.mean, falls.seeds) if falls else (None, ())
    measures = Measures(arm.layout, arm.table, read_texts(arm.table, arm.layout.rows_of(arm.table.round)))
    seen = symptoms(measures, arm.training)
    verdict, reason = _verdict(arm, utility, fall, seed_falls, seen)
    fell = fall is not None and verdict in ("collapsed", "suspicious") and fall.fall.mean > 0
    kinds: tuple[Kind, ...] = ()
    if fall and utility and fell and arm.measure:
        best = int(np.argmax(utility.means))
        values = arm.table.numbers[arm.measure]
        kinds = fallen_kinds(values, arm.table, arm.known, arm.layout, best=best, threshold=fall.threshold)
    return ArmAudit(
        label=arm.label, seeds=tuple(dict.fromkeys(arm.table.runs[code][1] for code in np.unique(arm.table.run))),
        verdict=verdict, reason=reason, measured_by=arm.measure, paired=arm.layout.paired,
        rounds=_table(arm, utility, reward, measures),
        fall=fall, to_last=falls.to_last if falls else None, seed_falls=seed_falls,
        onset=onset(utility, arm.layout) if fell and utility else None,
        calibration=calibrate(arm.training, _calibration_layout(arm)), kinds=kinds, symptoms=seen,
    )  # fmt: skip


def fallen_kinds(
    values: Floats, rollouts: Rollouts, known: Mask, layout: Layout, *, best: int, threshold: float
) -> tuple[Kind, ...]:
    """Return how far each kind of prompts fell from the arm's best row to the last, those that fell first in front.

    Args:
        values: (R,) utility.
        rollouts: the arm's responses.
        known: (R,), whose utility is known.
        layout: rows of the table.
        best: the arm's best row.
        threshold: what counts as a fall, in units of utility.
    """
    kinds = []
    for name in sorted({kind for kind in rollouts.kinds if kind})[:MOST_KINDS]:
        of_kind = np.array([kind == name for kind in rollouts.kinds])
        units = gather(rollouts, known & of_kind[rollouts.prompt], layout)
        means = profile(values, units) if units else None
        if means is None or (prompts := int(means.counts.min())) < FEWEST_PROMPTS_OF_A_KIND:
            continue
        fell_by = None
        for row in reversed(range(best + 1, layout.rows)):
            if not (means.means[best] - means.means[row] > threshold and means.difference(best, row).low > 0):
                break
            fell_by = layout.span(row)[0]
        kinds.append(Kind(name, prompts, means.difference(best, layout.rows - 1), fell_by))
    if len(kinds) < 2:
        return ()
    return tuple(sorted(kinds, key=lambda kind: (kind.fell_by is None, kind.fell_by or 0, -kind.fall.mean)))


def _falls(arm: _Arm, family: int) -> ArmFalls | None:
    if arm.measure is None or arm.layout.rows < 2:
        return None
    table = arm.table
    seeds = [seed for _, seed in table.runs]
    utility, reward = table.numbers[arm.measure], table.numbers.get("reward")
    return judge_arm(table, utility, reward, arm.known, arm.layout, seeds=seeds, family=family)


def _calibration_layout(arm: _Arm) -> Layout:
    """Return the table's rows where it shows the training responses, else these rounds pooled likewise."""
    if arm.training is arm.table:
        return arm.layout
    labelled = arm.training.known("label") | arm.training.known("utility")
    return choose_layout(arm.training, labelled) if labelled.any() else Layout((), (), False)


def _verdict(
    arm: _Arm, utility: Profile | None, fall: Fall | None, seed_falls: tuple[Fall, ...], seen: tuple[Symptom, ...]
) -> tuple[Verdict, str]:
    if arm.layout.rows < 2:
        return "cannot tell", "there is one round only"
    alarms = suspicious(seen)
    doubt = f"without labels, but {', '.join(alarms)} moved as in a loop that collapses" if alarms else ""
    if fall is None or utility is None:
        return ("suspicious", doubt) if alarms else ("cannot tell", f"nothing tells what is true: {arm.untrue}")
    every = (fall, *seed_falls)
    if any(one.corrected for one in every):
        whose = [one.seed for one in seed_falls if one.corrected]
        text = REASONS[Reason.COLLAPSED]
        return "collapsed", text if fall.corrected else f"{text} (seed {', '.join(map(str, whose))})"
    if any(one.collapsed for one in every):
        return "suspicious", "a fall that is clear by itself, but not once everything that was looked at is allowed for"
    if fall.reward_change is None and fall.fall.mean > fall.threshold and fall.low_corrected > 0:
        return "suspicious", "true utility fell, and no reward tells whether the loop saw it"
    if fall.reason == Reason.PROXY_FELL and fall.low_corrected > 0:
        return (
            "no collapse seen",
            "the answers got worse, but the reward fell with them: the loop's own numbers show it",
        )
    if not could_have_seen(utility):
        if alarms:
            return "suspicious", f"too few labels to tell, and {', '.join(alarms)} moved as in a loop that collapses"
        return "cannot tell", "too few labels to see a fall of half a standard deviation"
    return "no collapse seen", REASONS[fall.reason]


def _repeats(arm: _Arm) -> bool:
    """Whether early and late rows answer the same prompts (most of them)."""
    rows = arm.layout.rows_of(arm.table.round)
    first, last = (np.unique(arm.table.prompt[rows == row]) for row in (0, arm.layout.rows - 1))
    return 2 * len(np.intersect1d(first, last)) >= min(len(first), len(last)) > 1


def _table(arm: _Arm, utility: Profile | None, reward: Profile | None, measures: Measures) -> tuple[Round, ...]:
    everything, read = np.ones(len(arm.table), bool), measures.read
    profiles = {
        "utility": utility,
        "reward": _column(arm, "reward", everything),
        "kl": _column(arm, "kl", everything),
        "length": measures.profile(lengths(arm.table)[0]),
        "distinct_2": measures.profile(measures.spread_out(read.distinct_2)),
        "alike": measures.profile(measures.spread_out(read.alike)),
        "idle": measures.profile(
            idle_groups(within_prompts(arm.table)[0], arm.table.numbers.get("reward", np.zeros(0)))
        ),
    }
    rows, gaps = arm.layout.rows_of(arm.table.round), _gaps(utility, reward)
    made = []
    for row in range(arm.layout.rows):
        here = rows == row
        known = {name: means.row(row) if means else None for name, means in profiles.items()}
        texts = int((rows[read.places] == row).sum()) if arm.table.text is not None else 0
        prompts = len(np.unique(arm.table.prompt[here]))
        (first, last), gap = arm.layout.span(row), gaps[row] if gaps else None
        made.append(Round(first, last, int(here.sum()), prompts, gap=gap, read=texts, **known))
    return tuple(made)


def _gaps(utility: Profile | None, reward: Profile | None) -> list[Interval] | None:
    """Return growth of reward less growth of utility since the first row, in standard deviations of that row.

    Both are of the same units, so that where the design is paired the gap is a column of its own; elsewhere the two
    errors add as if they were independent, which errs on the wide side where they go together.
    """
    if not utility or not reward or not utility.deviation or not reward.deviation:
        return None
    if utility.grid is not None and reward.grid is not None and utility.grid.shape == reward.grid.shape:
        grid: Floats = reward.grid / reward.deviation - utility.grid / utility.deviation
        joint = of_grid(grid)
        return [joint.difference(row, 0) for row in range(len(grid))]
    made = []
    for row in range(len(utility.means)):
        up, down = reward.difference(row, 0), utility.difference(row, 0)
        mean = up.mean / reward.deviation - down.mean / utility.deviation
        half = np.hypot((up.high - up.mean) / reward.deviation, (down.high - down.mean) / utility.deviation)
        made.append(replace(up, mean=mean, low=mean - float(half), high=mean + float(half)))
    return made
