"""What the words of responses tell: variety within one, likeness across prompts, and the same text scored twice.

At most 50,000 responses of an arm are read, evenly over rows and prompts; which ones is a matter of order alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foresighted.auditing.rollouts import Rollouts
from foresighted.statistics.numbers import Floats, Ints
from foresighted.texts import distinct

MOST_READ = 50_000
FIRST_WORDS = 64
"""Words that `distinct_2` reads."""
OPENING = 32
"""Characters that make an opening."""


@dataclass(frozen=True)
class Read:
    """The responses that were read: their places, and a value for each."""

    places: Ints
    distinct_2: Floats
    """Share of distinct word pairs among the first 64 words; nan below two words."""
    alike: Floats
    """Share of the row's responses to other prompts (same run) that begin with the same 32 characters."""
    rescored: Floats
    """Latest less earliest reward of the same text for the same prompt; nan where it was scored in one round only."""


def read_texts(rollouts: Rollouts, rows: Ints) -> Read:
    """Return the measures of text.

    Args:
        rollouts: the responses of one arm.
        rows: (R,) row of the table of each response; -1 is passed over.
    """
    places = sample(rollouts, rows)
    texts = [" ".join(text.split()) for text in rollouts.texts(places)]
    if rollouts.text is None:
        nothing = np.full(len(places), np.nan)
        return Read(places, nothing, nothing, nothing)
    pairs = np.array([distinct(text, 2, first=FIRST_WORDS, without=np.nan) for text in texts], np.float64)
    openings = {opening: code for code, opening in enumerate(dict.fromkeys(t[:OPENING].casefold() for t in texts))}
    codes = np.array([openings[text[:OPENING].casefold()] for text in texts], np.int64)
    group = rows[places] * len(rollouts.runs) + rollouts.run[places]
    alike = alike_shares(group, rollouts.prompt[places], codes)
    return Read(places, pairs, alike, _rescored(rollouts, places, texts))


def sample(rollouts: Rollouts, rows: Ints, most: int = MOST_READ) -> Ints:
    """Return places of at most about `most` responses: the same number of every prompt in every row and run."""
    places = np.flatnonzero(rows >= 0)
    if len(places) <= most:
        return places
    cell = (rows[places] * len(rollouts.runs) + rollouts.run[places]) * len(rollouts.prompts) + rollouts.prompt[places]
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    new = np.r_[True, ordered[1:] != ordered[:-1]]
    starts = np.flatnonzero(new)
    rank = np.empty(len(cell), np.int64)
    rank[order] = np.arange(len(cell)) - starts[np.cumsum(new) - 1]
    sizes = np.bincount(rank)
    each = int(np.searchsorted(np.cumsum(sizes), most, side="right"))
    if each:
        kept: Ints = places[rank < each]
        return kept
    share = most / sizes[0]
    hashed = (rollouts.prompt[places].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    few: Ints = places[(rank == 0) & (hashed < share * (1 << 24))]
    return few


def alike_shares(group: Ints, prompt: Ints, code: Ints) -> Floats:
    """Return, for each response, the share of its group's responses to other prompts that have its code."""

    def counts(*keys: Ints) -> Ints:
        _, place, count = np.unique(np.stack(keys), axis=1, return_inverse=True, return_counts=True)
        found: Ints = count[place.reshape(-1)]
        return found

    others = counts(group) - counts(group, prompt)
    same = counts(group, code) - counts(group, code, prompt)
    with np.errstate(invalid="ignore"):
        made: Floats = np.where(others > 0, same / np.maximum(others, 1), np.nan)
    return made


def _rescored(rollouts: Rollouts, places: Ints, texts: list[str]) -> Floats:
    changes = np.full(len(places), np.nan)
    if "reward" not in rollouts.numbers:
        return changes
    seen: dict[tuple[int, int, str], tuple[int, int]] = {}
    rounds, rewards = rollouts.round[places], rollouts.numbers["reward"][places]
    keys = zip(rollouts.run[places].tolist(), rollouts.prompt[places].tolist(), texts, strict=True)
    for i, (key, round_, reward) in enumerate(zip(keys, rounds.tolist(), rewards.tolist(), strict=True)):
        if reward != reward or not key[2]:
            continue
        first, last = seen.get(key, (i, i))
        seen[key] = (i if round_ < rounds[first] else first, i if round_ > rounds[last] else last)
    for first, last in seen.values():
        if rounds[first] != rounds[last]:
            changes[last] = rewards[last] - rewards[first]
    return changes
