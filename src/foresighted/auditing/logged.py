"""A run of metrics judged: what `CollapseMonitor` would have said of it, and what else its numbers tell.

Blocks of logs are the rows of the table. Nothing here but a fall of the trusted metric, or its standing still while the
reward rises, moves the verdict: slopes, variance, ceilings, length, KL and entropy move in healthy runs as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from foresighted.auditing.metrics import Logged, Values
from foresighted.auditing.result import ArmAudit, Component, Round, Symptom, Verdict
from foresighted.auditing.symptoms import IDLE as GROUPS
from foresighted.statistics.collapse import Fall, Onset, Reason, onset
from foresighted.statistics.intervals import Interval, Method, student
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Floats, Ints
from foresighted.statistics.series import (
    ALPHA,
    Blocks,
    Flat,
    Judged,
    blocks_of,
    counts_from,
    cut,
    judge_logs,
    paired,
    rose_alone,
    window_of,
)
from foresighted.statistics.wording import REASONS, REASONS_OF_LOGS, count, interval_text

DOMINANT, GREW = 0.8, 0.2
"""A part of the reward takes over from this share on, if it grew by this much."""
IDLE = 0.5
"""From this share of groups without variance on, most of a batch teaches nothing."""
_EXACT = 1e-3
_NONE = 1e-6


def judge_logged(run: Logged, family: int) -> ArmAudit:
    """Judge one run.

    Args:
        run: its metrics by role.
        family: how many runs are judged together; each may spend its share of the chance of a false alarm.
    """
    steps, gold, proxy = paired(run.trusted, run.reward) if run.trusted and run.reward else ([], [], [])
    trusted, paid = np.array(gold), np.array(proxy)
    window = window_of(len(steps))
    thresholds = [
        counts_from(values, window, [beside[step] for step in steps[:window] if step in beside])
        for values, beside in ((trusted, run.trusted_spread), (paid, run.reward_spread))
    ]
    judged = judge_logs(trusted, paid, alpha=ALPHA / family, threshold=thresholds[0], proxy_threshold=thresholds[1])
    flat = rose_alone(trusted, np.array([run.reward[step] for step in sorted(run.reward)]), alpha=ALPHA / family)
    verdict, reason = _verdict(run, judged, flat, trusted, paid)
    layout, rounds = _table(run)
    parts = _parts(run)
    fell = judged is not None and verdict == "collapsed"
    return ArmAudit(
        label=run.label, seeds=("0",), verdict=verdict, reason=reason, measured_by=run.measured_by, paired=False,
        rounds=rounds, fall=_in_steps(judged.fall, steps) if judged else None, to_last=None, seed_falls=(),
        onset=_onset(judged, trusted, steps) if fell and judged else None, calibration=(), kinds=(),
        symptoms=_moves(run, layout, parts), components=parts, logs=max(len(run.reward), len(run.trusted)),
    )  # fmt: skip


def _verdict(
    run: Logged, judged: Judged | None, flat: Flat | None, trusted: Floats, paid: Floats
) -> tuple[Verdict, str]:
    if not run.trusted:
        return "cannot tell", "no metric to trust is logged or named"
    if not run.reward:
        return "cannot tell", "no metric that the loop follows is logged or named"
    if judged is None:
        return "cannot tell", f"the trusted metric has {count(len(trusted), 'log')}, which is too little to compare"
    if np.ptp(trusted) > 0 and np.allclose(trusted, paid, rtol=1e-6, atol=0):
        return (
            "cannot tell",
            "the trusted metric is the reward, number for number at every step, so no fall of one alone would show",
        )
    fall = judged.fall
    if fall.collapsed:
        return "collapsed", REASONS[Reason.COLLAPSED]
    if fall.reason == Reason.PROXY_FELL and fall.low_corrected > fall.threshold:
        return (
            "no collapse seen",
            "the answers got worse, but the reward fell with them: the loop's own numbers show it",
        )
    if flat:
        return (
            "suspicious",
            f"the reward rose by {interval_text(flat.proxy)} from the first logs to the last, and the trusted metric"
            f" did not ({interval_text(flat.gold)})",
        )
    if fall.best != fall.last and fall.fall.mean - fall.low_corrected + fall.threshold > np.ptp(trusted) > 0:
        return "cannot tell", "too few logs: a fall by all that the trusted metric ever moved would not have been clear"
    return "no collapse seen", REASONS_OF_LOGS.get(fall.reason, REASONS[fall.reason])


def _in_steps(fall: Fall, steps: list[int]) -> Fall:
    return replace(fall, best=steps[fall.best], last=steps[fall.last])


def _onset(judged: Judged, trusted: Floats, steps: list[int]) -> Onset:
    """Return from when on it fell: by the whole log where it is still down at its end, else by what was judged."""
    window = window_of(len(trusted))
    means = blocks_of(trusted, window).means
    logs = len(steps) if means.max() - means[-1] >= judged.fall.fall.mean else judged.logs
    return onset(blocks_of(trusted[:logs], window).profile(), _layout(steps[:logs], window))


def _layout(steps: list[int], window: int) -> Layout:
    start, size, count = cut(len(steps), window)
    used = steps[start : start + size * count]
    return Layout(tuple(used), tuple(place // size for place in range(len(used))), False)


def _table(run: Logged) -> tuple[Layout, tuple[Round, ...]]:
    """Return rows of up to twelve blocks of the metric that is logged most, with the others within the same steps."""
    most = max((run.reward, run.trusted, *run.others.values()), key=len)
    every = sorted(most)
    if not every:
        return Layout((), (), False), ()
    layout = _layout(every, window_of(len(every)))
    if not layout.rows:
        layout = Layout(tuple(every), (0,) * len(every), False)
    columns = {
        "utility": run.trusted, "reward": run.reward, "kl": run.others.get("kl", {}),
        "length": run.others.get("tokens", {}), "idle": run.others.get("idle", {}),
    }  # fmt: skip
    means = {name: _by_row(values, layout) for name, values in columns.items()}
    rows = []
    for row in range(layout.rows):
        first, last = layout.span(row)
        known: dict[str, Any] = {name: one[row] for name, one in means.items()}
        logs = sum(first <= step <= last for step in every)
        rows.append(Round(first, last, logs, 0, gap=None, distinct_2=None, alike=None, read=0, **known))
    return layout, tuple(rows)


def _by_row(values: Values, layout: Layout) -> list[Interval | None]:
    """Return a metric's mean in each row of the table, with one error for a log for all rows."""
    ends = [layout.span(row) for row in range(layout.rows)]
    own = [np.array([values[step] for step in sorted(values) if first <= step <= last]) for first, last in ends]
    freedom = sum(len(one) - 1 for one in own if len(one) > 1)
    error = (
        np.sqrt(sum(float(((one - one.mean()) ** 2).sum()) for one in own if len(one)) / freedom) if freedom else 0.0
    )
    return [_mean(one, float(error), freedom) if len(one) else None for one in own]


def _mean(values: Floats, error: float, freedom: int) -> Interval:
    mean, half = float(values.mean()), np.inf
    if freedom:
        half = student(0.975, float(freedom)) * error / np.sqrt(len(values))
    return Interval(mean, mean - float(half), mean + float(half), 0.95, 1, len(values), Method.STUDENT)


def _moves(run: Logged, layout: Layout, parts: tuple[Component, ...]) -> tuple[Symptom, ...]:
    """Return how metrics moved, first row against last. Those alarm that healthy runs hardly do; see docs/audit.md."""
    words = {"kl": "KL (nats)", "tokens": "length (tokens)", "entropy": "entropy (nats)"}
    found = [_move(name, what, run.others[name]) for name, what in words.items() if run.others.get(name)]
    idle = run.others.get("idle")
    if idle:
        moved = _move("idle", GROUPS, idle)
        if moved:
            last = _blocks(idle)
            most = (
                last.values[-1].mean() - (moved.change.mean - moved.change.low) / np.sqrt(2) > IDLE if last else False
            )
            found.append(replace(moved, alarming=bool(most)))
    for part in parts:
        first, last_share, change = part.shares[0], part.shares[-1], _change(part)
        taken = last_share.mean >= DOMINANT and change.low > GREW
        what = f"{part.name}: share in the reward's {part.of}"
        found.append(Symptom("dominance", what, first.mean, last_share.mean, change, taken))
    return tuple(one for one in found if one)


def _blocks(values: Values) -> Blocks | None:
    every = np.array([values[step] for step in sorted(values)])
    blocks = blocks_of(every, window_of(len(every)), ALPHA / 2) if len(every) else None
    return blocks if blocks and len(blocks.values) > 1 else None


def _move(name: str, what: str, values: Values) -> Symptom | None:
    blocks = _blocks(values)
    if blocks is None:
        return None
    means = blocks.means
    change = blocks.difference(len(means) - 1, 0)
    return Symptom(name, what, float(means[0]), float(means[-1]), change, False)


# Parts of the reward


def _change(part: Component) -> Interval:
    first, last = part.shares[0], part.shares[-1]
    mean = last.mean - first.mean
    half = float(np.hypot(last.high - last.mean, first.high - first.mean))
    return replace(last, mean=mean, low=mean - half, high=mean + half)


def _parts(run: Logged) -> tuple[Component, ...]:
    """Return the shares of the reward's parts, where there are several, in blocks of logs.

    Weights are those with which the parts add up to the reward; where they do not add up, 1. With the parts' standard
    deviations over responses, a share is that of the variance (correlation aside), else that of the sizes of the means.
    """
    if len(run.components) < 2:
        return ()
    names = list(run.components)
    steps = sorted(set.intersection(*(set(values) for values in run.components.values())) & set(run.reward))
    if len(steps) < 2 * window_of(len(steps)):
        return ()
    means = np.array([[run.components[name][step] for name in names] for step in steps])
    weights = _weights(means, np.array([run.reward[step] for step in steps]))
    kept = [place for place, weight in enumerate(weights) if abs(weight) > _NONE]
    if len(kept) < 2:
        return ()
    spreads = [run.component_spreads.get(names[place], {}) for place in kept]
    known = all(step in spread for spread in spreads for step in steps)
    own = np.array([[spread[step] for spread in spreads] for step in steps]) if known else means[:, kept]
    sizes: Floats = (own * weights[kept]) ** 2 if known else np.abs(own * weights[kept])
    total = sizes.sum(axis=1, keepdims=True)
    shares = np.divide(sizes, total, out=np.full_like(sizes, 1 / len(kept)), where=total > 0)
    return tuple(
        _component(names[place], float(weights[place]), "variance" if known else "size", shares[:, column], steps)
        for column, place in enumerate(kept)
    )


def _component(name: str, weight: float, of: Any, shares: Floats, steps: list[int]) -> Component:
    window = window_of(len(steps))
    layout = _layout(steps, window)
    profile = blocks_of(shares, window).profile()
    ends = tuple(layout.span(row)[1] for row in range(layout.rows))
    return Component(name, weight, of, tuple(profile.row(row) for row in range(layout.rows)), ends)


def _weights(means: Floats, reward: Floats) -> Floats:
    """Return the weights with which parts add up to the reward, (K, n) and (K,) -> (n,); 1 where they do not."""
    found: Floats = np.linalg.lstsq(means, reward, rcond=None)[0].astype(np.float64)
    left = float(np.abs(means @ found - reward).max())
    if left > _EXACT * max(float(np.abs(reward).max()), _NONE):
        return np.ones(means.shape[1])
    found[np.abs(found) < _EXACT * np.abs(found).max()] = 0.0
    return found


def steps_of(rounds: Ints, values: Floats) -> dict[int, float]:
    """Return the finite values by step."""
    return {int(step): float(value) for step, value in zip(rounds, values, strict=True) if np.isfinite(value)}
