"""A game of yours, from a file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from foresighted.errors import ConfigError, nearest
from foresighted.games.game import Game


def load_game(text: str) -> Game:
    """Return the game FILE.py:NAME.

    Args:
        text: a Python file and the name of a `Game` in it. The file is run.

    Returns:
        The game.

    Raises:
        ConfigError: no such file, no such name, or another kind of object.
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ConfigError(f"game: got {text!r}, expected FILE.py:NAME")
    if not Path(path).is_file():
        raise ConfigError(f"game: no file {path}")
    spec = importlib.util.spec_from_file_location(f"foresighted_game_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"game: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"game: {path} fails with {type(error).__name__}: {error}") from error
    game = getattr(module, name, None)
    if not isinstance(game, Game):
        games = [key for key, value in vars(module).items() if isinstance(value, Game)]
        raise ConfigError(
            f"game: {path} has no Game {name!r}{nearest(name, games)}; it has {', '.join(games) or 'none'}"
        )
    return game
