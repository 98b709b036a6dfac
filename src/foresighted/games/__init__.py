"""The controlled games (JAX): where claims about collapse are settled, thousands of runs at a time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foresighted.games.game import Follower, Game, Observation
    from foresighted.games.linear import LINEAR
    from foresighted.games.loop import Trajectories, simulate
    from foresighted.games.network import NETWORK
    from foresighted.games.settings import GameSettings, LinearSettings, NetworkSettings

__all__ = [
    "LINEAR",
    "NETWORK",
    "Follower",
    "Game",
    "GameSettings",
    "LinearSettings",
    "NetworkSettings",
    "Observation",
    "Trajectories",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for: the command line reads settings without loading JAX."""
    if name not in __all__:
        raise AttributeError(f"module 'foresighted.games' has no attribute {name!r}")
    homes = (import_module(f"foresighted.games.{home}") for home in ("settings", "game", "linear", "network", "loop"))
    return next(vars(home)[name] for home in homes if name in vars(home))
