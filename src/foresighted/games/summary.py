"""What a sweep says: a row a run, then a row a cell with intervals, over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
MEANS = ("final_utility", "peak_utility", "drop", "area", "final_proxy_reward")
SHARES = ("collapsed", "dropped", "good")


def run_statistics(utility: Numbers, proxy_reward: Numbers, *, drop_threshold: float) -> dict[str, Any]:
    """Return what one run's trajectory says.

        peak = max_t U_t at iteration t*,   drop = U_t* - U_T,   area = trapezoid rule over iterations / T
        dropped = drop > threshold
        collapsed = dropped, and some t > t* has U_t* - U_t > threshold while proxy_t >= proxy_t*

    The last line asks for one iteration and not for t = T: a reward model that is trained on the leader's own actions
    learns in the end how bad they are.

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
    peak = int(utility.argmax())
    drop = float(utility[peak] - utility[-1])
    fell = utility[peak] - utility[peak:] > drop_threshold
    return {
        "final_utility": float(utility[-1]),
        "peak_utility": float(utility[peak]),
        "drop": drop,
        "area": float(np.trapezoid(utility.astype(np.float64)) / (len(utility) - 1)),
        "final_proxy_reward": float(proxy_reward[-1]),
        "peak_proxy_reward": float(proxy_reward[peak]),
        "peak_iteration": peak,
        "dropped": bool(fell[-1]),
        "collapsed": bool(fell[-1] and (fell & (proxy_reward[peak:] >= proxy_reward[peak])).any()),
        "diverged_at": -1,
    }


def summarise(
    runs: Any,
    swept: tuple[str, ...],
    *,
    good_utility: float,
    mean: Callable[[Numbers], tuple[float, float, float]],
    share: Callable[[int, int], tuple[float, float, float]],
) -> list[dict[str, Any]]:
    """Return a row a cell: means with intervals over seeds, shares with intervals, what diverged.

    A cell with a run that diverged has no mean: it would speak of the others only. Its shares are of all seeds.

    Args:
        runs: table of runs (`runs.parquet`).
        swept: settings that were swept.
        good_utility: a run that ends at least there ends well.
        mean: numbers to mean, low, high.
        share: successes and total to share, low, high.

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
            cell[name] = None if diverged else _named(mean(np.asarray(own[name])), "mean")
        for name in SHARES:
            count = sum(own[name])
            cell[name] = {"count": count, "of": len(rows), **_named(share(count, len(rows)), "share")}
        found.append(cell)
    return found


def _named(interval: tuple[float, float, float], name: str) -> dict[str, float | None]:
    """Return an interval for JSON, where infinity is null: one seed has no interval."""
    values = (value if math.isfinite(value) else None for value in interval)
    return dict(zip((name, "low", "high"), values, strict=True))
