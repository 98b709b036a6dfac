"""An audit in a terminal while its loop goes on: both curves with their intervals, the verdict, what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from foresighted.auditing.result import VERDICTS, ArmAudit, Audit
from foresighted.statistics.intervals import Interval
from foresighted.statistics.wording import fall_of_logs, fall_text, interval_text, number

HEIGHT = 8
_CELL = 5
"""Characters that a row of the table takes."""
_LABEL = 9
MOST_RUNS = 3


def view(audit: Audit, *, width: int = 80, height: int = HEIGHT) -> list[str]:
    """Return the lines of a view: the verdict first, then the worst runs' curves.

    Args:
        audit: what was seen so far.
        width: characters of a line of a chart; the last rows that fit are drawn.
        height: lines of a chart.
    """
    lines = [audit.headline, ""]
    worst = sorted(audit.arms, key=lambda arm: VERDICTS.index(arm.verdict))
    for arm in worst[:MOST_RUNS]:
        lines += _arm(audit, arm, width, height)
    if len(worst) > MOST_RUNS:
        lines.append(f"and {len(worst) - MOST_RUNS} more: {', '.join(arm.label for arm in worst[MOST_RUNS:])}")
    return lines


def _arm(audit: Audit, arm: ArmAudit, width: int, height: int) -> Iterator[str]:
    names = audit.source.columns
    unit = "steps" if arm.logs else "rounds"
    yield f"{arm.label}: {arm.verdict}"
    for column, role in (("reward", "the loop follows"), ("utility", "trusted")):
        values = [getattr(row, column) for row in arm.rounds]
        known = [one for one in values if one is not None]
        if not known:
            yield f"  {role}: nothing is taken as it"
            continue
        yield f"  {names.get(column) or column} ({role}), now {interval_text(known[-1])}"
        yield from (f"  {line}" for line in chart(values, width=width - 2, height=height))
    if arm.rounds:
        yield f"  {'':{_LABEL}} {unit} {arm.rounds[0].first} to {arm.rounds[-1].last}"
    if arm.fall:
        yield f"  {_fall(audit, arm)}"
    yield ""


def _fall(audit: Audit, arm: ArmAudit) -> str:
    names, fall = audit.source.columns, arm.fall
    if fall is None:
        return ""
    if arm.logs:
        return fall_of_logs(fall, names.get("utility", "utility"), names.get("reward", "reward"))
    return f"fall from round {fall.best} to {fall.last}: {interval_text(fall.fall)}; {fall_text(fall)}"


def chart(values: Sequence[Interval | None], *, width: int, height: int = HEIGHT) -> list[str]:
    """Return means as dots and their intervals as bars, the last that fit.

    Example:
        >>> from foresighted.statistics.intervals import Interval, Method
        >>> one = [Interval(m, m - 1, m + 1, 0.95, 1, 5, Method.STUDENT) for m in (0.0, 2.0)]
        >>> print("\\n".join(line.rstrip() for line in chart(one, width=30, height=5)))
             3.00 ┤      │
                  │      ●
             1.00 ┤ │    │
                  │ ●
            -1.00 ┤ │
    """
    shown = values[-max(1, (width - _LABEL - 3) // _CELL) :]
    ends = [end for one in shown if one for end in (one.mean, one.low, one.high) if math.isfinite(end)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 0.0)
    if high == low:
        low, high = low - 0.5, high + 0.5
    step = (high - low) / (height - 1)

    def place(value: float) -> int:
        return round((min(max(value, low), high) - low) / step)

    lines = []
    for level in reversed(range(height)):
        cells = "".join(_cell(one, level, place).ljust(_CELL) for one in shown)
        named = level in (0, height - 1) or level == (height - 1) // 2
        lines.append(f"{number(low + level * step) if named else '':>{_LABEL}} {'┤' if named else '│'} {cells}")
    return lines


def _cell(one: Interval | None, level: int, place: Callable[[float], int]) -> str:
    if one is None:
        return ""
    if place(one.mean) == level:
        return "●"
    return "│" if place(one.low) <= level <= place(one.high) else ""
