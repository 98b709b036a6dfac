"""The page of a rehearsal: that of its loops, with the three sentences above all and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from foresighted.alignment.compared import label_sentences, missing_sentences, size_sentences
from foresighted.alignment.rehearsal_text import advice, sentences, table
from foresighted.alignment.rehearsed import Rehearsal, Wins
from foresighted.judging.rehearse import read_rehearsal
from foresighted.reporting.charts import Chart, Point, Table, drawn, of_interval, series_of
from foresighted.reporting.comparison import ROUNDS_DONE, comparison_page
from foresighted.reporting.page import Page, Section, kept_texts
from foresighted.store.directory import LOOPS


def rehearsal_page(out: Path) -> Page:
    """Return the page of a rehearsal directory.

    Raises:
        DataError: the records cannot be summarised, for example because nothing was evaluated yet.
        ConfigError: `config.yaml` cannot be read.
    """
    found, page = read_rehearsal(out), comparison_page(out / LOOPS)
    first, *more = sentences(found)
    opening = page.opening and replace(page.opening, sentence=first, more=tuple(more))
    if opening and found.by_wins:  # an audit of the records alone cannot tell, where the judge could
        opening = replace(opening, charts=(*_win_rates(found), *opening.charts))
        parts = (label_sentences, size_sentences, missing_sentences)
        known = tuple(sentence for part in parts for sentence in part(found.comparison))
        page = replace(page, verdict="", lead="", alarm=False, sentences=known)
    said, *typed = advice(found)
    follows = Section("follows", "What follows", points=(said,) if said else (), code=tuple(filter(None, typed)))
    sections = [_with_table(section, found) if section.id == "summary" else section for section in page.sections]
    return replace(
        page,
        title=f"Rehearsal: {len(found.comparison.arms)} arms of iterative RLHF side by side ({out.resolve().name})",
        opening=opening,
        sections=(sections[0], follows, *sections[1:]),
        texts=kept_texts(out),
    )


def _with_table(section: Section, found: Rehearsal) -> Section:
    head, rows = table(found)
    looks = tuple(found.comparison.planned_arms.index(one.label) for one in found.standings)
    note = section.note
    if found.by_wins:
        note = (
            "The judge knows no utility. It compared held-out answers in both orders, equal ones being ties: each arm's"
            " with the first policy's and with the baseline's after the same round. Half is no difference."
        )
    return replace(section, note=note, tables=(Table(section.tables[0].caption, head, rows, looks),))


def _win_rates(found: Rehearsal) -> Iterable[Chart]:
    """Return how often the judge prefers each arm's answers to the first policy's, by round."""

    def line(wins: Iterable[Wins]) -> Iterable[Point]:
        return [of_interval(one.round, one.first) for one in wins if one.first is not None]

    lines = {one.label: line(one.wins) for one in found.standings}
    title, y = "Preferred to the first policy, held out", "win rate (share of prompts)"
    series = series_of(lines, found.comparison.planned_arms)
    return drawn(Chart("wins", title, ROUNDS_DONE, y, series, band=f"{found.comparison.level:.0%} interval"))
