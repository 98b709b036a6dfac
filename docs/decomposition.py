"""Measure how far each form of the penalty is from the leader's true gradient, on games that can be solved.

Writes docs/decomposition_table.md and docs/assets/decomposition.png, which docs/steering.md shows. Run by hand after a
change to `foresighted.steering`: `python docs/decomposition.py` (under two minutes on one core; needs the extra
`report`). The truth is the finite-difference derivative of docs/decomposition_game.py. A form's gradient is
E[grad log pi(y) (-penalty(y))]; forms read the follower as it is, the truth is that of the follower at its optimum.

gamma (for `unrolled`, step size and gamma) is chosen for each row and column on the even seeds, where it makes the
mean log error of the total gradient least; what is shown comes from the odd seeds. `exact` with influence `batch` has
nothing to choose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from decomposition_game import (
    DAMPING,
    LOSSES,
    Array,
    Game,
    exact_penalty,
    game_kernels,
    make_game,
    optimum,
    payment,
    score_gradient,
    share,
    total_derivative,
    unfinished,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foresighted.errors import NumericalError
from foresighted.statistics.intervals import Interval, mean_interval
from foresighted.steering import FORMS, Influence

HERE = Path(__file__).parent
SEEDS = {False: range(256), True: range(64)}
"""Games, by whether the reward model is well specified."""
GAMMAS = tuple(10.0 ** (power / 2) for power in range(-6, 7))
RATES = (0.1, 0.32, 1.0)
SCALES = (0.032, 0.1, 0.32, 1.0)
"""gamma of `unrolled`, beside its step size."""
STEPS = (2, 5, 10, 20, 50)
UNFINISHED_STEPS = 3

State = Literal["at its optimum", "unfinished"]
STATES: tuple[State, State] = ("at its optimum", "unfinished")


class Setting(NamedTuple):
    """A column of the tables."""

    title: str
    loss: Literal["pointwise", "pairwise"]
    paid: Literal["reward", "margin"]


SETTINGS = (
    Setting("pointwise", "pointwise", "reward"),
    Setting("pairwise", "pairwise", "reward"),
    Setting("pairwise, paid the margin", "pairwise", "margin"),
)


class Form(NamedTuple):
    """A row of the tables."""

    name: str
    influence: Influence
    steps: int = 0

    @property
    def grid(self) -> Sequence[tuple[float, ...]]:
        """What is chosen from: gamma, or step size and gamma."""
        if FORMS[self.name].needs == "nothing" or (self.name == "exact" and self.influence == "batch"):
            return ((1.0,),)
        return tuple(product(RATES, SCALES)) if self.steps else tuple((gamma,) for gamma in GAMMAS)


BOTH: tuple[Influence, Influence] = ("self", "batch")
SHORT = tuple(Form(name, influence) for name, row in FORMS.items() if row.needs == "products" for influence in BOTH)
UNROLLED = tuple(Form("unrolled", influence, steps) for steps in STEPS for influence in BOTH)
ROWS = (Form("rlhf", "self"), *SHORT, *UNROLLED, *(Form("exact", influence) for influence in BOTH))
IN_TABLES = tuple(form for form in ROWS if form.steps in (0, 2, 10, 50))


class Score(NamedTuple):
    """How a gradient compares with the true one; each an array over games."""

    cosine: Array
    """Of the form's steering term with the true one."""
    error: Array
    """|policy gradient + steering - truth| / |truth|"""


def penalties(game: Game, form: Form, phi: Array) -> Array:
    """Return a form's penalty for every value of its grid, shape (grid, n); NaN where its steps diverge."""
    row, value = FORMS[form.name], game.directions @ phi
    kernels, weights = game_kernels(game, form.influence), share(game.logits)
    s, g = kernels.products()
    gamma = np.array(form.grid)[:, -1:]

    def unrolled(rate: float) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                found: Array = LOSSES[game.loss].unrolled(
                    kernels, value, game.label, steps=form.steps, rate=rate, damping=DAMPING, weights=weights
                )
            except NumericalError:
                return np.full_like(value, np.nan)
            return found

    match row.needs:
        case "steps":
            found = gamma * np.repeat([unrolled(rate) for rate in RATES], len(SCALES), axis=0)
        case "curvature":
            found = gamma * exact_penalty(game, form.influence, phi)
        case _:
            penalty = row.pairwise if game.loss == "pairwise" else row.pointwise
            found = np.broadcast_to(penalty(s, g, value, game.label, gamma=gamma), (len(gamma), value.size))
    result: Array = found
    return result


def compare(game: Game, form: Form, phi: Array, steering: Array, total: Array) -> Array:
    """Return the numbers of `Score` for every value of the form's grid, shape (grid, 2)."""
    policy_gradient = score_gradient(game.logits, payment(game, game.logits, phi))
    rows = []
    for found in score_gradient(game.logits, -penalties(game, form, phi)):
        error = float(np.linalg.norm(policy_gradient + found - total) / np.linalg.norm(total))
        rows.append((cosine(found, steering), error) if math.isfinite(error) else (0.0, math.inf))
    return np.array(rows)


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of the angle between two gradients; 0 if one of them is 0."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


Results = dict[tuple[Setting, bool, State, Form], Array]
"""(games, grid, 2) for each setting, well specified or not, state of the follower, form."""


def measure() -> tuple[Results, float]:
    """Return all comparisons, and the largest error of the decomposition itself over all games."""
    found: dict[tuple[Setting, bool, State, Form], list[Array]] = {}
    worst = 0.0
    for setting in SETTINGS:
        for well_specified, seeds in SEEDS.items():
            for seed in seeds:
                game = make_game(seed, setting.loss, paid=setting.paid, well_specified=well_specified)
                weights = share(game.logits)
                best = optimum(game, weights)
                total = total_derivative(game)
                steering = total - score_gradient(game.logits, payment(game, game.logits, best))
                formula = score_gradient(game.logits, -exact_penalty(game, "batch", best))
                worst = max(worst, float(np.abs(formula - steering).max()))
                for state, phi in zip(STATES, (best, unfinished(game, weights, steps=UNFINISHED_STEPS)), strict=True):
                    for form in IN_TABLES if well_specified else ROWS:
                        key = (setting, well_specified, state, form)
                        found.setdefault(key, []).append(compare(game, form, phi, steering, total))
    return {key: np.array(games) for key, games in found.items()}, worst


def chosen(games: Array) -> tuple[int, Score]:
    """Choose from the grid on the even seeds; return the place in the grid and the odd seeds' scores."""
    with np.errstate(divide="ignore"):
        place = int(np.argmin(np.log(games[::2, :, 1]).mean(axis=0)))
    return place, Score(*games[1::2, place].T)


def typical_error(score: Score) -> float:
    """Return the geometric mean of the total gradient's relative error."""
    return float(np.exp(np.log(score.error).mean()))


def plain(value: float) -> str:
    """Return a number with two digits and no exponent."""
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")


def label(form: Form) -> str:
    """Return a row's first two cells."""
    steps = f"<br>K = {form.steps}" if form.steps else ""
    return f"`{form.name}`{steps} | " + ("none" if FORMS[form.name].needs == "nothing" else form.influence)


def detailed_table(results: Results, state: State) -> str:
    """Misspecified reward models: cosine with the true steering gradient, and error of the total gradient."""
    titles = [setting.title for setting in SETTINGS]
    head = ["form", "influence", *(f"cosine, {t}" for t in titles), *(f"error, {t}" for t in titles)]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * 6]
    for form in IN_TABLES:
        cosines, errors = [], []
        for setting in SETTINGS:
            place, score = chosen(results[setting, False, state, form])
            interval = mean_interval(score.cosine[:, None], seed=0)
            cosines.append(f"{interval.mean:.2f}<br>[{interval.low:.2f},&nbsp;{interval.high:.2f}]")
            tuned = "<br>(" + ",&nbsp;".join(map(plain, form.grid[place])) + ")" if len(form.grid) > 1 else ""
            errors.append(f"{typical_error(score):.2f}{tuned}")
        lines.append(f"| {label(form)} | " + " | ".join([*cosines, *errors]) + " |")
    return "\n".join(lines)


def short_table(results: Results) -> str:
    """Well-specified reward models: error of the total gradient."""
    head = ["form", "influence", *(f"{setting.title}, {state}" for state in STATES for setting in SETTINGS)]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "--:|" * 6]
    for form in IN_TABLES:
        scores = [chosen(results[setting, True, state, form])[1] for state in STATES for setting in SETTINGS]
        lines.append(f"| {label(form)} | " + " | ".join(f"{typical_error(score):.2f}" for score in scores) + " |")
    return "\n".join(lines)


COLOURS = {"practical": "#999999", "relaxed": "#0072B2", "proximal": "#D55E00"}
"""Of Okabe and Ito, told apart by the colour-blind; markers tell the forms apart as well."""
MARKERS = {"practical": "s", "relaxed": "o", "proximal": "^"}
LINES = {"batch": "-", "self": "--"}


def look(form: Form) -> dict[str, Any]:
    """Return colour, marker and label of a form: filled and solid for `batch`, hollow and dashed for `self`."""
    name = "relaxed" if form.name in ("unrolled", "exact") else form.name
    colour = COLOURS[name]
    fill = colour if form.influence == "batch" else "white"
    return {"color": colour, "marker": MARKERS[name], "markerfacecolor": fill, "linestyle": LINES[form.influence]}


def draw_accuracy(axes: Axes, results: Results, setting: Setting, state: State) -> None:
    """Cosine with the true steering term against the reward-model steps that a form looks ahead."""

    def interval(form: Form) -> Interval:
        return mean_interval(chosen(results[setting, False, state, form])[1].cosine[:, None], seed=0)

    for influence in BOTH:
        ahead = [Form("relaxed", influence), *(form for form in UNROLLED if form.influence == influence)]
        points = [interval(form) for form in (*ahead, Form("exact", influence))]
        at = range(1, 1 + len(points))
        label = f"relaxed, then unrolled, then exact ({influence})"
        axes.plot(at, [point.mean for point in points], label=label, **look(ahead[0]))
        low, high = [point.low for point in points], [point.high for point in points]
        axes.fill_between(at, low, high, color=COLOURS["relaxed"], alpha=0.15, linewidth=0)
        for name, place in (("proximal", 1.0), ("practical", 0.0)):
            form = Form(name, influence)
            point, style = interval(form), look(form) | {"linestyle": "none"}
            bars = [[point.mean - point.low], [point.high - point.mean]]
            beside = place + (0.18 if influence == "batch" else -0.18)  # so that none hides another
            axes.errorbar(beside, point.mean, bars, label=f"{name} ({influence})", zorder=3, **style)
    axes.axhline(0, color="#888888", linewidth=0.6)
    axes.set_xticks(range(len(STEPS) + 3), ["no\nlabels", "1", *(str(step) for step in STEPS), "all"])
    axes.set_ylim(-0.2, 1.05)


def draw_robustness(axes: Axes, results: Results, setting: Setting) -> None:
    """Error of the total gradient against gamma; no gamma is chosen here, so all games count."""
    for form in SHORT:
        errors = np.exp(np.log(results[setting, False, STATES[0], form][:, :, 1]).mean(axis=0))
        axes.plot(GAMMAS, errors, label=f"{form.name} ({form.influence})", **look(form))
    nothing = np.exp(np.log(results[setting, False, STATES[0], ROWS[0]][:, 0, 1]).mean())
    axes.axhline(float(nothing), color="#000000", linewidth=1, linestyle=":", label="rlhf (no steering)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.3, 30)
    axes.set_xlabel("γ")


def figure(results: Results) -> Figure:
    """Accuracy against cost, for a follower at its optimum and short of it; below, robustness to gamma."""
    drawing = Figure(figsize=(10.5, 9.6), layout="constrained")
    above, below = drawing.subfigures(2, 1, height_ratios=[1.9, 1])
    accuracy = above.subplots(2, 3, sharex=True, sharey=True)
    robustness = below.subplots(1, 3, sharey=True)
    for column, setting in enumerate(SETTINGS):
        for row, state in enumerate(STATES):
            draw_accuracy(accuracy[row, column], results, setting, state)
            accuracy[row, 0].set_ylabel(f"cosine with the true steering term\nfollower {state}")
        draw_robustness(robustness[column], results, setting)
        accuracy[0, column].set_title(setting.title, loc="left")
        accuracy[1, column].set_xlabel("reward-model steps that the form looks ahead")
    robustness[0].set_ylabel("relative error of the total gradient\nfollower at its optimum")
    for part, axes in ((above, accuracy[0, 0]), (below, robustness[0])):
        handles, labels = axes.get_legend_handles_labels()
        part.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawing


def main() -> None:
    """Write the tables and the figure."""
    results, worst = measure()
    parts = [
        f"Largest error of the decomposition over {3 * sum(map(len, SEEDS.values()))} games: {worst:.1e}.",
        f"**Misspecified, follower at its optimum**\n\n{detailed_table(results, STATES[0])}",
        f"**Misspecified, follower unfinished**\n\n{detailed_table(results, STATES[1])}",
        f"**Well specified: error of the total gradient**\n\n{short_table(results)}",
    ]
    (HERE / "decomposition_table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure(results).savefig(HERE / "assets" / "decomposition.png", dpi=160, metadata={"Software": None})


if __name__ == "__main__":
    main()
