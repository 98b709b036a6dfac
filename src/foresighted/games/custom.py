"""A game of yours, from a file."""

from __future__ import annotations

from foresighted.games.game import Game
from foresighted.store.python_files import load_from_file


def load_game(text: str) -> Game:
    """Return the game FILE.py:NAME.

    Args:
        text: a Python file and the name of a `Game` in it. The file is run.

    Returns:
        The game.

    Raises:
        ConfigError: no such file, no such name, or another kind of object.
    """
    game: Game = load_from_file("game", text, "Game", lambda value: isinstance(value, Game))
    return game
