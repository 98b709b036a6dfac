"""What a sweep says: a row a run, then a row a cell with intervals, over seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foresighted.statistics.collapse import Exact, judge
from foresighted.statistics.intervals import Interval, Share, mean_interval, wilson_share
from foresighted.statistics.numbers import Floats
from foresighted.store.rows import write_json

if TYPE_CHECKING:
    from foresighted.games.run import Request

SUMMARY = "summary.json"
LEVEL = 0.95
"""Of every interval of a sweep."""
MEANS = ("final_utility", "peak_utility", "drop", "area", "final_proxy_reward")
SHARES = ("collapsed", "dropped", "good")


def run_statistics(utility: Floats, proxy_reward: Floats, *, drop_threshold: float) -> dict[str, Any]:
    """Return what one run's trajectory says.

        peak = max_t U_t at iteration t*,   drop = U_t* - U_T,   area = trapezoid rule over iterations / T
        dropped = drop > threshold
        collapsed: the definition (`statistics.collapse`) for values without error

    So a run collapsed if it dropped and some t > t* has U_t* - U_t > threshold while proxy_t >= proxy_t*. One iteration
    is enough: a reward model that is trained on the leader's own actions learns in the end how bad they are.

    Args:
        utility: by iteration, (T + 1,), in units of utility.
        proxy_reward: by iteration, (T + 1,), in units of reward.
        drop_threshold: fall that counts, in units of utility.

    Returns:
        One number a name; NaN and False throughout for a run that diverged.
    """
    diverged = not (np.isfinite(utility).all() and np.isfinite(proxy_reward).all())
    if diverged:
        bad = ~(np.isfinite(utility) & np.isfinite(proxy_reward))
        unknown = dict.fromkeys((*MEANS, "peak_proxy_reward"), math.nan)
        return {**unknown, "peak_iteration": -1, "dropped": False, "collapsed": False, "diverged_at": int(bad.argmax())}
    fall = judge(Exact(utility.astype(np.float64)), Exact(proxy_reward.astype(np.float64)), threshold=drop_threshold)
    peak = fall.best
    drop = float(utility[peak] - utility[-1])
    return {
        "final_utility": float(utility[-1]),
        "peak_utility": float(utility[peak]),
        "drop": drop,
        "area": float(np.trapezoid(utility.astype(np.float64)) / (len(utility) - 1)),
        "final_proxy_reward": float(proxy_reward[-1]),
        "peak_proxy_reward": float(proxy_reward[peak]),
        "peak_iteration": peak,
        "dropped": drop > drop_threshold,
        "collapsed": fall.collapsed,
        "diverged_at": -1,
    }


def write_summary(request: Request, out: Path, *, good_utility: float) -> None:
    """Write summary.json from the table of runs of a sweep in `out`."""
    import pyarrow.parquet as pq

    swept = tuple(sweep.name for sweep in request.sweeps)
    cells = summarise(pq.read_table(out / "runs.parquet"), swept, good_utility=good_utility)
    head = {"game": request.game.name, "drop_threshold": request.drop_threshold, "good_utility": good_utility}
    write_json(out / SUMMARY, {**head, "level": LEVEL, "cells": cells})


def summarise(runs: Any, swept: tuple[str, ...], *, good_utility: float) -> list[dict[str, Any]]:
    """Return a row a cell: means with intervals over seeds, shares with intervals, what diverged.

    A cell with a run that diverged has no mean: it would speak of the others only. Its shares are of all seeds.

    Args:
        runs: table of runs (`runs.parquet`).
        swept: settings that were swept.
        good_utility: a run that ends at least there ends well.

    Returns:
        Plain dictionaries for JSON, in the order of the table.
    """
    keys = ("arm", "gamma", *(name for name in swept if name != "gamma"))
    columns = runs.to_pydict()
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(zip(*(columns[name] for name in keys), strict=True)):
        groups.setdefault(key, []).append(row)
    found = []
    for key, rows in groups.items():
        own = {name: [values[row] for row in rows] for name, values in columns.items()}
        diverged = [seed for seed, at in zip(own["seed"], own["diverged_at"], strict=True) if at >= 0]
        own["good"] = [value >= good_utility for value in own["final_utility"]]  # False where it diverged
        cell: dict[str, Any] = dict(zip(keys, key, strict=True))
        cell |= {
            "seeds": len(rows),
            "labels_a_run": own["labels"][0],
            "diverged": {"count": len(diverged), "seeds": diverged},
        }
        for name in MEANS:
            cell[name] = (
                None if diverged else _named(mean_interval(np.asarray(own[name])[:, None], seed=0, level=LEVEL), "mean")
            )
        for name in SHARES:
            count = sum(own[name])
            cell[name] = {
                "count": count,
                "of": len(rows),
                **_named(wilson_share(count, len(rows), level=LEVEL), "share"),
            }
        found.append(cell)
    return found


def _named(interval: Interval | Share, name: str) -> dict[str, float | None]:
    """Return an interval for JSON, where infinity is null: one seed has no interval."""
    values = (value if math.isfinite(value) else None for value in (interval.mean, interval.low, interval.high))
    return dict(zip((name, "low", "high"), values, strict=True))
