"""Keys: read from the environment, checked before use, and masked in whatever an endpoint or a program says of them.

A text is masked before it is cut, wrapped or quoted: half a key is still a key. What a hostile endpoint can do to a key
has no end (it may spell it backwards), so the forms below are those that proxies, servers and libraries write.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from urllib.parse import quote

from foresighted.errors import ConfigError
from foresighted.inputs import KEY

MASK = "***"
PIECE = 8
"""Characters of a key that are masked wherever they stand together; a shorter key is a placeholder, no secret."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONG = re.compile(r"(?=\w*\d)(?=\w*[A-Za-z])[\w-]{24,}")
_SECRET = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD)S?$")


def looks_like_key(text: str) -> bool:
    """Return whether a text that should be a name or an address looks like a key."""
    return bool(KEY.search(text) or _LONG.search(text))


def without_keys(text: str) -> str:
    """Return a text without what looks like a key, and without what the environment holds in variables of keys.

    Example:
        >>> without_keys("unrecognized: --api-key sk-0123456789abcdef")
        'unrecognized: --api-key ***'
    """
    held = [value.strip() for name, value in os.environ.items() if _SECRET.search(name)]
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value, MASK) if len(value) >= PIECE else text
    return KEY.sub(MASK, text)


def is_variable(text: str) -> bool:
    """Return whether a text can name the environment variable of a key, and is not the key itself."""
    return bool(_VARIABLE.fullmatch(text)) and (text in os.environ or not looks_like_key(text))


class Key:
    """A key that is never shown.

    Args:
        variable: environment variable that holds it; a file of secrets may have left spaces or a line end around it.

    Raises:
        ConfigError: the variable's name is none, or its value can be no key: empty, with spaces or control characters
            inside, or not ASCII. No message shows it.
    """

    def __init__(self, variable: str) -> None:
        if not is_variable(variable):
            raise ConfigError(WRONG_VARIABLE)
        held = os.environ.get(variable, "")
        self.value = held.strip()
        if held and not self.value:
            raise ConfigError(f"api_key_env: the variable {variable} holds spaces alone; put the key there")
        if not all("!" <= character <= "~" for character in self.value):
            raise ConfigError(
                f"api_key_env: what the variable {variable} holds is no key ({len(self.value)} characters, not all of"
                " them printable ASCII without spaces); put the key alone there"
            )
        self._pieces = set(_pieces(self.value))

    def __repr__(self) -> str:
        return "Key(***)"

    def within(self, text: str) -> bool:
        """Return whether a text holds the whole key."""
        return len(self.value) >= PIECE and self.value in text

    def masked(self, text: str) -> str:
        """Return a text without the key: whole, in pieces of 8 characters and more, or in another writing of it."""
        if len(self.value) < PIECE:
            return re.sub(rf"(?<!\w){re.escape(self.value)}(?!\w)", MASK, text) if self.value else text
        folded = re.sub("[A-Z]+", lambda match: match[0].lower(), text)
        places = sorted((at, at + len(piece)) for piece in self._pieces for at in _found(folded, piece))
        parts: list[str] = []
        end = 0
        for start, stop in places:
            if start > end or not parts:
                parts += [text[end:start], MASK]
            end = max(end, stop)
        return "".join([*parts, text[end:]])


WRONG_VARIABLE = (
    "api_key_env: names the environment variable that holds the key, for example OPENAI_API_KEY, and what was given is"
    " no such name; if it is the key itself, make a new one: command lines and histories are read by others"
)


def _found(text: str, piece: str) -> Iterable[int]:
    at = text.find(piece)
    while at >= 0:
        yield at
        at = text.find(piece, at + 1)


def _pieces(key: str) -> Iterable[str]:
    """Return all that is masked, in lower case: pieces of the key, of it in base64 and hexadecimal, in a URL."""
    if len(key) < PIECE:
        return
    forms = [key, quote(key, safe=""), key.encode().hex(), key.replace("/", "\\/")]
    for before in range(3):  # base64 depends on where in a text the key begins; its ends mix with what is beside it
        coded = base64.b64encode(b" " * before + key.encode()).decode().rstrip("=")
        inside = coded[4 if before else 0 : -1]
        forms += [inside, inside.replace("+", "-").replace("/", "_")]
    for form in forms:
        size = PIECE if form == key else 2 * PIECE
        yield from (form[i : i + size].lower() for i in range(len(form) - size + 1))
