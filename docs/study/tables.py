"""Make the tables and figures of the study from `docs/study/results`: `python docs/study/tables.py`."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from parts import DEFAULT, KL, MAIN, PARTS, PLAIN
from scipy.stats import ttest_1samp

from foresighted.labels.labellers import RELEVANCE_WEIGHT, REPETITION_WEIGHT
from foresighted.prompts import load_prompts
from foresighted.reporting.samples import shown_prompts
from foresighted.statistics.collapse import Fall, family_size, judge_arm
from foresighted.statistics.intervals import Interval, paired_interval, student_interval, wilson_share
from foresighted.statistics.layout import choose_layout
from foresighted.statistics.numbers import Floats, Ints
from foresighted.statistics.ratings import holm
from foresighted.statistics.wording import interval_text, number, of_text, p_text
from foresighted.texts import words

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NAMES = {
    PLAIN: "plain", KL: "KL .3 alone", DEFAULT: "default", "rlhf:kl_coefficient=0.1": "KL .1 alone",
    "rlhf:kl_coefficient=1": "KL 1 alone", "shuffled": "shuffled + KL .3", "labels": "ceiling + KL .3",
    "practical:kl_coefficient=0": "foresight alone", "practical:kl_coefficient=0.1": "practical + KL .1",
}  # fmt: skip
"""Arms in words."""
COLOURS = {
    PLAIN: "#b0413e",
    KL: "#2b6a99",
    DEFAULT: "#1b7f4d",
    "shuffled": "#8d5a97",
    "practical:kl_coefficient=0": "#d08a2e",
    "rlhf:kl_coefficient=0.1": "#7fb2d9",
    "rlhf:kl_coefficient=1": "#12324d",
    "practical:kl_coefficient=0.1": "#7cc49a",
    "labels": "#777777",
}
WORDS = (PLAIN, "rlhf:kl_coefficient=0.1", "practical:kl_coefficient=0.1", KL, DEFAULT)
"""Arms whose words are shown, and that are in the picture in short."""
LISTED, DRAWN = 16, 100_000
"""Seeds up to which all flips of signs are listed, and how many are drawn beyond."""
MARGIN = 0.25
"""What the default may be worse by than the tuned KL term, in units of utility."""
CLAIMS = (
    ("B", DEFAULT, "tuned", "default − tuned KL"),
    ("C", DEFAULT, KL, "default − KL .3 alone"),
    ("C", "practical:kl_coefficient=0.1", "rlhf:kl_coefficient=0.1", "practical + KL .1 − KL .1 alone"),
    ("C", DEFAULT, "shuffled", "default − shuffled + KL .3"),
)
"""The protocol's comparisons: claim, arm, other arm, name."""


@dataclass(frozen=True)
class Answers:
    """Held-out answers of one arm, as columns."""

    round: Ints
    prompt: Ints
    run: Ints


def read(name: str) -> pd.DataFrame | None:
    """Return a table of results, or None where there is none yet."""
    path = RESULTS / f"{name}.parquet"
    return pd.read_parquet(path) if path.exists() else None


def grid(table: pd.DataFrame, arm: str, round_: int, column: str = "utility") -> pd.DataFrame:
    """Return a column of an arm's answers after some rounds, seeds by prompts."""
    rows = table[(table.arm == arm) & (table["round"] == round_)]
    return rows.pivot(index="seed", columns="prompt_id", values=column)


def over_seeds(values: Floats) -> Interval:
    """Return the mean of one value a seed with Student's interval."""
    return student_interval(np.asarray(values, np.float64))


def falls(table: pd.DataFrame, arm: str, family: int) -> list[Fall]:
    """Return whether each seed of an arm collapsed, by the one definition."""
    rows = table[table.arm == arm]
    seeds, prompts = (sorted(rows[name].unique()) for name in ("seed", "prompt_id"))
    answers = Answers(
        rows["round"].to_numpy(np.int64), rows.prompt_id.map(prompts.index).to_numpy(np.int64),
        rows.seed.map(seeds.index).to_numpy(np.int64),
    )  # fmt: skip
    known = np.ones(len(rows), bool)
    utility, reward = (rows[name].to_numpy(np.float64) for name in ("utility", "reward"))
    found = judge_arm(
        answers, utility, reward, known, choose_layout(answers, known), seeds=list(map(str, seeds)), family=family
    )
    return [] if found is None else list(found.seeds or (found.mean,))


def arms_of(name: str, table: pd.DataFrame) -> list[str]:
    """Return the arms of a part that were played, in the protocol's order."""
    return [arm for arm in PARTS[name].arms if (table.arm == arm).any()]


def table_of(name: str, table: pd.DataFrame, rounds: pd.DataFrame) -> str:
    """Return the outcome of a part as a Markdown table."""
    last, arms = int(table["round"].max()), arms_of(name, table)
    family = family_size([table[table.arm == arm].seed.nunique() for arm in arms])
    shown = [round_ for round_ in sorted(table["round"].unique()) if round_]
    head = ["arm", "seeds", *(f"round {shown[0]}", *map(str, shown[1:-1])), f"{last} [95 % over seeds]", "worst"]
    lines = [" | ".join(["", *head, "collapsed", "labels a seed", "proxy r", "KL (nats)", ""]).strip()]
    lines.append("|---|" + "--:|" * (len(head) + 3))
    for arm in arms:
        by_round = {round_: grid(table, arm, round_).mean(axis=1).to_numpy() for round_ in shown}
        verdicts = [fall.collapsed for fall in falls(table, arm, family)]
        worst = min(values.mean() for values in by_round.values())
        end = rounds[(rounds.arm == arm) & (rounds["round"] == last)]
        cells = [
            NAMES.get(arm, f"`{arm}`"), str(len(by_round[last])),
            *(number(float(by_round[round_].mean())) for round_ in shown[:-1]),
            interval_text(over_seeds(by_round[last])), number(float(worst)),
            of_text(wilson_share(sum(verdicts), len(verdicts))), number(float(end.labels_total.mean())).split(".")[0],
            number(float(grid(table, arm, last, "reward").to_numpy().mean())),
            number(float(grid(table, arm, last, "kl").to_numpy().mean())),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    before = number(float(table[table["round"] == 0].utility.mean()))
    return f"Before training: {before}.\n\n" + "\n".join(lines)


def parts_table(name: str, table: pd.DataFrame) -> str:
    """Return the parts of the utility at the last round, and how many answers are the question again, in Markdown."""
    last = int(table["round"].max())
    lines = [
        f"| arm | true utility | {RELEVANCE_WEIGHT:g} × relevance of what is added | fluency"
        f" | −{REPETITION_WEIGHT:g} × repetition | answers that repeat the question |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    asked = {prompt.id: Counter(words(prompt.text)) for prompt in load_prompts("bundled").heldout}
    for arm in arms_of(name, table):
        values = [
            float(grid(table, arm, last, c).to_numpy().mean())
            for c in ("utility", "relevance", "fluency", "repetition")
        ]
        scaled = [values[0], RELEVANCE_WEIGHT * values[1], values[2], -REPETITION_WEIGHT * values[3]]
        rows = table[(table.arm == arm) & (table["round"] == last)]
        added = [(Counter(words(row.text)) - asked[row.prompt_id]).total() for row in rows.itertuples()]
        cells = [*map(number, scaled), f"{sum(count <= 1 for count in added)} of {len(added)}"]
        lines.append(f"| {NAMES.get(arm, arm)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def words_table(table: pd.DataFrame) -> str:
    """Return the words of the first four held-out prompts by the SHA-256 of their ids, of some arms and three seeds."""
    last, arms = int(table["round"].max()), [arm for arm in WORDS if (table.arm == arm).any()]
    prompts = shown_prompts(table.prompt_id.unique(), 4)
    known = table.set_index(["arm", "seed", "round", "prompt_id"])[["text", "utility"]]
    seeds = sorted(table.seed.unique())[:3]
    middle = sorted(table["round"].unique(), key=lambda number: abs(number - last / 2))[0]

    def said(*place: object) -> str:
        text, utility = known.loc[place]
        return f"{' '.join(str(text).replace('|', '/').split())} ({number(float(utility))})"

    lines = [f"| prompt | arm | seed | round {middle} | round {last} |", "|---|---|--:|---|---|"]
    for prompt in prompts:
        lines.append(f"| {prompt} | before training | | {said(arms[0], seeds[0], 0, prompt)} | |")
        lines += [
            f"| | {NAMES[arm]} | {seed} | {said(arm, seed, middle, prompt)} | {said(arm, seed, last, prompt)} |"
            for arm in arms
            for seed in seeds
        ]
    return "\n".join(lines)


def best(part: str, arms: Sequence[str]) -> str | None:
    """Return which of some arms has the highest mean held-out utility at the last round of a part; None where one of
    them was not played."""
    table = read(part)
    if table is None or not set(arms) <= set(table.arm):
        return None
    means = {arm: grid(table, arm, int(table["round"].max())).to_numpy().mean() for arm in arms}
    return max(means, key=lambda arm: means[arm])


def flips(differences: Floats) -> float:
    """Return the two-sided p-value of a mean of paired differences under flips of their signs: all of them, or of more
    than `LISTED` differences `DRAWN`, beside the signs as they are."""
    count = len(differences)
    if count <= LISTED:
        signs = np.array(list(itertools.product((1, -1), repeat=count)))
    else:
        drawn = np.random.default_rng(0).choice(np.array([1, -1]), (DRAWN - 1, count))
        signs = np.concatenate([np.ones((1, count), int), drawn])
    means = np.abs((signs * differences).mean(1))
    return float((means >= abs(differences.mean()) - 1e-12).mean())


def claims_table(name: str, table: pd.DataFrame) -> str:
    """Return the protocol's four comparisons of a part as a Markdown table; one that cannot be made yet says so."""
    last = MAIN["rounds"]
    rows: list[tuple[str, str, Interval, Interval, float, float] | None] = []
    for claim, arm, other, comparison in CLAIMS:
        against = best("tuning", PARTS["tuning"].arms) if other == "tuned" else other
        if against is None or not all((table.arm == one).any() for one in (arm, against)):
            rows.append(None)
            continue
        mine, theirs = (grid(table, one, last) for one in (arm, against))
        seeds = mine.index.intersection(theirs.index)
        mine, theirs = mine.loc[seeds].to_numpy(), theirs.loc[seeds].to_numpy()
        apart = (mine - theirs).mean(1).astype(np.float64)
        shift = MARGIN if claim == "B" else 0.0
        p = float(ttest_1samp(apart + shift, 0.0).pvalue)
        told = f"{comparison} ({NAMES[against]})" if other == "tuned" else comparison
        if len(seeds) < len(PARTS[name].seeds):
            told += f", {len(seeds)} of {len(PARTS[name].seeds)} seeds so far"
        rows.append((claim, told, over_seeds(apart), paired_interval(mine, theirs, seed=0), p, flips(apart + shift)))
    corrected = holm([None if row is None else row[4] for row in rows])
    lines = [
        "| claim | at round 100 | difference [over seeds] | [over seeds and prompts] | p | Holm | sign flips |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row, p, (claim, _, _, comparison) in zip(rows, corrected, CLAIMS, strict=True):
        if row is None:
            lines.append(f"| {claim} | {comparison} | not played yet | | | | |")
            continue
        wide = f"[{number(row[3].low)}, {number(row[3].high)}]"
        told = f"{row[1]}, against −{MARGIN}" if claim == "B" else row[1]
        cells = (claim, told, interval_text(row[2]), wide, *map(p_text, (row[4], p, row[5])))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curves(axes: Axes, table: pd.DataFrame, arms: Sequence[str], column: str = "utility") -> None:
    """Draw a column by round, means over seeds with Student's interval."""
    for arm in arms:
        means = {int(r): grid(table, arm, r, column).mean(axis=1).to_numpy() for r in sorted(table["round"].unique())}
        spans, colour = [over_seeds(values) for values in means.values()], COLOURS[arm]
        axes.plot(list(means), [span.mean for span in spans], color=colour, marker="o", markersize=3, label=NAMES[arm])
        axes.fill_between(
            list(means), [s.low for s in spans], [s.high for s in spans], color=colour, alpha=0.15, linewidth=0
        )
    axes.set_xlabel("rounds done")


def legend(drawing: Figure, panels: Sequence[Axes]) -> None:
    """Name each arm once, below."""
    shown = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    drawing.legend(shown.values(), shown, loc="outside lower center", ncols=len(shown), frameon=False)


def figure(found: dict[str, pd.DataFrame]) -> Figure:
    """Return true utility by round of the arms of every cell."""
    across = min(3, len(found))
    down = math.ceil(len(found) / across)
    drawing = Figure(figsize=(4.2 * across, 2.9 * down), layout="constrained")
    panels = drawing.subplots(down, across, squeeze=False).flatten()
    for axes, (name, table) in zip(panels, found.items(), strict=False):
        curves(axes, table, [arm for arm in arms_of(name, table) if arm in COLOURS])
        axes.axhline(0, color="#cccccc", linewidth=0.6, zorder=0)
        axes.set_title(f"{name} ({table.seed.nunique()} seeds)", loc="left", fontsize=9)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("held-out true utility")
    legend(drawing, panels)
    return drawing


def in_short(table: pd.DataFrame) -> Figure:
    """Return true utility and proxy reward by round of the main cell: plain RLHF, and both KL terms with and without
    foresight."""
    drawing = Figure(figsize=(8.4, 2.9), layout="constrained")
    panels = drawing.subplots(1, 2)
    for axes, column, told in zip(panels, ("utility", "reward"), ("true utility", "proxy reward"), strict=True):
        curves(axes, table, [arm for arm in WORDS if (table.arm == arm).any()], column)
        axes.set_title(f"{told}, held-out, {table[table.arm == DEFAULT].seed.nunique()} seeds", loc="left", fontsize=9)
    legend(drawing, panels)
    return drawing


def played() -> dict[str, pd.DataFrame]:
    """Return the held-out answers of every part that has results."""
    return {name: table for name in PARTS if (table := read(name)) is not None}


def text(found: dict[str, pd.DataFrame]) -> str:
    """Return all tables as Markdown."""
    pieces = []
    for name, told in (("main", "Claims B and C"), ("replication", "Claims B and C on 32 fresh seeds")):
        if name in found:
            pieces += [f"### {told}", claims_table(name, found[name])]
    for name, table in found.items():
        rounds = read(f"{name}-rounds")
        pieces += [f"### {name}: {PARTS[name].told}", table_of(name, table, rounds)] if rounds is not None else []
        if name in ("reduced", "main", "replication"):
            told = (
                "Parts of the utility at the last round, and answers of which at most one word is not the question's:"
            )
            pieces += [told, parts_table(name, table)]
            pieces += [
                "The words (four held-out prompts by the SHA-256 of their ids, three seeds):",
                words_table(table),
            ]
    return "\n\n".join(pieces) + "\n"


def main() -> None:
    """Write tables.md and the figures."""
    found = played()
    (HERE / "tables.md").write_text(text(found), encoding="utf-8")
    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        drawn = {"study": figure(found)} | ({"study-main": in_short(found["main"])} if "main" in found else {})
        for name, drawing in drawn.items():
            drawing.savefig(HERE.parent / "assets" / f"{name}.png", dpi=160, metadata={"Software": None})


if __name__ == "__main__":
    main()
