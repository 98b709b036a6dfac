"""Figures of a sweep, from its tables: the paper's for one seed, the same with bands for many, and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from foresighted.games.run import Request
from foresighted.steering import FORMS
from foresighted.store.files import write

FORMATS = ("png", "pdf", "svg")
COLOURS = ("#d55e00", "#0077bb", "#009e73", "#cc6fa8", "#b8860b", "#56a5d8", "#8a63c9", "#7f7f7f")
"""Okabe and Ito's colours, some darkened for a white page."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
IDEAL = "#e6b800"
MOST_CELLS = 8
"""Lines in a figure by iteration; of a sweep with more cells the first are drawn, and the title says so."""
MOST_PATHS = 8
"""Runs of a cell in the figures of paths."""
POINTS = 400
"""Iterations drawn of a line, about."""
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "text.parse_math": False,
    "svg.hashsalt": "foresighted",
    "svg.fonttype": "none",
}


class Line(NamedTuple):
    """The runs of one cell: values are (seeds, iterations)."""

    label: str
    iteration: NDArray[Any]
    values: dict[str, NDArray[Any]]


def write_figures(
    request: Request, out: Path, cells: Sequence[dict[str, Any]], axes: tuple[str, str] | None
) -> list[Path]:
    """Draw what the tables hold, into `OUT/figures`; return the PNG of each figure, PDF and SVG lie beside it."""
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    found = figures(request, out, cells, axes)
    for name, draw in found.items():
        for kind in FORMATS:
            write(folder / f"{name}.{kind}", drawn_bytes(draw, kind))
    return [folder / f"{name}.png" for name in found]


def figures(
    request: Request, out: Path, cells: Sequence[dict[str, Any]], axes: tuple[str, str] | None
) -> dict[str, Callable[[], Figure]]:
    """Return what draws each figure, by its name.

    Args:
        request: game, settings, sweeps.
        out: directory of the sweep, with its tables.
        cells: of summary.json.
        axes: swept settings of the heat map; None for no heat map.
    """
    swept = [one.name for one in request.sweeps if one.name != "gamma"]
    lines = _lines(out / "trajectories.parquet", swept, ("utility", "noise", "signal"))
    found: dict[str, Callable[[], Figure]] = {
        name: partial(_by_iteration, lines, name, text, request, len(cells))
        for name, text in (("utility", "true utility"), ("noise", "noise (size off the signal)"))
    }
    if request.game.landscape is not None:
        found["phase"] = partial(_phase, lines, request, request.game.landscape)
        if request.base.iterations > 1:
            found["pca"] = lambda: _pca(_lines(out / "actions.parquet", swept, ("action",)), request)
    if axes is not None:
        for share, text in (("dropped", "drop"), ("collapsed", "collapse"), ("good", "end well")):
            found[f"heat_map_{share}"] = partial(_heat_map, cells, axes, share, f"share of seeds that {text}")
    return found


def drawn_bytes(draw: Callable[[], Figure], kind: str) -> bytes:
    """Return a figure as a file of the kind png, pdf or svg, without a date."""
    with matplotlib.rc_context(STYLE):
        figure, file = draw(), BytesIO()
        metadata = {"Software": None} if kind == "png" else {"CreationDate" if kind == "pdf" else "Date": None}
        figure.savefig(file, format=kind, dpi=200, metadata=metadata)
    return file.getvalue()


def _lines(path: Path, swept: Sequence[str], measured: Sequence[str]) -> list[Line]:
    """Return the first cells of a table, their iterations thinned."""
    keys = ["arm", "gamma", *swept]
    kinds = pq.read_table(path, columns=keys).group_by(keys, use_threads=False).aggregate([]).to_pylist()
    several = [name for name in swept if len({kind[name] for kind in kinds}) > 1]
    arms = [kind["arm"] for kind in kinds]
    found = []
    for kind in kinds[:MOST_CELLS]:
        own = pq.read_table(
            path, columns=["seed", "iteration", *measured], filters=[(name, "==", kind[name]) for name in keys]
        )
        own = own.sort_by([("seed", "ascending"), ("iteration", "ascending")])
        count = len(own["seed"].unique())
        steps = own["iteration"].to_numpy()[: len(own) // count]
        at = np.unique(np.append(np.arange(0, len(steps), max(1, len(steps) // POINTS)), len(steps) - 1))
        values = {name: _column(own[name]).reshape(count, len(steps), -1)[:, at] for name in measured}
        told = [f"{name} {_tick(kind[name])}" for name in several]
        if kind["gamma"] > 0 and (":" not in kind["arm"] or arms.count(kind["arm"]) > 1):
            told.insert(0, f"γ {_tick(kind['gamma'])}")
        label = " ".join([kind["arm"].replace(":", " "), *([f"({', '.join(told)})"] if told else [])])
        found.append(Line(label, steps[at], {k: v[..., 0] if k != "action" else v for k, v in values.items()}))
    return found


def _column(column: Any) -> NDArray[Any]:
    """Return a column as an array; lists as rows."""
    combined = column.combine_chunks()
    values = combined.flatten() if column.type.num_fields else combined
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), -1)


def _by_iteration(lines: Sequence[Line], name: str, text: str, request: Request, cells: int) -> Figure:
    """Draw median and central 80 % of seeds by iteration."""
    figure = Figure(figsize=(4.8, 3.1), layout="constrained")
    axes = figure.add_subplot()
    seeds = max(line.values[name].shape[0] for line in lines)
    for index, line in enumerate(lines):
        low, middle, high = np.quantile(line.values[name], [0.1, 0.5, 0.9], axis=0)  # NaN once a run has diverged
        look = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
        axes.plot(line.iteration, middle, label=line.label, zorder=3 + index, **look)
        if seeds > 1:
            axes.fill_between(line.iteration, low, high, color=look["color"], alpha=0.15, linewidth=0, zorder=2)
    if name == "utility" and hasattr(request.base, "utility_height"):
        axes.axhline(request.base.utility_height, color=IDEAL, linewidth=1.6, linestyle="--", label="ideal", zorder=1)
    axes.set_xlabel("iteration")
    axes.set_ylabel(text)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlim(0, max(line.iteration[-1] for line in lines))
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.set_title(_title(request, seeds, "median and 10 to 90 %", len(lines), cells))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _title(request: Request, seeds: int, band: str, drawn: int, cells: int) -> str:
    text = f"{request.game.name} game, {seeds} seeds, {band}" if seeds > 1 else f"{request.game.name} game, one seed"
    return text if drawn >= cells else f"{text}\nfirst {drawn} of {cells} cells"


def _paths(axes: Axes, paths: NDArray[Any], index: int, label: str) -> None:
    """Draw trajectories that darken with time, start and ends marked; several runs are thin."""
    colour = COLOURS[index % len(COLOURS)]
    fade = LinearSegmentedColormap.from_list(f"fade{index}", ["#f2f2f2", colour], N=64)
    several = len(paths) > 1
    for path in paths:
        points = path.reshape(-1, 1, 2)
        segments = np.concatenate([points[:-1], points[1:]], axis=1)
        shade = LineCollection(
            list(segments), cmap=fade, array=np.linspace(0.5, 1, len(segments)), clim=(0, 1),
            linewidths=0.9 if several else 2.2, alpha=0.7 if several else 1, zorder=3 + index,
        )  # fmt: skip
        axes.add_collection(shade)
    ends = paths[:, -1]
    axes.scatter(
        ends[:, 0], ends[:, 1], s=26 if several else 60, color=colour, marker="oXs^DvP*"[index % 8], edgecolors="white",
        linewidths=0.6, zorder=20 + index, label=f"{label}, end",
    )  # fmt: skip


def _portrait(
    lines: Sequence[Line], paths: Sequence[NDArray[Any]], request: Request, utility: Sequence[Any], start: Any,
    ideal: Any, **look: Any,
) -> Figure:  # fmt: skip
    """Draw each line's paths, (runs, iterations, 2), over the utility of their plane (x, y, height)."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.contourf(*utility, levels=20, cmap="Greys", alpha=0.4, zorder=0)
    figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.03, label="true utility", ticks=MaxNLocator(6))
    for index, (line, path) in enumerate(zip(lines, paths, strict=True)):
        _paths(axes, path[:MOST_PATHS], index, line.label)
    axes.scatter(start[0], start[1], s=42, color="black", zorder=40, label="start")
    axes.scatter(
        ideal[0], ideal[1], s=170, color=IDEAL, marker="*", edgecolors="black", linewidths=0.7, zorder=41, label="ideal"
    )
    axes.set(**look)
    shown = min(MOST_PATHS, max(map(len, paths)))
    axes.set_title(_title(request, shown, "one line each", len(lines), len(lines)))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _phase(lines: Sequence[Line], request: Request, landscape: Callable[[Any, Any, Any], Any]) -> Figure:
    """Draw signal against noise over the utility of an action whose signal part points at the ideal."""
    game, s = request.game, request.base
    ideal = 0.0 if game.ideal_signal is None else game.ideal_signal(s)
    right = 1.08 * max(ideal, *(float(np.nanmax(line.values["signal"])) for line in lines))
    top = 1.08 * max(float(np.nanmax(line.values["noise"])) for line in lines)
    x, y = np.meshgrid(np.linspace(0, right, 160), np.linspace(0, top, 160))
    paths = [np.stack([line.values["signal"], line.values["noise"]], axis=-1) for line in lines]
    return _portrait(
        lines, paths, request, (x, y, landscape(s, x, y)), (0, 0), (ideal, 0),
        xlim=(-0.02 * right, right), ylim=(-0.02 * top, top), xlabel="signal", ylabel="noise",
    )  # fmt: skip


def _pca(lines: Sequence[Line], request: Request) -> Figure:
    """Draw actions on their first two principal components, over the utility of that plane."""
    game, s = request.game, request.base
    size = lines[0].values["action"].shape[-1]
    ideal = np.where(np.arange(size) < getattr(s, "signal_dimension", 0), getattr(s, "ideal", 0.0), 0.0)
    cloud = np.concatenate([line.values["action"].reshape(-1, size) for line in lines] + [ideal[None], 0 * ideal[None]])
    cloud = cloud[np.isfinite(cloud).all(axis=1)].astype(np.float64)
    centre = cloud.mean(axis=0)
    plane = np.linalg.svd(cloud - centre, full_matrices=False)[2][:2]
    plane *= np.sign(plane @ (ideal - centre) + 1e-12)[:, None]  # the ideal lies up and to the right
    flat = (cloud - centre) @ plane.T
    low, high = flat.min(axis=0) - 0.4, flat.max(axis=0) + 0.4
    x, y = np.meshgrid(np.linspace(low[0], high[0], 120), np.linspace(low[1], high[1], 120))
    there = np.stack([x.ravel(), y.ravel()], axis=1) @ plane + centre
    height = np.asarray(jax.vmap(lambda a: game.utility(s, a))(there)).reshape(x.shape)
    paths = [(line.values["action"] - centre) @ plane.T for line in lines]
    return _portrait(
        lines, paths, request, (x, y, height), -centre @ plane.T, (ideal - centre) @ plane.T,
        xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="principal component 1", ylabel="principal component 2",
    )  # fmt: skip


def _heat_map(cells: Sequence[dict[str, Any]], names: tuple[str, str], share: str, text: str) -> Figure:
    """Draw a panel an arm: a share by two swept settings; other swept settings are averaged over and told."""
    arms = list(dict.fromkeys(cell["arm"] for cell in cells))
    steered = [cell for cell in cells if FORMS[cell["arm"].partition(":")[0]].needs != "nothing"]
    across, down = (sorted({cell[name] for cell in steered or cells}) for name in names)
    width = max(2.6, 0.5 + 0.3 * len(across))  # so that "100" fits into a cell
    figure = Figure(figsize=(1.2 + width * len(arms), max(3.0, 1.2 + 0.25 * len(down))), layout="constrained")
    panels = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
    image, colours = None, "Greens" if share == "good" else "Reds"
    for axes, arm in zip(panels, arms, strict=True):
        grid = np.full((len(down), len(across)), np.nan)
        own = [cell for cell in cells if cell["arm"] == arm]
        for i, j in np.ndindex(*grid.shape):
            values = [
                cell[share]["share"]
                for cell in own
                if _at(cell, own, names[0], across[j]) and _at(cell, own, names[1], down[i])
            ]
            grid[i, j] = np.mean(values) if values else np.nan
        image = axes.imshow(grid, cmap=colours, vmin=0, vmax=1, origin="lower", aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                colour = "white" if value > 0.6 else "black"
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_title(arm)
        axes.set_xticks(range(len(across)), [_tick(value) for value in across], rotation=45, ha="right")
        axes.set_yticks(range(len(down)), [_tick(value) for value in down])
        axes.set_xlabel(names[0])
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel(names[1])
    if image is not None:
        figure.colorbar(image, ax=list(panels), fraction=0.03, pad=0.02).set_label(f"{text}\n(numbers: %)")
    return figure


def _at(cell: dict[str, Any], own: Sequence[dict[str, Any]], name: str, value: Any) -> bool:
    """Return whether a cell stands at a value; an arm that does not vary there stands at all of them."""
    return bool(cell[name] == value) or len({one[name] for one in own}) == 1


def _tick(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
