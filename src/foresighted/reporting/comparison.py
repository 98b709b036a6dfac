"""The page of a comparison of arms, or of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from foresighted.alignment.compared import Arm, Comparison, headline
from foresighted.alignment.comparison import summarise
from foresighted.alignment.played import read_plan
from foresighted.auditing.result import ArmAudit, Audit
from foresighted.errors import ForesightedError
from foresighted.labels.quality import Quality
from foresighted.reporting.audit import ALARMING, ONSET_NOTE, audit_sections, onset_marks, verdict_text
from foresighted.reporting.charts import Chart, Mark, Point, Series, Table, drawn, interval_cell, of_interval, series_of
from foresighted.reporting.labels import labels_section
from foresighted.reporting.page import Legend, Opening, Page, Section, kept_texts
from foresighted.reporting.reliability import reliability_chart
from foresighted.reporting.responses import pack, read_responses
from foresighted.reporting.samples import Samples, read_samples, words_of
from foresighted.statistics.wording import interval_text, methods_text

ROUNDS_DONE = "rounds done"


@dataclass(frozen=True)
class Facts:
    """What the sections are made from."""

    comparison: Comparison
    single: bool
    """The directory is itself one run."""
    audited: tuple[ArmAudit, ...]
    reliability: tuple[Chart, ...]
    people: Quality | None


def comparison_page(out: Path) -> Page:
    """Return the page of a comparison directory, or of the run directory of one `foresighted train`.

    Raises:
        DataError: the records cannot be summarised, for example because nothing was evaluated yet.
        ConfigError: `config.yaml` cannot be read.
    """
    comparison = summarise(out)
    planned = comparison.planned_arms
    legend = tuple(Legend(arm.label, planned.index(arm.label)) for arm in comparison.arms)
    responses = read_responses(out, comparison)
    audited, remark = _audit(out)
    facts = Facts(
        comparison,
        read_plan(out).single,
        tuple(arm for arm in audited.arms if arm.label in planned) if audited else (),
        reliability_chart(responses, [(one.label, one.index) for one in legend], comparison.level),
        audited.label_quality if audited else None,
    )
    samples = read_samples(out, comparison)
    return Page(
        title=_title(out, comparison),
        verdict=verdict_text(audited) if audited else "",
        alarm=bool(audited and audited.verdict in ALARMING),
        opening=_opening(facts, samples),
        lead=audited.headline if audited else "",
        sentences=(*comparison.sentences, *remark),
        legend=legend,
        sections=tuple(_sections(facts)),
        samples=samples,
        responses=pack(responses, [one.label for one in legend], planned),
        texts=kept_texts(out),
    )


def _audit(out: Path) -> tuple[Audit | None, tuple[str, ...]]:
    """Return the audit of the records, or None and the reason why there is none."""
    try:
        from foresighted.auditing.audit import audit

        return audit(out), ()
    except ForesightedError as error:
        return None, (f"There is no audit of these records: {error}",)
    except ImportError as error:
        return None, (f"There is no audit on this page, as {error.name} is not installed.",)


def _title(out: Path, comparison: Comparison) -> str:
    name = out.resolve().name
    if len(comparison.planned_arms) == 1:
        return f"{comparison.planned_arms[0]}: one arm of iterative RLHF ({name})"
    baseline, *others = comparison.planned_arms
    versus = others[0] if len(others) == 1 else f"{len(others)} other arms"
    return f"{baseline} and {versus} in iterative RLHF ({name})"


def _opening(facts: Facts, samples: Samples | None) -> Opening:
    comparison, marks = facts.comparison, _marks(facts)
    meant = "True utility is what was meant, proxy reward" if comparison.utility_known else "Proxy reward is"
    note = (
        f"{meant} what training pays. Means over {comparison.prompts} held-out prompts and all seeds."
        f" {_bands(comparison)}{_marks_note(marks)}"
    )
    words = words_of(samples) if samples and samples.rounds else None
    return Opening(headline(comparison), curves(comparison, marks), words, note)


def _marks(facts: Facts) -> tuple[Mark, ...]:
    return onset_marks(facts.audited, facts.comparison.planned_arms) or _best_rounds(facts.comparison)


def _bands(comparison: Comparison) -> str:
    reward = comparison.arms[0].evaluated[0].reward
    return f"Bands: {comparison.level:.0%} {methods_text([reward])}; they speak about {reward.resampled}."


def _sections(facts: Facts) -> list[Section]:
    comparison, marks, band = facts.comparison, _marks(facts), _bands(facts.comparison)
    return [
        Section("summary", "Summary", _summary_note(comparison), tables=(_summary_table(comparison, facts.single),)),
        Section(
            "results",
            "Against the baseline",
            "The bands of true utility and proxy reward by round hold the spread between prompts, which all arms share:"
            " overlapping bands can still go with a clear paired difference.",
            _differences(comparison),
        ),
        Section(
            "gap",
            "Where the two part",
            "Gap: how far proxy reward has grown since the first evaluated round, minus how far true utility has, each"
            " divided by its own prompt-to-prompt standard deviation at that round so that the two can be compared. At"
            f" 0 they moved together; above 0 the reward model is more pleased than it should be. {band}",
            (
                *_heldout(
                    comparison, "gap", "Gap: growth of proxy less of true utility", "gap (standard deviations)", marks
                ),
                *_heldout(comparison, "kl", "Distance from the frozen policy", "KL(policy ‖ frozen) (nats an answer)"),
            ),
        ),
        _training_section(comparison),
        *audit_sections(facts.audited, comparison.planned_arms, own_curves=False, reliability=facts.reliability),
        Section(
            "answers",
            "What the answers look like",
            band,
            (
                *_heldout(comparison, "tokens", "Length of answers, held out", "length (tokens)"),
                *_heldout(comparison, "distinct_2", "Variety of answers, held out", "distinct word pairs (share)"),
            ),
        ),
        _labels_section(comparison),
        *labels_section(facts.people),
    ]


def _summary_table(comparison: Comparison, single: bool) -> Table:
    baseline = comparison.planned_arms[0]
    against = f"against {baseline}"
    head = ("arm", "labels a seed", "true utility", against, "proxy reward", "KL (nats)", "seeds collapsed")
    rows = []
    for arm in comparison.arms:
        totals = sorted({labels.total for labels in arm.labels})
        share = arm.collapsed_share
        rows.append((
            arm.label if arm.finished else f"{arm.label} (unfinished, round {arm.last_round})",
            str(totals[0]) if len(totals) == 1 else f"{totals[0]} to {totals[-1]}",
            interval_cell(arm.final_utility),
            "baseline" if arm.label == baseline else interval_cell(arm.utility_difference),
            interval_text(arm.final_reward),
            interval_cell(arm.evaluated[-1].kl),
            "unknown" if share is None else f"{share.successes} of {share.total}",
        ))  # fmt: skip
    kept = [i for i, name in enumerate(head) if not (single and name == against)]
    caption = f"Held-out answers at round {comparison.last_round}, mean [{comparison.level:.0%} interval]"
    return Table(
        caption,
        tuple(head[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        tuple(comparison.planned_arms.index(arm.label) for arm in comparison.arms),
    )


def _summary_note(comparison: Comparison) -> str:
    return (
        f"Held-out answers at round {comparison.last_round} of {comparison.planned_rounds}: mean and"
        f" {comparison.level:.0%} interval. Collapse: true utility falls from its best evaluated round by more than"
        " half the prompt-to-prompt standard deviation at round 0, its paired interval excludes 0, and proxy reward"
        " does not fall, or fell only later."
    )


def _series(comparison: Comparison, line: Callable[[Arm], Iterable[Point]]) -> tuple[Series, ...]:
    return series_of({arm.label: line(arm) for arm in comparison.arms}, comparison.planned_arms)


def _band(comparison: Comparison) -> str:
    return f"{comparison.level:.0%} interval"


def curves(comparison: Comparison, marks: tuple[Mark, ...] = ()) -> tuple[Chart, ...]:
    """Return held-out true utility (where it is known) and proxy reward by round."""
    return (
        *_heldout(comparison, "utility", "True utility, held out", "true utility (labeller's unit)", marks),
        *_heldout(comparison, "reward", "Proxy reward, held out", "proxy reward (reward model's unit)", marks),
    )


def _heldout(
    comparison: Comparison, column: str, title: str, y: str, marks: tuple[Mark, ...] = ()
) -> tuple[Chart, ...]:
    def line(arm: Arm) -> Iterable[Point]:
        known = ((one.round, getattr(one, column)) for one in arm.evaluated)
        return (of_interval(round_, interval) for round_, interval in known if interval is not None)

    return drawn(
        Chart(
            column.replace("_", "-"), title, ROUNDS_DONE, y, _series(comparison, line), band=_band(comparison),
            guide="zero" if column == "gap" else "none", marks=marks,
        )
    )  # fmt: skip


def _best_rounds(comparison: Comparison) -> tuple[Mark, ...]:
    """Return the round from which true utility falls, for each arm that collapsed."""
    return tuple(
        Mark(
            f"{arm.label} is best at round {collapse.best} and falls by {interval_text(collapse.fall)} until"
            f" round {collapse.last}",
            comparison.planned_arms.index(arm.label),
            collapse.best,
        )
        for arm in comparison.arms
        if (collapse := arm.collapse) and collapse.collapsed
    )


def _marks_note(marks: tuple[Mark, ...]) -> str:
    if not marks:
        return ""
    if marks[0].low is None:
        return " A dotted line marks the best round of an arm that collapsed: true utility falls from there."
    return ONSET_NOTE


def _differences(comparison: Comparison) -> tuple[Chart, ...]:
    """Return the paired difference of true utility from the baseline, a row an arm."""

    def row(arm: Arm) -> tuple[Point, ...]:
        return (of_interval(0, arm.utility_difference),) if arm.utility_difference else ()

    baseline = comparison.planned_arms[0]
    title = f"True utility less that of {baseline}, paired, round {comparison.last_round}"
    x = "difference of true utility (labeller's unit)"
    return drawn(
        Chart("difference", title, x, "arm", _series(comparison, row), "forest", band=_band(comparison), guide="zero")
    )


def _trained(comparison: Comparison, column: str, title: str, y: str) -> tuple[Chart, ...]:
    def line(arm: Arm) -> Iterable[Point]:
        several = len(arm.seeds) > 1
        return (
            Point(one.round, spread.mean, spread.lowest if several else None, spread.highest if several else None)
            for one in arm.trained
            if (spread := one.columns.get(column))
        )

    several = any(len(arm.seeds) > 1 for arm in comparison.arms)
    return drawn(
        Chart(
            column.replace("_", "-"), title, ROUNDS_DONE, y, _series(comparison, line),
            band="lowest and highest seed" if several else "", guide="zero" if column == "overconfidence" else "none",
        )
    )  # fmt: skip


def _training_section(comparison: Comparison) -> Section:
    title, y = "Overconfidence of the reward model", "predicted - labelled preference"
    charts = (
        *_trained(comparison, "penalty_chosen", "Penalty of the winner", "penalty (reward model's unit)"),
        *_trained(comparison, "overconfidence", title, y),
    )
    return Section(
        "training",
        "In training",
        "Penalty: what foresight took off the winner's reward (0 for plain RLHF). Overconfidence: how much"
        " more than the labels the reward model preferred what it preferred, before it was retrained: the mean over the"
        " pairs labelled in a round. Lines are means over seeds, bands the range of the seeds.",
        charts,
    )


def _labels_section(comparison: Comparison) -> Section:
    counts = tuple(
        (arm.label, str(labels.seed), str(labels.initial), str(labels.later), str(labels.total))
        for arm in comparison.arms
        for labels in arm.labels
    )
    table = Table("Labels that each run read", ("arm", "seed", "first pairs", "later", "total"), counts)
    return Section(
        "labels",
        "Labels",
        "A label is one preference between two answers that the labeller gave and the run read: for the pairs on"
        " which the reward model was first fitted, and after that for choosing winners or for training. True utilities"
        " of held-out answers are read for this page alone and do not count. The chart holds arms against each other"
        " at equal labels: two points above the same place on its x axis cost the same.",
        _utility_by_labels(comparison),
        (table,),
    )


def _utility_by_labels(comparison: Comparison) -> tuple[Chart, ...]:
    def line(arm: Arm) -> Iterable[Point]:
        totals = {one.round: spread.mean for one in arm.trained if (spread := one.columns.get("labels_total"))}
        first = sum(labels.initial for labels in arm.labels) / len(arm.labels)
        return (
            of_interval(totals.get(one.round, first), one.utility)
            for one in arm.evaluated
            if one.utility and (one.round in totals or one.round == 0)
        )

    return drawn(
        Chart(
            "budget", "True utility by labels read", "labels read (a seed)", "true utility (labeller's unit)",
            _series(comparison, line), band=_band(comparison),
        )
    )  # fmt: skip
