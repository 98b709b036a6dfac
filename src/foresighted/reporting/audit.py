"""The page of an audit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from foresighted.auditing.result import ArmAudit, Audit, Round
from foresighted.reporting.charts import Chart, Mark, Point, Series, Table, drawn, interval_cell, of_interval, series_of
from foresighted.reporting.labels import labels_section
from foresighted.reporting.page import Legend, Opening, Page, Section
from foresighted.reporting.reliability import RELIABILITY_NOTE
from foresighted.reporting.responses import Response, Responses, pack
from foresighted.statistics.wording import interval_text, methods_text, number

MAX_KIND_ROWS = 24
"""More rows than this are a table only."""
ROUND, STEP = "round", "step"
MAX_PARTS = 8
"""Parts of the reward that are drawn."""
MARKED = ("utility", "reward", "gap")
"""Columns whose charts show onsets."""
ONSET_NOTE = (
    " A dotted line marks the onset of a fall, the last round at which less than a tenth of the fall had happened;"
    " the bar above the chart is the interval of that round."
)
ALARMING = ("collapsed", "suspicious")


def audit_page(audit: Audit) -> Page:
    """Return the page of an audit, from what `audit.json` holds."""
    labels = tuple(arm.label for arm in audit.arms)
    return Page(
        title=f"Audit of {Path(audit.source.path).name or audit.source.path}",
        verdict=verdict_text(audit),
        alarm=audit.verdict in ALARMING,
        opening=_opening(audit, labels),
        sentences=audit.sentences,
        legend=tuple(Legend(label, index) for index, label in enumerate(labels)),
        sections=(
            Section("summary", "Summary", "", tables=(_arms_table(audit.arms),)),
            *audit_sections(audit.arms, labels, own_curves=True),
            *_parts_sections(audit.arms, labels),
            *labels_section(audit.label_quality),
            _rounds_section(audit.arms),
            _source_section(audit),
        ),
        responses=_responses(audit, labels),
    )


def verdict_text(audit: Audit) -> str:
    """Return the verdict as the page's stamp."""
    return f"Audit: {audit.verdict}"


def audit_sections(
    arms: Sequence[ArmAudit], planned: Sequence[str], *, own_curves: bool, reliability: tuple[Chart, ...] = ()
) -> tuple[Section, ...]:
    """Return gap, distance and texts by round, calibration, kinds of prompts and symptoms.

    Args:
        arms: audited arms.
        planned: labels whose place sets the look.
        own_curves: with what a page of a comparison has of its own.
        reliability: the reliability diagram, where the page has the pairs for one.
    """
    curves = (_parting_section(arms, planned), _texts_section(arms, planned)) if own_curves else ()
    calibration = _calibration_section(arms, planned, reliability)
    return (*curves, calibration, _kinds_section(arms, planned), _symptoms_section(arms))


def onset_marks(arms: Sequence[ArmAudit], planned: Sequence[str]) -> tuple[Mark, ...]:
    """Return where each collapsing arm began to fall, with the interval of that round."""
    return tuple(
        Mark(
            f"{arm.label}: onset of the fall after round {arm.onset.round}"
            f" [{arm.onset.low}, {arm.onset.high}, {arm.onset.level:.0%} interval]",
            planned.index(arm.label),
            arm.onset.round,
            arm.onset.low,
            arm.onset.high,
        )
        for arm in arms
        if arm.onset
    )


def _level(arms: Sequence[ArmAudit]) -> str:
    known = [one.reward or one.utility for arm in arms for one in arm.rounds]
    levels = {f"{one.level:.0%} interval" for one in known if one}
    return sorted(levels)[0] if levels else ""


def _by_round(
    arms: Sequence[ArmAudit], planned: Sequence[str], column: str, title: str, y: str, *, of: str = ""
) -> tuple[Chart, ...]:
    """Return a column of the rows of the table, or of what else `of` names, by round."""

    def line(arm: ArmAudit) -> Iterable[Point]:
        return (of_interval(one.last, value) for one in getattr(arm, of or "rounds") if (value := getattr(one, column)))

    return drawn(
        Chart(
            "-".join(filter(None, ("audit", of, column.replace("_", "-")))), title, _unit(arms), y,
            series_of({arm.label: line(arm) for arm in arms}, planned), band=_level(arms),
            guide="zero" if column in ("gap", "overconfidence") else "none",
            marks=onset_marks(arms, planned) if column in MARKED else (),
        )
    )  # fmt: skip


def _unit(arms: Sequence[ArmAudit]) -> str:
    return STEP if arms and all(arm.logs for arm in arms) else ROUND


def _parts_sections(arms: Sequence[ArmAudit], planned: Sequence[str]) -> tuple[Section, ...]:
    """Return what only metrics tell: parts of the reward, and groups whose responses all have one reward."""
    names = dict.fromkeys((part.name, part.of) for arm in arms for part in arm.components)
    charts = [
        Chart(
            f"audit-part-{place}", f"Part of the reward: {name}", STEP, f"share of the reward's {of}",
            series_of({arm.label: _part(arm, name) for arm in arms}, planned), band=_level(arms),
        )
        for place, (name, of) in enumerate(list(names)[:MAX_PARTS])
    ]  # fmt: skip
    idle = _by_round(arms, planned, "idle", "Groups whose responses all have one reward", "share of groups")
    if not charts and not idle:
        return ()
    return (
        Section(
            "parts",
            "Parts of the reward and groups without variance",
            "A part takes over where its share is 0.8 or more and grew by 0.2, clearly. A group whose responses all"
            " have one reward teaches nothing. Neither moves the verdict. Bands are Student intervals.",
            (*charts, *idle),
        ),
    )


def _part(arm: ArmAudit, name: str) -> Iterable[Point]:
    return (
        of_interval(x, one)
        for part in arm.components
        if part.name == name
        for x, one in zip(part.rounds, part.shares, strict=True)
    )


def _made(arms: Sequence[ArmAudit], *columns: str, of: str = "rounds") -> str:
    """Return how the intervals of these columns were made."""
    return methods_text(getattr(row, column) for arm in arms for row in getattr(arm, of) for column in columns)


def _opening(audit: Audit, planned: Sequence[str]) -> Opening:
    arms = audit.arms
    measures = {arm.measured_by for arm in arms if arm.measured_by}
    measure = "mean label" if measures == {"label"} else "true utility"
    names = {
        "utility": _titles(audit, "utility", "True utility", f"{measure} (labeller's unit)"),
        "reward": _titles(audit, "reward", "Proxy reward", "proxy reward (reward model's unit)"),
    }
    charts = tuple(chart for column, words in names.items() for chart in _by_round(arms, planned, column, *words))
    return Opening(audit.headline, charts, note=_bands(arms, planned, "utility", "reward") if charts else "")


def _titles(audit: Audit, column: str, title: str, y: str) -> tuple[str, str]:
    """Return the title of a chart and of its values: a metric is called what it is called in its log."""
    if not audit.source.metrics or column not in audit.source.columns:
        return title, y
    return ("Trusted metric" if column == "utility" else "What the loop follows"), audit.source.columns[column]


def _bands(arms: Sequence[ArmAudit], planned: Sequence[str], *columns: str) -> str:
    if _unit(arms) == STEP:
        return f"Bands are {_made(arms, *columns)} over logs, which are pooled, and stand at the last of them."
    return (
        f"Bands are {_made(arms, *columns)} over prompts (and seeds where there are several)."
        " Rounds with few prompts are pooled, and stand at the last of them."
        f"{ONSET_NOTE if onset_marks(arms, planned) else ''}"
    )


def _parting_section(arms: Sequence[ArmAudit], planned: Sequence[str]) -> Section:
    return Section(
        "parting",
        "Where the two part",
        _bands(arms, planned, "gap", "kl"),
        (
            *_by_round(arms, planned, "gap", "Where the two part", "gap (standard deviations)"),
            *_by_round(arms, planned, "kl", "Distance from the frozen policy", "KL (nats an answer)"),
        ),
    )


def _texts_section(arms: Sequence[ArmAudit], planned: Sequence[str]) -> Section:
    return Section(
        "texts",
        "What the responses look like",
        "Alike: the chance that two responses to different prompts begin with the same 32 characters. Bands are"
        f" {_made(arms, 'length', 'distinct_2', 'alike')}.",
        (
            *_by_round(arms, planned, "length", "Length of responses", "length (tokens, else characters)"),
            *_by_round(arms, planned, "distinct_2", "Variety of responses", "distinct pairs, first 64 words (share)"),
            *_by_round(arms, planned, "alike", "Likeness across prompts", "pairs that begin alike (share)"),
        ),
    )


def _calibration_section(arms: Sequence[ArmAudit], planned: Sequence[str], reliability: tuple[Chart, ...]) -> Section:
    measures = {
        "overconfidence": ("Overconfidence over all labelled pairs", "predicted - labelled preference"),
        "ece": ("Expected calibration error", "calibration error (share)"),
        "brier": ("Brier score", "mean squared error of the preference"),
        "accuracy": ("Accuracy of the reward model", "pairs in the order of their label (share)"),
    }
    charts = [
        chart
        for column, words in measures.items()
        for chart in _by_round(arms, planned, column, *words, of="calibration")
    ]
    return Section(
        "calibration",
        "Calibration of the reward model",
        "The preference that the reward model predicts, against the label, on the pairs that were labelled; rounds with"
        " few pairs are pooled. Calibration error is positive by chance alone where pairs are few. A Brier score of"
        " 0.25 is what a coin gets against labels of 0 and 1."
        f" Bands are {_made(arms, *measures, of='calibration')} over prompts.{RELIABILITY_NOTE if reliability else ''}",
        (*reliability, *charts),
    )


def _kinds_section(arms: Sequence[ArmAudit], planned: Sequence[str]) -> Section:
    several = len(arms) > 1
    rows = [(arm, kind) for arm in arms for kind in arm.kinds]
    series = tuple(
        Series(
            f"{kind.kind}, {arm.label}" if several else kind.kind,
            planned.index(arm.label),
            (of_interval(0, kind.fall),),
        )
        for arm, kind in rows
    )
    chart = Chart(
        "audit-kinds", "Fall of true utility by kind of prompt", "fall from the best round to the last",
        "kind and arm" if several else "kind", series, "forest", band=_level(arms), guide="zero",
    )  # fmt: skip
    cells = tuple(
        (
            arm.label,
            kind.kind,
            str(kind.prompts),
            interval_text(kind.fall),
            "not seen" if kind.fell_by is None else str(kind.fell_by),
        )
        for arm, kind in rows
    )
    head = ("arm", "kind", "prompts", "fall", "falls by round")
    table = Table("Those that fell first come first within an arm", head, cells)
    return Section(
        "kinds",
        "Which prompts fall first",
        "A fall above 0 is a loss of true utility. Intervals are not corrected for how many kinds there are.",
        drawn(chart) if 0 < len(rows) <= MAX_KIND_ROWS else (),
        (table,) if rows else (),
    )


def _symptoms_section(arms: Sequence[ArmAudit]) -> Section:
    cells = tuple(
        (
            arm.label, one.what, number(one.start), number(one.end), interval_text(one.change),
            "alarming" if one.alarming else "not alarming",
        )
        for arm in arms
        for one in arm.symptoms
    )  # fmt: skip
    table = Table("First rounds against last", ("arm", "symptom", "start", "end", "change", "reading"), cells)
    return Section(
        "symptoms",
        "Symptoms that need no labels",
        "Alarming: clear, large, and in the direction in which a collapsing loop goes. A symptom is no proof.",
        (),
        (table,) if cells else (),
    )


def _arms_table(arms: Sequence[ArmAudit]) -> Table:
    def row(arm: ArmAudit) -> tuple[str, ...]:
        fall = arm.fall
        onset = f"{arm.onset.round} [{arm.onset.low}, {arm.onset.high}]" if arm.onset else "none"
        return (
            arm.label, arm.verdict, arm.reason, str(len(arm.seeds)), arm.measured_by or "nothing",
            interval_cell(fall.fall if fall else None), number(fall.threshold) if fall else "unknown", onset,
        )  # fmt: skip

    head = ("arm", "verdict", "reason", "seeds", "measured by", "fall", "threshold", f"onset ({_unit(arms)})")
    return Table("One row an arm", head, tuple(map(row, arms)), tuple(range(len(arms))))


def _rounds_section(arms: Sequence[ArmAudit]) -> Section:
    columns: tuple[tuple[str, str], ...] = (
        ("utility", "true utility"), ("reward", "proxy reward"), ("gap", "gap"), ("kl", "KL (nats)"),
        ("length", "length"), ("distinct_2", "distinct pairs"), ("alike", "alike"), ("idle", "groups of one reward"),
    )  # fmt: skip
    known = [pair for pair in columns if any(getattr(one, pair[0]) for arm in arms for one in arm.rounds)]

    bare = _unit(arms) == STEP

    def row(arm: ArmAudit, one: Round) -> tuple[str, ...]:
        rounds = str(one.first) if one.first == one.last else f"{one.first} to {one.last}"
        values = (interval_cell(getattr(one, column), "") for column, _ in known)
        return (arm.label, rounds, str(one.responses), *([] if bare else [str(one.prompts)]), *values)

    cells = tuple(row(arm, one) for arm in arms for one in arm.rounds)
    of = ("steps", "logs") if bare else ("rounds", "responses", "prompts")
    head = ("arm", *of, *(title for _, title in known))
    return Section("rounds", "Round by round", "", (), (Table("Means with intervals", head, cells),) if cells else ())


def _source_section(audit: Audit) -> Section:
    source = audit.source
    rows = [("path", source.path), ("format", source.format), ("files", str(source.files)), ("rows", str(source.rows))]
    rows += [
        (f"column {ours}", f"{theirs} (guessed)" if ours in source.guessed else theirs)
        for ours, theirs in source.columns.items()
    ]
    return Section(
        "source", "What was read", "", (), (Table("The records", ("what", "read"), tuple(rows)),), source.remarks
    )


def _responses(audit: Audit, labels: Sequence[str]) -> Responses | None:
    found = [
        Response(
            source="to look at", arm=one.arm, seed=one.seed, round=one.round, prompt_id="", prompt=one.prompt,
            kind=one.kind or "", text=one.text,
            numbers={"reward": one.reward, "utility": one.utility, "gap": one.excess},
            reference=one.earlier_text or "",
        )
        for one in audit.look_at
    ]  # fmt: skip
    return pack(
        found, labels, labels, title="Responses that a person should look at first", meaning=audit.look_rule,
        reference="The response to the same prompt in the first rounds",
    )  # fmt: skip
