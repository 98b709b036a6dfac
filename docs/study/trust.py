"""Trust control in the games, against two time scales that were tuned: what docs/study/trust.md shows.

    python docs/study/trust.py tune linear   # two time scales, on seeds of their own -> trust_linear_tuned.json
    python docs/study/trust.py play linear   # the protocol, on fresh seeds -> trust_linear.parquet
    python docs/study/trust.py play network 8 "trust, evidence, small start"   # a part of it: first seeds, some arms
    python docs/study/trust.py show          # from these -> trust_table.md, assets/trust.png

The other game is `network`. `tune` and `play` go on where they were stopped: their sweeps lie under runs/trust.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

import foresighted as fpo
from foresighted.statistics.intervals import mean_interval, wilson_share

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "trust"
TUNING, FRESH = range(9000, 9016), range(10000, 10256)
COSTS = (0.0, 0.01, 0.1)
GOOD = 9.0
FACTORS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
"""Of the leader's steps, to choose two time scales from."""
CELLS = {
    "published": {},
    "reward model x 0.3": {"reward_model_step": 0.3},
    "reward model x 3": {"reward_model_step": 3.0},
    "leader x 10": {"policy_step": 10.0, "final_policy_step": 10.0},
    "label noise 1": {},
}
"""What a cell multiplies."""
TRUST = {
    "trust, ratio alone": ":control=trust:trust_evidence=0",
    "trust, evidence": ":control=trust:trust_evidence=2",
    "trust, evidence, small start": ":control=trust:trust_evidence=2:trust_start=0.1",
}
SLOWER = ("two time scales", "two time scales, tuned once")
"""Tuned in each cell, and tuned with the published settings at the same action cost."""
ARMS = ("plain", *SLOWER, *TRUST)
KEPT = ("final_utility", "peak_utility", "area", "dropped", "collapsed")


class Played(NamedTuple):
    """How a game is played here."""

    steps: Mapping[str, float]
    """Step sizes, as published."""
    reward_model_steps: int
    """A round, of all arms but two time scales."""
    fast: tuple[int, ...]
    """Reward-model steps a round, to choose two time scales from."""


GAMES = {
    "network": Played({"policy_step": 0.05, "final_policy_step": 0.001, "reward_model_step": 0.001}, 10, (3, 10)),
    "linear": Played({"policy_step": 0.02, "reward_model_step": 0.005}, 1, (1, 3, 10)),
}


class Case(NamedTuple):
    """A cell at an action cost."""

    cell: str
    cost: float

    def arm(self, game: str, *, leader: float = 1.0, fast: int | None = None, control: str = "") -> str:
        """Return an arm in text, the case's settings in it, its leader slower by a factor."""
        change = CELLS[self.cell]
        steps = {
            name: value * change.get(name, 1.0) * (leader if "policy" in name else 1.0)
            for name, value in GAMES[game].steps.items()
        }
        told = steps | {"action_cost": self.cost, "label_noise": float(self.cell == "label noise 1")}
        fast = GAMES[game].reward_model_steps if fast is None else fast
        return f"rlhf{control}:reward_model_steps={fast}" + "".join(f":{k}={v:.6g}" for k, v in told.items())


CASES = tuple(Case(cell, cost) for cell in CELLS for cost in COSTS)


def sweep(game: str, phase: str, arms: list[str], seeds: range) -> dict[str, dict[str, Any]]:
    """Play arms, or read them where they were played; return the columns of runs by arm, in the order of seeds."""
    out = RUNS / f"{game}-{phase}"
    asked: dict[str, Any] = {"arms": list(dict.fromkeys(arms)), "seeds": seeds, "labels": "noisy", "record_every": 100}
    fpo.simulate(game, out=out, resume=out.exists(), **asked)  # noise of 0 is the exact label
    table = pq.read_table(out / "runs.parquet").sort_by("seed").to_pydict()
    rows = {arm: [k for k, name in enumerate(table["arm"]) if name == arm] for arm in asked["arms"]}
    return {arm: {name: [table[name][k] for k in at] for name in KEPT} for arm, at in rows.items()}


def tune(game: str) -> None:
    """Choose two time scales for each case: most seeds that end well, then the best mean."""
    grid = [(leader, fast) for fast in GAMES[game].fast for leader in FACTORS]
    arms = {(case, point): case.arm(game, leader=point[0], fast=point[1]) for case in CASES for point in grid}
    runs = sweep(game, "tune", list(arms.values()), TUNING)

    def worth(case: Case, point: tuple[float, int]) -> tuple[float, float]:
        ends = np.array(runs[arms[case, point]]["final_utility"])
        return float(np.mean(ends >= GOOD)), float(ends.mean())

    best = {f"{case.cell}, {case.cost}": max(grid, key=lambda point: worth(case, point)) for case in CASES}
    (HERE / f"trust_{game}_tuned.json").write_text(json.dumps(best, indent=1) + "\n", encoding="utf-8")


def text(game: str, case: Case, arm: str) -> str:
    """Return an arm of the protocol as the program reads it."""
    if arm not in SLOWER:
        return case.arm(game, control=TRUST.get(arm, ""))
    tuned = json.loads((HERE / f"trust_{game}_tuned.json").read_text())
    leader, fast = tuned[f"{case.cell if arm == SLOWER[0] else 'published'}, {case.cost}"]
    return case.arm(game, leader=leader, fast=fast)


def play(game: str, count: int = len(FRESH), wanted: Sequence[str] = ()) -> None:
    """Play the protocol, or its first seeds and some arms; keep a row a run."""
    seeds = FRESH[:count]
    arms = {(case, arm): text(game, case, arm) for case in CASES for arm in wanted or ARMS}
    runs = sweep(game, "play", list(arms.values()), seeds)
    columns: dict[str, list[Any]] = {name: [] for name in ("cell", "action_cost", "arm", "seed", *KEPT)}
    for (case, arm), played in arms.items():
        keys = {"cell": case.cell, "action_cost": case.cost, "arm": arm}
        for name, value in keys.items():
            columns[name] += [value] * len(seeds)
        columns["seed"] += seeds
        for name in KEPT:
            values = runs[played][name]
            columns[name] += values if name in ("dropped", "collapsed") else list(np.float32(values))
    pq.write_table(pa.table(columns), HERE / f"trust_{game}.parquet", compression="zstd")


class Ends(NamedTuple):
    """How an arm ended in a case, over seeds."""

    final: Any
    """True utility, one a seed."""
    of_best: Any
    """The same as a share of the best point that plain RLHF passes through on that seed; empty without plain."""


def played_arms(table: Mapping[str, Any]) -> list[str]:
    """Return the arms that a game was played with, in order."""
    return [arm for arm in ARMS if arm in table["arm"]]


def ends(table: Mapping[str, Any], case: Case, arm: str) -> Ends:
    """Return one entry of the table."""

    def chosen(name: str, arm: str) -> Any:
        at = (table["cell"] == case.cell) & (table["action_cost"] == case.cost) & (table["arm"] == arm)
        return table[name][at].astype(float)

    final, best = chosen("final_utility", arm), chosen("peak_utility", "plain")
    return Ends(final, final / best if best.size else best)


def entry(game: str, end: Ends) -> str:
    """Return an arm's end in words."""
    if game == "linear":
        found = mean_interval(end.of_best[:, None], seed=0)
        return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]; {end.final.mean():.2f}"
    good = wilson_share(int((end.final >= GOOD).sum()), len(end.final))
    told = f"{good.successes} of {good.total} [{good.low:.0%}, {good.high:.0%}]"
    return f"{told}; {end.final.mean():.2f}, worst {end.final.min():.2f}"


def results() -> Iterator[tuple[str, dict[str, Any]]]:
    """Go through the games that were played: name, columns."""
    for game in GAMES:
        if (path := HERE / f"trust_{game}.parquet").exists():
            yield game, {name: np.array(values) for name, values in pq.read_table(path).to_pydict().items()}


def show() -> None:
    """Write the table and the figure."""
    lines, found = [], dict(results())
    for game, table in found.items():
        arms = played_arms(table)
        lines += [f"**{game}**", "", "| cell | cost | " + " | ".join(arms) + " |", "|---|--:|" + "--:|" * len(arms)]
        for case in CASES:
            told = [entry(game, ends(table, case, arm)) for arm in arms]
            lines.append(f"| {case.cell} | {case.cost:g} | " + " | ".join(told) + " |")
        lines.append("")
    (HERE / "trust_table.md").write_text("\n".join(lines), encoding="utf-8")
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        drawn = figure(found)
        drawn.savefig(HERE.parent / "assets" / "trust.png", dpi=150, metadata={"Software": None})


COLOURS = dict(zip(ARMS, ("#000000", "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7"), strict=True))
MARKERS = dict(zip(ARMS, "ovDs^P", strict=True))


def figure(found: Mapping[str, Any]) -> Figure:
    """Final utility of every arm in every case: mean, and the span from the worst seed to the best."""
    drawing = Figure(figsize=(10.5, 4.2 * len(found)), layout="constrained")
    axes = drawing.subplots(len(found), 1, squeeze=False)[:, 0]
    for ax, (game, table) in zip(axes, found.items(), strict=True):
        for arm in played_arms(table):
            k = ARMS.index(arm)
            at = np.arange(len(CASES)) + (k - 2.5) * 0.13
            own = [(table["cell"] == c.cell) & (table["action_cost"] == c.cost) & (table["arm"] == arm) for c in CASES]
            values = np.array([table["final_utility"][rows].astype(float) for rows in own])
            ax.vlines(at, values.min(axis=1), values.max(axis=1), color=COLOURS[arm], alpha=0.4, linewidth=1)
            ax.plot(at, values.mean(axis=1), MARKERS[arm], color=COLOURS[arm], markersize=4.5, label=arm)
        ax.set_xticks(range(len(CASES)), [f"{case.cost:g}" for case in CASES])
        for k, cell in enumerate(CELLS):
            ax.text(3 * k + 1, -0.13, cell, ha="center", va="top", transform=ax.get_xaxis_transform())
            ax.axvline(3 * k - 0.5, color="#cccccc", linewidth=0.6)
        ax.set_ylabel("true utility at the end")
        ax.set_title(
            f"{game} game: mean and span of {len(set(table['seed']))} seeds, by cell and action cost", loc="left"
        )
        ax.set_ylim(0, 10.2)
    shown = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    handles, labels = [shown[arm] for arm in ARMS if arm in shown], [arm for arm in ARMS if arm in shown]
    drawing.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return drawing


def main() -> None:
    """Do what the command line asks for."""
    words = sys.argv[1:]
    if words == ["show"]:
        show()
    elif len(words) == 2 and words[0] == "tune" and words[1] in GAMES:
        tune(words[1])
    elif len(words) >= 2 and words[0] == "play" and words[1] in GAMES and set(words[3:]) <= set(ARMS):
        play(words[1], int(words[2]) if words[2:] else len(FRESH), words[3:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
