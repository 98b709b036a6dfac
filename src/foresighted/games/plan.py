"""What is to be played: arms and sweeps in text to cells, and which cells share a compiled program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from foresighted.errors import ConfigError, nearest
from foresighted.games.settings import GameSettings, is_traced
from foresighted.settings import arm_from_text, from_text, renamed, settings
from foresighted.steering.table import FORMS, Form

if TYPE_CHECKING:
    from foresighted.games.game import Game

MOST_CELLS = 10_000
MOST_RUNS = 1_000_000
MOST_NUMBERS = 2**30
"""Of the draws, weights and records of the runs that are played at a time: 4 GiB in float32."""
ROWS_A_PART = 2**17
"""Iterations in a part, all runs together: 32 runs of the network game, 435 of the linear."""
NOT_OF_AN_ARM = ("iterations", "float64", "dimension")
"""What arms and points of a sweep must share, so that their records fit together."""


class Cell(NamedTuple):
    """One arm at one point of a sweep."""

    arm: str
    """As it was named, settings of its own included."""
    form: str
    settings: GameSettings
    swept: tuple[tuple[str, Any], ...]
    """Swept settings and their values here."""


class Sweep(NamedTuple):
    """Values of one setting to go through."""

    name: str
    values: tuple[Any, ...]


def arm_cells(game: Game, arms: Sequence[str], base: GameSettings, sweeps: Sequence[Sweep] = ()) -> list[Cell]:
    """Return the cells of arms at every point of the sweeps; what an arm sets itself is not swept in it.

    A form that does not read gamma (`rlhf`) is played once, not once a gamma.

    Args:
        game: the game.
        arms: "rlhf", "proximal:gamma=0.05:action_cost=0".
        base: settings that the arms share.
        sweeps: settings and values.

    Returns:
        Cells in the order of arms, then of the sweeps.

    Raises:
        ConfigError: an arm, a setting or a value that is unknown or out of range.
    """
    if math.prod(len(sweep.values) for sweep in sweeps) * len(arms) > MOST_CELLS:
        raise ConfigError(f"sweep: more than {MOST_CELLS} points; sweep fewer values")
    cells: dict[Cell, None] = {}
    for arm in arms:
        form, own = arm_from_text(arm, game.settings, _own_settings(game), f"a setting of the {game.name} game")
        for point in product(*(sweep.values for sweep in sweeps)):
            values = dict(zip((sweep.name for sweep in sweeps), point, strict=True)) | own
            values.setdefault("gamma", base.gamma if base.gamma is not None else game.gammas.get(form, 1.0))
            if FORMS[form].needs == "nothing":
                values["gamma"] = 0.0
            made = replace(base, **values)
            _check_control(game, made)
            swept = tuple((sweep.name, getattr(made, sweep.name)) for sweep in sweeps)
            cells[Cell(arm, form, made, swept)] = None
    return list(cells)


def _check_control(game: Game, s: GameSettings) -> None:
    kind = type(s)
    unknown = [name for name in game.leader_steps if name not in settings(kind) or not is_traced(kind, name)]
    if s.control == "trust" and (unknown or not game.leader_steps):
        raise ConfigError(
            f"control: trust scales the leader's step, and the {game.name} game has no setting"
            f" {' or '.join(unknown) or 'for it'} of type float; name its step sizes in Game(leader_steps=...)"
        )


def _own_settings(game: Game) -> tuple[str, ...]:
    """Return the settings that an arm or a sweep may set."""
    return tuple(name for name in settings(game.settings) if name not in NOT_OF_AN_ARM)


def sweep_from_text(game: Game, text: str) -> Sweep:
    """Return a sweep: NAME=a,b,c or NAME=FIRST:LAST:logN or NAME=FIRST:LAST:linN.

    Args:
        game: has the settings.
        text: as on the command line.

    Returns:
        The sweep.

    Raises:
        ConfigError: a name that does not exist, with the nearest that does; values that are no list and no range.

    Example:
        >>> from foresighted.games import LINEAR
        >>> sweep_from_text(LINEAR, "gamma=0.01:1:log3").values
        (0.01, 0.1, 1.0)
    """
    name, equals, written = text.partition("=")
    known = _own_settings(game)
    (name,) = renamed({name: None}, known)
    if name not in known:
        raise ConfigError(f"sweep: the {game.name} game has no setting {name!r} to sweep{nearest(name, known)}")
    if not equals or not written:
        raise ConfigError(f"sweep: got {text!r}, expected {name}=a,b,c or {name}=FIRST:LAST:log12 (or lin12)")
    values = _range(name, written) if ":" in written else written.split(",")
    shown = [from_text(game.settings, name, str(value)) for value in values]
    if len(set(shown)) < len(shown):
        raise ConfigError(f"sweep: {text!r} holds a value twice")
    return Sweep(name, tuple(shown))


def _range(name: str, written: str) -> list[float]:
    wrong = ConfigError(
        f"sweep: got {name}={written!r}, expected FIRST:LAST:log12 or FIRST:LAST:lin12, 2 or more values"
    )
    try:
        low, high, how = written.split(":")
        first, last, scale, count = float(low), float(high), how[:3], int(how[3:])
    except ValueError:
        raise wrong from None
    if count > MOST_CELLS:
        raise ConfigError(f"sweep: {name}={written!r} names {count} values; sweep {MOST_CELLS} at most")
    if count < 2 or scale not in ("log", "lin") or not math.isfinite(first) or not math.isfinite(last):
        raise wrong
    if scale == "lin":
        return [float(f"{first + (last - first) * k / (count - 1):.12g}") for k in range(count)]
    if first <= 0 or last <= 0:
        raise ConfigError(f"sweep: got {name}={written!r}; a range in log steps needs ends above 0")
    return [float(f"{first * (last / first) ** (k / (count - 1)):.4g}") for k in range(count)]


def check_size(cells: Sequence[Cell], seeds: int) -> None:
    """Check that what is asked for can be held.

    Raises:
        ConfigError: too many runs, or one that needs more memory than there is anywhere.
    """
    runs = len(cells) * seeds
    if runs > MOST_RUNS:
        raise ConfigError(
            f"seeds: {len(cells)} cells (arms, swept values) times {seeds} seeds are {runs} runs; play {MOST_RUNS} at"
            " most"
        )
    for cell in cells:
        s = cell.settings
        width, hidden = getattr(s, "dimension", 1), getattr(s, "hidden", 0)
        drawn = getattr(s, "inner_steps", 1) * getattr(s, "policy_samples", 1) + s.labels_per_round
        weights = 3 * s.ensemble * hidden * (hidden + width)
        at_once = min(runs, max(1, ROWS_A_PART // s.iterations))
        numbers = at_once * (s.iterations * (4 + width + drawn * width) + weights)
        if numbers > MOST_NUMBERS:
            raise ConfigError(
                f"iterations: {s.iterations} rounds of {drawn} draws of dimension {width} are {numbers} numbers at a"
                f" time ({at_once} runs), and {MOST_NUMBERS} is the most; ask for fewer rounds, a smaller game or fewer"
                " seeds"
            )


def program_key(cell: Cell) -> tuple[tuple[Form, ...], GameSettings]:
    """Return what cells must share to be played by one program: known forms (all elementwise ones share one), and all
    settings that are not traced."""
    own = FORMS[cell.form]
    forms = tuple(form for form in FORMS.values() if form.elementwise) if own.elementwise else (own,)
    return forms, _template(cell.settings)


@lru_cache(maxsize=4096)
def _template(config: GameSettings) -> GameSettings:
    kind = type(config)
    numbers: dict[str, Any] = {name: item.default for name, item in settings(kind).items() if is_traced(kind, name)}
    numbers["gradient_regularisation"] = float(config.gradient_regularisation > 0)
    numbers["gamma"] = 1.0
    return replace(config, **{**numbers, "confidence": 0.0})


def labels_read(game: Game, cell: Cell) -> int:
    """Return how many labels a run reads: those of the reward model, and those in the penalty."""
    s = cell.settings
    penalty = FORMS[cell.form].reads_labels and s.steering_labels == "candidate" and (s.gamma or 0) > 0
    return s.iterations * (s.labels_per_round + (game.actions_scored(s) if penalty else 0))
