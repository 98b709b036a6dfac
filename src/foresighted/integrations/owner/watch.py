"""Whether the true utility fell while the reward did not, asked after every round, as `CollapseMonitor` asks in TRL."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from statistics import stdev

from foresighted.store.records import RoundRow

_log = logging.getLogger(__name__)
WINDOW = 5
"""Rounds that are averaged; a check is made each time as many are full."""
ALPHA = 0.01
"""Chance of a false alarm over the whole run."""


class Watch:
    """Watches utility and reward of the rounds; rounds whose utility nobody knows are passed over.

    Args:
        rows: of the rounds so far.
    """

    def __init__(self, rows: Iterable[RoundRow] = ()) -> None:
        self._utility: list[float] = []
        self._reward: list[float] = []
        self.verdict = ""
        """What was seen, in words; nothing so far."""
        for row in rows:
            self.add(row)

    def add(self, row: RoundRow) -> None:
        """Take the next round, and say once where utility has fallen."""
        if row.utility_chosen is None or self.verdict:
            return
        self._utility.append(row.utility_chosen)
        self._reward.append(row.reward)
        if len(self._utility) % WINDOW or find_spec("scipy") is None:  # the worker of an engine may lack it
            return
        from foresighted.statistics.collapse import FALL_SHARE
        from foresighted.statistics.series import check_fall

        thresholds = [FALL_SHARE * stdev(values[:WINDOW]) for values in (self._utility, self._reward)]
        fall = check_fall(
            self._utility, self._reward, window=WINDOW, alpha=ALPHA, threshold=thresholds[0],
            proxy_threshold=thresholds[1],
        )  # fmt: skip
        if fall is not None and fall.collapsed:
            self.verdict = (
                f"collapsed: by round {row.round} the utility of the chosen responses fell by {fall.fall.mean:.3g} (at"
                f" least {fall.fall.low:.3g}; {fall.threshold:.3g} counts), while the reward did not"
            )
            _log.warning("%s", self.verdict)
