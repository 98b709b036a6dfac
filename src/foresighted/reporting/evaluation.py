"""The page of an evaluation: who wins, by how much, on what, and every answer with what the judge said of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from foresighted.judging.result import Evaluation, GroupResult, PairResult, PolicyResult
from foresighted.judging.rows import AnswerRow, JudgementRow, read_rows
from foresighted.reporting.charts import Chart, Guide, Point, Series, Table, drawn, interval_cell, of_interval
from foresighted.reporting.page import Legend, Page, Section, kept_texts
from foresighted.reporting.responses import Response, Responses, pack
from foresighted.statistics.intervals import Interval, Share
from foresighted.statistics.wording import interval_text, number, p_text
from foresighted.store.directory import ANSWERS, JUDGEMENTS

MEANING = (
    "Net wins: how many of its judged pairs an answer won, less how many it lost; the notes say against whom, and what"
    " the judge gave as its reason in each order."
)
OF_DECIDED = "wins among wins and losses (share)"


def evaluation_page(evaluation: Evaluation, directory: Path | None) -> Page:
    """Return the page of an evaluation.

    Args:
        evaluation: what `evaluation.json` holds.
        directory: where `answers.jsonl`, `judgements.jsonl` and `config.yaml` lie; what is absent is not shown.
            None: nowhere.

    Raises:
        DataError: a damaged line in one of them.
    """
    named = [one.name for one in evaluation.policies]
    named += [name for pair in evaluation.pairs for name in (pair.first, pair.second)]
    policies = tuple(dict.fromkeys([*named, *(one.policy for one in evaluation.capabilities)]))
    return Page(
        title=_title(policies, evaluation),
        sentences=evaluation.sentences,
        legend=tuple(Legend(name, index) for index, name in enumerate(policies)),
        sections=(
            Section("summary", "Summary", evaluation.multiplicity, tables=_pairs_tables(evaluation, policies)),
            _wins_section(evaluation, policies),
            _categories_section(evaluation, policies),
            _answers_section(evaluation, policies),
            _lengths_section(evaluation.pairs),
            _capabilities_section(evaluation, policies),
            _judge_section(evaluation),
        ),
        responses=_responses(directory, policies) if directory else None,
        texts=kept_texts(directory) if directory else (),
    )


def _title(policies: Sequence[str], evaluation: Evaluation) -> str:
    others = [name for name in policies if name != evaluation.baseline]
    versus = others[0] if len(others) == 1 else f"{len(others)} policies"
    return f"{versus} against {evaluation.baseline}, judged on {evaluation.prompts} prompts"


def _share(share: Share | None) -> str:
    return of_interval(0, share).text if share else "unknown"


def _name(pair: PairResult) -> str:
    return f"{pair.first} over {pair.second}"


def _pairs_tables(evaluation: Evaluation, policies: Sequence[str]) -> tuple[Table, ...]:
    head = ("pair", "wins", "ties", "losses", "orders disagree", "failed", "win rate", "of decided", "p", "p (Holm)")
    rows = tuple(
        (
            _name(pair), str(pair.counts.wins), str(pair.counts.ties), str(pair.counts.losses),
            str(pair.counts.position_bias) if pair.bias else "unknown", str(pair.counts.failed),
            interval_cell(pair.win_rate), _share(pair.decided),
            p_text(pair.p), p_text(pair.holm),
        )
        for pair in evaluation.pairs
    )  # fmt: skip
    if not rows:
        return ()
    caption = f"Outcomes of the first policy of each pair; brackets are {evaluation.level:.0%} intervals"
    return (Table(caption, head, rows, tuple(policies.index(pair.first) for pair in evaluation.pairs)),)


def _forest(
    evaluation: Evaluation,
    name: str,
    title: str,
    x: str,
    rows: Iterable[tuple[str, int, Point | None]],
    *,
    y: str = "policy",
    guide: Guide = "none",
) -> tuple[Chart, ...]:
    series = tuple(Series(label, index, (point,)) for label, index, point in rows if point)
    return drawn(Chart(name, title, x, y, series, "forest", band=f"{evaluation.level:.0%} interval", guide=guide))


def _wins_section(evaluation: Evaluation, policies: Sequence[str]) -> Section:
    pairs = [(_name(pair), policies.index(pair.first), pair) for pair in evaluation.pairs]
    rates = [(name, index, _point(pair.win_rate)) for name, index, pair in pairs]
    decided = [(name, index, _point(pair.decided)) for name, index, pair in pairs]
    ratings = [(one.name, policies.index(one.name), _rating(one)) for one in evaluation.policies]
    charts = [
        *_forest(evaluation, "win-rate", "Win rate", "win rate (share)", rates, y="pair", guide="half"),
        *_forest(evaluation, "decided", "Share of decided pairs won", OF_DECIDED, decided, y="pair", guide="half"),
    ]
    if sum(one.rating is not None for one in evaluation.policies) > 2:
        title, x = "Bradley-Terry ratings", "rating (nats of odds)"
        charts += _forest(evaluation, "ratings", title, x, ratings, guide="zero")
    return Section(
        "wins",
        "Who wins",
        "Win rate: wins and half of ties and of pairs whose two orders disagree, as a share of judged pairs; 0.5 is no"
        " difference. The share of decided pairs leaves ties out. Ratings are in nats of odds, the baseline's being 0.",
        tuple(charts),
    )


def _point(value: Interval | Share | None) -> Point | None:
    return of_interval(0, value) if value else None


def _rating(policy: PolicyResult) -> Point | None:
    return Point(0, policy.rating.rating, policy.rating.low, policy.rating.high) if policy.rating else None


def _categories_section(evaluation: Evaluation, policies: Sequence[str]) -> Section:
    charts: list[Chart] = []
    rows: list[tuple[str, ...]] = []
    for place, pair in enumerate(evaluation.pairs):
        groups = [(group.name, policies.index(pair.first), _point(group.decided)) for group in pair.categories]
        title = f"{_name(pair)}, by category"
        if len(groups) > 1:
            name = f"categories-{place}"
            charts += _forest(evaluation, name, title, OF_DECIDED, groups, y="category", guide="half")
        rows += [_group_row(pair, "category", group) for group in pair.categories]
        rows += [_group_row(pair, "seed", group) for group in pair.by_seed] if len(pair.by_seed) > 1 else []
    head = ("pair", "by", "group", "wins", "ties", "losses", "orders disagree", "failed", "of decided", "p")
    return Section(
        "categories",
        "On which prompts",
        "The p of a group is not corrected for how many groups there are.",
        tuple(charts),
        (Table("Outcomes by category and by training seed", head, tuple(rows)),) if rows else (),
    )


def _group_row(pair: PairResult, by: str, group: GroupResult) -> tuple[str, ...]:
    counts = group.counts
    disagree = str(counts.position_bias) if pair.bias else "unknown"
    numbers = (counts.wins, counts.ties, counts.losses, disagree, counts.failed)
    return (_name(pair), by, group.name, *map(str, numbers), _share(group.decided), p_text(group.p))


def _answers_section(evaluation: Evaluation, policies: Sequence[str]) -> Section:
    def rows(column: str) -> list[tuple[str, int, Point | None]]:
        return [(one.name, policies.index(one.name), _point(getattr(one, column))) for one in evaluation.policies]

    empty = tuple((one.name, str(one.answers), str(one.empty), one.source) for one in evaluation.policies)
    return Section(
        "answers",
        "What the answers look like",
        "Repetition: the share of an answer's word pairs that stood in it before. Refusal: an answer that opens as one"
        " in English, a heuristic.",
        (
            *_forest(evaluation, "words", "Length of answers", "length (words)", rows("words")),
            *_forest(evaluation, "repetition", "Repetition", "repeated word pairs (share)", rows("repetition")),
            *_forest(evaluation, "refusals", "Refusals", "answers that refuse (share)", rows("refusals")),
        ),
        (Table("Answers read", ("policy", "answers", "empty", "source"), empty),) if empty else (),
    )


def _lengths_section(pairs: Sequence[PairResult]) -> Section:
    rows = tuple(
        (
            _name(pair), number(lengths.first_mean), number(lengths.second_mean), _share(lengths.longer_won),
            p_text(lengths.longer_p), _share(lengths.controlled),
        )
        for pair in pairs
        if (lengths := pair.lengths)
    )  # fmt: skip
    head = ("pair", "words of first", "of second", "longer won", "p", "first wins at equal length")
    return Section(
        "lengths",
        "Does length explain it",
        "Longer won: of the decided pairs with answers of different length, the share that the longer one won. At equal"
        " length: what a logistic model of the outcome on the difference of lengths gives at a difference of 0.",
        (),
        (Table("Length and outcome", head, rows),) if rows else (),
    )


def _capabilities_section(evaluation: Evaluation, policies: Sequence[str]) -> Section:
    charts: list[Chart] = []
    rows = []
    for place, (task, metric) in enumerate(dict.fromkeys((one.task, one.metric) for one in evaluation.capabilities)):
        own = [one for one in evaluation.capabilities if (one.task, one.metric) == (task, metric)]
        scores = [(one.policy, policies.index(one.policy), _point(one.score)) for one in own]
        charts += _forest(evaluation, f"capability-{place}", f"{task}: {metric}", metric, scores)
        rows += [
            (
                one.policy, task, metric, f"{one.items} of {one.available}", interval_text(one.score),
                interval_cell(one.difference, "baseline"),
            )
            for one in own
        ]  # fmt: skip
    head = ("policy", "task", "metric", "items", "score", "less the baseline")
    table = Table("Capability checks; differences are paired by item", head, tuple(rows))
    return Section("capabilities", "Capabilities", "", tuple(charts), (table,) if rows else ())


def _judge_section(evaluation: Evaluation) -> Section:
    judge = evaluation.judge
    if judge is None:
        return Section("judge", "The judge")
    known: tuple[tuple[str, object], ...] = (
        ("judge", judge.name), ("endpoint", judge.base_url), ("rubric", judge.rubric), ("asked", judge.mode),
        ("categories", judge.categories), ("requests sent", judge.sent), ("from the cache", judge.cached),
        ("tokens, estimated", judge.tokens_estimated), ("tokens read, counted", judge.tokens_prompt),
        ("tokens written, counted", judge.tokens_completion), ("answers defused", judge.defused),
    )  # fmt: skip
    rows = tuple((name, str(value)) for name, value in known if value is not None)
    failed = tuple(
        (_name(pair), kind, str(times)) for pair in evaluation.pairs for kind, times in pair.failures.items() if times
    )
    bias = tuple(
        (_name(pair), str(one.preferred_first), str(one.preferred_second), str(one.half), p_text(one.p))
        for pair in evaluation.pairs
        if (one := pair.bias)
    )
    tables = [Table("How the judge was asked", ("what", "value"), rows)]
    if bias:
        head = ("pair", "always the first", "always the second", "tie in one order", "p")
        tables.append(Table("Pairs whose two orders disagree: what the judge preferred", head, bias))
    if failed:
        tables.append(Table("Failures by kind; a failure is no tie", ("pair", "kind", "pairs"), failed))
    return Section("judge", "The judge", "", (), tuple(tables))


def _responses(directory: Path, policies: Sequence[str]) -> Responses | None:
    answers = read_rows(directory / ANSWERS, AnswerRow)
    judged = read_rows(directory / JUDGEMENTS, JudgementRow)
    net: dict[tuple[str, int, str], int] = {}
    notes: dict[tuple[str, int, str], list[str]] = {}
    kinds: dict[str, str] = {}
    for row in judged:
        kinds[row.prompt_id] = row.category
        sides = ((row.first, row.first_seed, row.second, 1), (row.second, row.second_seed, row.first, -1))
        for name, seed, other, sign in sides:
            place = (name, seed, row.prompt_id)
            net[place] = net.get(place, 0) + sign * {"win": 1, "loss": -1}.get(row.result, 0)
            notes.setdefault(place, []).append(_said(row, other, sign))
    found = [
        Response(
            source="answer", arm=one.policy, seed=str(one.seed), round=0, prompt_id=one.prompt_id, prompt=one.prompt,
            kind=kinds.get(one.prompt_id, one.kind), text=one.text,
            numbers={
                "net": net.get((one.policy, one.seed, one.prompt_id)),
                "words": len(one.text.split()),
                "tokens": one.tokens,
            },
            note="\n".join(notes.get((one.policy, one.seed, one.prompt_id), ())),
        )
        for one in answers
        if one.policy in policies
    ]  # fmt: skip
    return pack(found, policies, policies, title="All answers", meaning=MEANING)


def _said(row: JudgementRow, other: str, sign: int) -> str:
    words = {"win": ("won", "lost"), "loss": ("lost", "won")}.get(row.result)
    outcome = words[0 if sign > 0 else 1] if words else row.result.replace("_", " ")
    reasons = [reason for reason in (row.forward_reason, row.backward_reason) if reason]
    failed = f" ({row.failure})" if row.failure else ""
    same = " (the same text)" if row.identical else ""
    return f"Against {other}: {outcome}{failed}{same}." + "".join(f"\n“{reason}”" for reason in reasons)
