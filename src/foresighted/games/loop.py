"""Play a game: settings and seeds in one compiled program, in pieces of rounds so that progress can be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from foresighted.games.game import Array, Follower, Game, Observation, Tree, label_function, with_values
from foresighted.games.plan import Cell, arm_cells, program_key
from foresighted.games.score import score_function
from foresighted.games.settings import GameSettings, is_traced
from foresighted.games.trust import first_trust, next_trust, trusted
from foresighted.settings import settings
from foresighted.steering import FORMS, Form

PIECES = 20
"""Progress is told this many times; between two tellings the program does not come back."""
_MAKING = Lock()
"""Of the cache of programs, which would make one for each thread that asks at the same time."""


class Trajectories(NamedTuple):
    """Of C cells (arms, settings), S seeds and iterations 0 (the start) to T; float32 or float64."""

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    utility: NDArray[Any]
    """(C, S, T + 1), in units of utility; so are the next three."""
    proxy_reward: NDArray[Any]
    signal: NDArray[Any]
    noise: NDArray[Any]
    action: NDArray[Any]
    """(C, S, T + 1, A)."""
    tau: NDArray[Any]
    """Factor of the leader's step, (C, S, T + 1); 1 where nothing controls it."""


def simulate(game: Game, arms: Sequence[str], seeds: Sequence[int], config: GameSettings | None = None) -> Trajectories:
    """Play arms of a game with common random numbers.

    Args:
        game: `LINEAR`, `NETWORK` or your own.
        arms: forms of the penalty, each with settings of its own: "rlhf", "proximal:gamma=0.05".
        seeds: whole numbers from 0; all arms of a seed share first weights and noise.
        config: settings of the game; its defaults if None.

    Returns:
        `Trajectories`, cells in the order of `arms`. A run that diverges holds NaN from there on.

    Raises:
        ConfigError: an arm or a setting that is unknown or out of range.

    Example:
        >>> from foresighted.games import LINEAR, simulate
        >>> simulate(LINEAR, ["rlhf", "proximal"], range(2)).utility.shape
        (2, 2, 301)
    """
    cells = arm_cells(game, arms, game.settings() if config is None else config)
    parts: dict[Cell, list[NDArray[Any]]] = {}
    for key in dict.fromkeys(program_key(cell) for cell in cells):
        group = [cell for cell in cells if program_key(cell) == key]
        played = play(game, group, tuple(seeds))
        parts |= {cell: [values[i] for values in played[2:]] for i, cell in enumerate(group)}
    stacked = (np.stack([parts[cell][k] for cell in cells]) for k in range(len(Trajectories._fields) - 2))
    return Trajectories(tuple(cells), tuple(seeds), *stacked)


def play(
    game: Game, cells: Sequence[Cell], seeds: tuple[int, ...], on_piece: Callable[[int], None] | None = None
) -> Trajectories:
    """Play cells that share a program, one `program_key`; `on_piece` is told how many rounds are done."""
    example = cells[0].settings
    forms, template = program_key(cells[0])
    rounds, width = example.iterations, -(-example.iterations // PIECES)
    kind = np.float64 if example.float64 else np.float32
    with jax.enable_x64(example.float64):
        with _MAKING:
            begin, piece, compiling = _programs(game, template, forms)
        numbers = {
            name: np.asarray([getattr(cell.settings, name) for cell in cells], kind) for name in _traced(template)
        }
        form = np.asarray([forms.index(FORMS[cell.form]) for cell in cells])
        members = [[game.start_draws(example, seed, m) for m in range(example.ensemble)] for seed in seeds]
        start = _stack([_stack(one, kind) for one in members], kind)
        draws = _stack([game.round_draws(example, seed) for seed in seeds], kind)
        with compiling:
            state, first = begin(numbers, form, start)
        found = [jax.tree.map(lambda x: np.asarray(x)[:, :, None], first)]
        for done in range(0, rounds, width):
            now = min(width, rounds - done)
            part = jax.tree.map(lambda x: _padded(x[:, done : done + width], width), draws)  # noqa: B023
            with compiling if done == 0 else nullcontext():
                state, seen = piece(numbers, form, state, part, np.asarray(done, kind))
            found.append(jax.tree.map(lambda x: np.asarray(x)[:, :, :now], seen))  # noqa: B023
            if on_piece is not None:
                on_piece(done + now)
    observed, tau = jax.tree.map(lambda *parts: np.concatenate(parts, axis=2), *found)
    values = (*observed, np.ones_like(observed.utility) if tau is None else tau)
    return Trajectories(tuple(cells), seeds, *values)


def _stack(trees: Sequence[Tree], kind: type) -> Tree:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, kind) for leaf in leaves]), *trees)


def _padded(rows: NDArray[Any], width: int) -> NDArray[Any]:
    """Return rounds filled up to a piece's width: what is played past the end is dropped."""
    missing = width - rows.shape[1]
    return rows if missing == 0 else np.pad(rows, [(0, 0), (0, missing), *[(0, 0)] * (rows.ndim - 2)])


def _traced(template: GameSettings) -> list[str]:
    """Return the settings that arrive as numbers; those of the regularisation and of trust only where they are used."""
    kind = type(template)
    unused = set() if template.gradient_regularisation > 0 else {"gradient_regularisation"}
    if template.control == "none":
        unused |= {name for name in settings(GameSettings) if name.startswith("trust_")}
    return [name for name in settings(kind) if is_traced(kind, name) and name not in unused]


def with_numbers(template: GameSettings, numbers: dict[str, Array]) -> Any:
    """Return settings that hold traced numbers, and no regularisation where it is not used."""
    return with_values(template, {"gradient_regularisation": None} | numbers)


@lru_cache(maxsize=32)
def _programs(game: Game, template: GameSettings, forms: tuple[Form, ...]) -> tuple[Any, Any, Lock]:
    """Return the start and the piece of rounds, over cells and seeds, and a lock for their first calls.

    Two threads would compile a program twice. A call returns before it ran, so the lock is held for compiling only.
    """

    def observed(s: Any, leader: Tree, follower: Follower) -> Observation:
        def reward(y: Array) -> Array:
            return jnp.mean(jax.vmap(lambda w: game.reward(s, w, y))(follower.weights))

        return game.observe(s, leader, reward)

    def begin(numbers: dict[str, Array], form: Array, draws: Tree) -> tuple[Any, Any]:
        s = with_numbers(template, numbers)
        leaders, follower = jax.vmap(lambda one: game.start(s, one))(draws)
        leader = jax.tree.map(lambda x: x[0], leaders)
        trust = first_trust(s) if s.control == "trust" else None
        return (leader, follower, trust), (observed(s, leader, follower), trust and trust.tau)

    def piece(numbers: dict[str, Array], form: Array, state: Any, draws: Tree, done: Array) -> tuple[Any, Any]:
        s = with_numbers(template, numbers)
        label = label_function(game, s)

        def play_round(state: Any, step: tuple[Array, Tree]) -> tuple[Any, Any]:
            t, draw = step
            leader, follower, trust = state
            score = score_function(game, s, forms, form, follower, label)
            leader = game.leader_step(trusted(game, s, trust) if trust else s, leader, score, draw, t)
            seen = observed(s, leader, follower), trust and trust.tau
            learnt = jax.vmap(lambda one: game.follower_step(s, one, leader, label, draw, t))(follower)
            return (leader, learnt, trust and next_trust(game, s, trust, follower, learnt)), seen

        width = -(-template.iterations // PIECES)
        return jax.lax.scan(play_round, state, (done + jnp.arange(width, dtype=done.dtype), draws))

    options = {"xla_backend_optimization_level": 1}  # compiles in two thirds of the time and runs no slower
    over_seeds = jax.vmap(begin, in_axes=(None, None, 0))
    pieces = jax.vmap(piece, in_axes=(None, None, 0, 0, None))
    return (
        jax.jit(jax.vmap(over_seeds, in_axes=(0, 0, None)), compiler_options=options),
        jax.jit(jax.vmap(pieces, in_axes=(0, 0, 0, None, None)), compiler_options=options),
        Lock(),
    )
