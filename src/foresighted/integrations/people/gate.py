"""Who may come in: names, tokens and sessions, and from where a request may come.

Everything is made from one key in the queue's folder, so that links and sessions outlive the server.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from foresighted.errors import RunError
from foresighted.integrations.people.settings import NAME, LabelConfig
from foresighted.store.files import replacing

KEY = ".label.key"
_HERE = ("localhost", "127.0.0.1", "::1")


class Gate:
    """Knows people by their links and sessions.

    Args:
        folder: of the queue; holds the key, which nobody but its owner can read.
        config: who may label.

    Raises:
        RunError: the key cannot be used.
    """

    def __init__(self, folder: Path, config: LabelConfig) -> None:
        self._key = _key(folder / KEY)
        self._people = config.people
        self._anybody_here = not config.people
        self.cookie = f"foresighted-label-{self._signed('cookie')[:8]}"
        """Name of the session's cookie: of this queue, whatever else is served at this host."""

    def token(self, person: str) -> str:
        """Return what a person's link holds."""
        return self._signed("token", person)

    def by_token(self, token: str) -> str | None:
        """Return whose link holds a token."""
        return next((name for name in self._people if _same(self.token(name), token)), None)

    def named(self, name: object) -> str | None:
        """Return the name that somebody at this machine says, None where it is none or people have links."""
        known = isinstance(name, str) and NAME.fullmatch(name.strip()) is not None
        return str(name).strip() if known and self._anybody_here else None

    def session(self, person: str) -> str:
        """Return the value of a person's cookie."""
        name = base64.urlsafe_b64encode(person.encode()).decode().rstrip("=")
        return f"{name}.{self._signed('session', person)}"

    def by_session(self, cookie: str | None) -> str | None:
        """Return whose session a cookie is, where that person may still label."""
        name, _, signed = (cookie or "").partition(".")
        try:
            person = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
        except (ValueError, binascii.Error):
            return None
        if not _same(self._signed("session", person), signed):
            return None
        return person if self._anybody_here or person in self._people else None

    def form(self, person: str) -> str:
        """Return what each form of a person's session carries: a page of another site cannot read it."""
        return self._signed("form", person)

    def may_ask(self, host: str) -> bool:
        """Return whether a request may be for a host: without tokens only for this machine's own names, so that no
        page can have its own name lead here."""
        return not self._anybody_here or _name_of(host) in _HERE

    def may_change(self, host: str, origin: str | None, person: str | None, form: str | None) -> bool:
        """Return whether a request that changes something comes from our page, in the session of `person`."""
        ours = origin is not None and urlsplit(origin).netloc == host
        return ours and (person is None or _same(self.form(person), form or ""))

    def _signed(self, *names: str) -> str:
        told = "\0".join(names).encode("utf-8", "surrogatepass")
        return hmac.new(self._key, told, hashlib.sha256).hexdigest()[:40]


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _key(path: Path) -> bytes:
    if not path.exists():
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32))
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        key = b""
    if len(key) < 32:
        raise RunError(f"{path}: is no key; remove it, and everybody gets a new link")
    return key
