"""Which kinds of prompts fell first."""

from __future__ import annotations

import numpy as np

from foresighted.auditing.result import Kind
from foresighted.auditing.rollouts import Rollouts
from foresighted.statistics.layout import Layout
from foresighted.statistics.numbers import Floats, Mask
from foresighted.statistics.profile import gather, profile

MOST_KINDS = 50
FEWEST_PROMPTS_OF_A_KIND = 3


def fallen_kinds(
    values: Floats, rollouts: Rollouts, known: Mask, layout: Layout, *, best: int, threshold: float
) -> tuple[Kind, ...]:
    """Return how far each kind of prompts fell from the arm's best row to the last, those that fell first in front.

    Args:
        values: (R,) utility.
        rollouts: the arm's responses.
        known: (R,), whose utility is known.
        layout: rows of the table.
        best: the arm's best row.
        threshold: what counts as a fall, in units of utility.
    """
    names = sorted({kind for kind in rollouts.kinds if kind})[:MOST_KINDS]
    kinds = []
    for name in names:
        of_kind = np.array([kind == name for kind in rollouts.kinds])
        units = gather(rollouts, known & of_kind[rollouts.prompt], layout)
        if units is None:
            continue
        means = profile(values, units)
        if int(means.counts.min()) < FEWEST_PROMPTS_OF_A_KIND:
            continue
        last = len(means.means) - 1
        fell = [
            bool(means.means[best] - means.means[row] > threshold and means.difference(best, row).low > 0)
            for row in range(best + 1, last + 1)
        ]
        since = next((row for row in range(len(fell)) if all(fell[row:])), None)
        fell_by = None if since is None else layout.span(best + 1 + since)[0]
        kinds.append(Kind(name, int(means.counts.min()), means.difference(best, last), fell_by))
    if len(kinds) < 2:
        return ()
    return tuple(sorted(kinds, key=lambda kind: (kind.fell_by is None, kind.fell_by or 0, -kind.fall.mean)))
