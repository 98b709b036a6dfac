"""Whether a column may be what its name says: what the policy was paid by, and what measures a response.

TRL writes one column a reward function and then whatever reward functions logged beside, and no weights. But it writes
each response's advantage, which is made of the reward alone. With r the sum of some of the columns (those that are null
in a row pass it over), g a prompt's group of responses in a step and s the spread of r in it, TRL's advantage is

    (r - mean_g r) / (s_g + 1e-4),      or      c (r - mean_g r) with one c for the whole step

(`scale_rewards` `group`; `batch` or `none`, and RLOO). The columns whose sum does this, and no others, paid.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from foresighted.auditing.rollouts import Rollouts
from foresighted.errors import DataError
from foresighted.statistics.numbers import Floats, Ints
from foresighted.store.aliases import written
from foresighted.store.exchanges import number_of
from foresighted.store.values import as_text

MOST_COLUMNS = 8
FEWEST_GROUPS = 2
FEWEST_REPEATS = 3
FEW = 0.05
"""Share of prompts within which a right answer may vary."""
MOST_COMPARED = 50_000
_CLOSE = 3e-6
_ROUNDED = 5e-7
"""Difference of advantages that single precision makes, and for each reward's size over the group's spread."""
_EPSILON = 1e-4


def paid_by(candidates: Sequence[str], steps: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[str], str]:
    """Return the columns that the policy was paid by, and what says so.

    `FPOReward` pays the reward model less a penalty and logs both beside; the reward model stands for it, for the
    penalty must not hide a collapse. What else paid, the advantages say.

    Args:
        candidates: names of columns of numbers.
        steps: rows of some steps of the log, a step each, in order.

    Raises:
        DataError: the advantages do not tell, with the choices.
    """
    begins = {name: begin for name in candidates if (begin := _logged_beside(name, candidates)) is not None}
    ours = {name: f"{begin}reward_model" for name, begin in begins.items()}
    extras = {f"{begin}{end}" for begin in begins.values() for end in ("reward_model", "penalty")}
    left = [name for name in candidates if name not in extras]
    if len(left) == 1:
        return [ours.get(left[0], left[0])], "FPOReward logged the others beside"
    return [ours.get(name, name) for name in _settled(left, steps)], "the advantages say so"


def _logged_beside(name: str, candidates: Sequence[str]) -> str | None:
    """Return what the columns that an FPOReward called `name` logs beside begin with; None where they are not there."""
    before = "" if name == "fpo" else f"{name}_"
    return before if {f"{before}reward_model", f"{before}penalty"} <= set(candidates) else None


def _settled(candidates: Sequence[str], steps: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    tables = [table for rows in steps if (table := _table(candidates, rows)) is not None]
    sizes = sorted(set.intersection(*(table.sizes for table in tables))) if tables else []
    told = sum(int(np.any(table.advantage.reshape(-1, sizes[0]), axis=1).sum()) for table in tables) if sizes else 0
    found: list[set[int]] = []
    if len(candidates) <= MOST_COLUMNS and told >= FEWEST_GROUPS:
        every = range(len(candidates))
        sums = (own for n in range(1, len(candidates) + 1) for own in itertools.combinations(every, n))
        found = [set(own) for own in sums if any(_fits(tables, list(own), size) for size in sizes)]
    least = min(found, key=len, default=set())
    if least and all(least <= own and _idle(tables, own - least) for own in found):
        return [candidates[place] for place in sorted(least)]
    shown, names = ", ".join(map(repr, candidates)), [written(name) for name in candidates]
    raise DataError(
        f"{shown} may each be a reward function or something that one logged beside, and the advantages do not tell"
        f" which the policy was paid by; say it with --column reward={names[0]} or a sum such as --column"
        f" reward={'+'.join(names[:2])}"
    )


class _Table(NamedTuple):
    """One step: values (rows, columns), advantages, and how many responses a group may have."""

    values: Floats
    advantage: Floats
    sizes: set[int]


def _table(candidates: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> _Table | None:
    """Return a step as arrays; None where its groups cannot be told.

    A prompt's rows stand together, but it may have had several groups: a group's advantages add up to nothing.
    """
    prompts = [as_text(row.get("prompt")) for row in rows]
    lengths = [len(list(same)) for _, same in itertools.groupby(prompts)]
    advantage = np.array([_number(row.get("advantage")) for row in rows])
    if not len(rows) or not np.isfinite(advantage).all():
        return None
    most = int(np.gcd.reduce(lengths))
    sizes = {size for size in range(2, most + 1) if most % size == 0 and _centred(advantage, size)}
    values = np.array([[_number(row.get(name)) for name in candidates] for row in rows])
    return _Table(values, advantage, sizes) if sizes else None


def _idle(tables: Sequence[_Table], own: set[int]) -> bool:
    """Return whether columns have one value throughout: whether they paid makes no difference."""
    values = np.concatenate([table.values for table in tables])
    return all(len(np.unique(column[np.isfinite(column)])) <= 1 for column in values.T[sorted(own)])


def _fits(tables: Sequence[_Table], own: Sequence[int], size: int) -> bool:
    return any(all(fits(table, own, size) for table in tables) for fits in (_by_group, _by_one))


def _centred(advantage: Floats, size: int) -> bool:
    groups = advantage.reshape(-1, size)
    return bool((np.abs(groups.sum(axis=1)) <= 1e-3 * (1e-2 + np.abs(groups).sum(axis=1))).all())


def _number(value: Any) -> float:
    try:
        known = number_of(value)
    except (TypeError, ValueError, OverflowError):
        known = None
    return np.nan if known is None else known


def _deviations(table: _Table, own: Sequence[int], size: int) -> tuple[Floats, Floats]:
    """Return the sum of some columns less its group's mean, and its group's spread; (groups, size) and (groups, 1)."""
    some = table.values[:, own]
    reward = np.where(np.isfinite(some).any(axis=1), np.nansum(some, axis=1), np.nan).reshape(-1, size)
    known = np.isfinite(reward)
    count = known.sum(axis=1, keepdims=True)
    mean = np.nansum(reward, axis=1, keepdims=True) / np.maximum(count, 1)
    away: Floats = np.where(known, reward - mean, 0.0)
    spread: Floats = np.sqrt((away**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    return away, spread


def _by_group(table: _Table, own: Sequence[int], size: int) -> bool:
    away, spread = _deviations(table, own, size)
    return _same(away / (spread + _EPSILON), table, own, spread)


def _by_one(table: _Table, own: Sequence[int], size: int) -> bool:
    away, spread = _deviations(table, own, size)
    power = float((away**2).sum())
    factor = float((away * table.advantage.reshape(away.shape)).sum()) / power if power else 0.0
    return (factor > 0 or not power) and _same(factor * away, table, own, np.full_like(spread, 1 / (factor + 1e-30)))


def _same(expected: Floats, table: _Table, own: Sequence[int], unit: Floats) -> bool:
    """Return whether advantages are as expected; `unit`: reward that makes one of advantage."""
    some = table.values[:, own]
    largest = np.max(np.abs(some), initial=0.0, where=np.isfinite(some))
    slack = _CLOSE * (1 + np.abs(expected)) + _ROUNDED * largest / (unit + _EPSILON)
    return bool((np.abs(expected - table.advantage.reshape(expected.shape)) <= slack).all())


def measured(rollouts: Rollouts, name: str) -> Literal["response", "prompt", "unseen"]:
    """Return what a column of numbers measures.

    Returns:
        response: it differs between responses to one prompt. prompt: it does not, but for one prompt in twenty (some
        stand there twice, with two right answers), though there are responses that differ. unseen: hardly a prompt has
        two.
    """
    values = rollouts.numbers[name]
    places = np.flatnonzero(np.isfinite(values))
    prompt, values = rollouts.prompt[places], values[places]
    order = np.argsort(prompt, kind="stable")
    prompt, values, places = prompt[order], values[order], places[order]
    same = prompt[1:] == prompt[:-1]
    varied = len(np.unique(prompt[1:][same & (values[1:] != values[:-1])]))
    if varied > FEW * len(np.unique(prompt[1:][same])):
        return "response"
    return "prompt" if _repeats(rollouts, places, prompt) >= FEWEST_REPEATS else "unseen"


def _repeats(rollouts: Rollouts, places: Ints, prompt: Ints) -> int:
    """Return how many responses there are beyond a prompt's first that differ from it; rows without text all do."""
    same = np.r_[False, prompt[1:] == prompt[:-1]]
    if rollouts.text is None:
        return int(same.sum())
    near = np.flatnonzero(same | np.r_[same[1:], False])[:MOST_COMPARED]
    texts = rollouts.texts(places[near])
    return len({(int(prompt[place]), text) for place, text in zip(near, texts, strict=True)}) - len(
        np.unique(prompt[near])
    )


def looks_like_answers(rollouts: Rollouts, name: str) -> bool:
    """Return whether a column holds what right answers are: whole numbers, of many values, no scale of ten."""
    values = rollouts.numbers[name]
    known = np.unique(values[np.isfinite(values)])
    return len(known) > 11 and bool((known == np.round(known)).all())
