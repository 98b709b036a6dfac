"""A comparison in a given time: as many rounds as fit, found from the first of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from foresighted.alignment.compare import compare
from foresighted.alignment.given import NAMES_ONLY, Given
from foresighted.alignment.side_by_side import Run
from foresighted.errors import ConfigError
from foresighted.settings import CompareConfig, read_yaml
from foresighted.store.directory import CONFIG, arm_directory
from foresighted.store.records import TIMINGS
from foresighted.store.rows import read_mappings

FIRST = 2
"""Rounds that are played before the others are counted; the very first also warms up."""
FEWEST = 10
"""Rounds below which a loop shows too little."""
_SPARE = 0.95
"""Of the time left, that is planned with."""


def compare_within(
    config: CompareConfig,
    out: Path,
    minutes: float,
    *,
    on_progress: Callable[[Sequence[Run]], None] = lambda _runs: None,
    given: Given = NAMES_ONLY,
) -> int:
    """Play a comparison, or go on with one, for so many minutes; return its rounds.

    A comparison whose rounds were counted already keeps them.

    Args:
        config: what to play; its rounds are the most.
        out: its directory.
        minutes: from now on, what is loaded and evaluated included.
        on_progress: as `compare`.
        given: as `compare`.

    Raises:
        ConfigError: the minutes are too few for 10 rounds; says how many it takes. What was played stays.
        ForesightedError: see `compare`.
    """
    began, first = time.monotonic(), min(FIRST, config.train.rounds)
    counted = read_yaml(out / CONFIG).get("rounds", 0) if (out / CONFIG).exists() else 0
    if counted <= first:
        compare(_of_rounds(config, first), out, resume=True, on_progress=on_progress, given=given)
        counted = _rounds(config, out, minutes, time.monotonic() - began)
    compare(_of_rounds(config, counted), out, resume=True, on_progress=on_progress, given=given)
    return int(counted)


def _of_rounds(config: CompareConfig, rounds: int) -> CompareConfig:
    return replace(config, train=replace(config.train, rounds=rounds))


def _rounds(config: CompareConfig, out: Path, minutes: float, elapsed: float) -> int:
    """Return the rounds that fit, from the seconds of the last one that was played and of everything so far."""
    shares: list[list[float]] = []
    for arm in config.arms:
        for seed in config.seeds:
            path = arm_directory(out, arm, seed) / TIMINGS
            shares.append([float(row["seconds"]) for row in read_mappings(path)] if path.exists() else [])
    at_once = config.jobs or 1 if config.side_by_side == 1 else 1
    a_round = sum(own[-1] for own in shares if own) / at_once
    evaluated = max(0.0, elapsed - sum(map(sum, shares)) / at_once) / 2  # before the first round and after the last
    each = a_round + evaluated / config.train.heldout_every
    left = _SPARE * (60 * minutes - elapsed) - evaluated
    rounds = FIRST + math.floor(left / each)
    if rounds < min(FEWEST, config.train.rounds):
        needed = math.ceil((elapsed + ((FEWEST - FIRST) * each + evaluated) / _SPARE) / 60)
        runs = len(shares)
        raise ConfigError(
            f"minutes: got {minutes:g}, enough for {max(rounds, FIRST)} rounds of {runs} loops at {a_round:.0f} s a"
            f" round; {FEWEST} are the fewest that show anything: give {needed} minutes, or fewer arms or seeds"
        )
    return min(rounds, config.train.rounds)
