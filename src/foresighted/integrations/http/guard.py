"""What stands before the routes of a server: who may ask, how much, and that a body is JSON of reasonable depth."""

from __future__ import annotations

import hmac
import itertools
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

from foresighted.inputs import shown

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
DEEPEST = 32
"""Levels of lists and objects in a body."""
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEPS)
OPEN = ("/health",)
"""Paths that need no token."""


class Guard:
    """Refuses requests that no route should see, in one line of JSON.

    Args:
        app: what it stands before.
        token: that requests must carry; None: none.
        most: bytes of a body.
    """

    def __init__(self, app: Any, token: str | None, most: int) -> None:
        self._app, self._most = app, most
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on with its whole body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._may(scope["path"], headers.get(b"authorization", b"")):
            told = "authorization: give the header Authorization: Bearer TOKEN, with this server's token"
            await _say(send, 401, told, (b"www-authenticate", b"Bearer"))
            return
        body = await self._body(receive, headers.get(b"content-length", b""))
        if body is None:
            told = f"body: has more than {self._most} bytes; send fewer responses a request (body_limit)"
            await _say(send, 413, told, (b"connection", b"close"))
            return
        if body and (wrong := fault_of(body)):
            await _say(send, 400, f"body: {wrong}")
            return
        sent = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _may(self, path: str, given: bytes) -> bool:
        return self._token is None or path in OPEN or hmac.compare_digest(given, self._token)

    async def _body(self, receive: Receive, length: bytes) -> bytes | None:
        """Return the body, or None where it is too large: it is not read to its end then."""
        if length.isdigit() and int(length[:20]) > self._most:
            return None
        parts, size = [], 0
        while True:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            if size > self._most:
                return None
            parts.append(part)
            if message["type"] != "http.request" or not message.get("more_body"):
                return b"".join(parts)


def fault_of(body: bytes) -> str:
    """Return what is wrong with a body that should be JSON, or nothing."""
    steps = map(_STEPS.__getitem__, _TEXT.sub(b"", body).translate(None, _NO_BRACKETS))
    if max(itertools.accumulate(steps), default=0) > DEEPEST:  # before a reader that goes down them
        return f"nested deeper than {DEEPEST} levels"
    try:
        json.loads(body.decode(), parse_constant=_no_number)
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg}: character {error.pos + 1})"
    except ValueError as error:
        return str(error)[:200]
    except RecursionError:
        return "nested too deeply"
    return ""


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{shown(name)} is no number of JSON")


async def _say(send: Send, status: int, told: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": told}).encode()
    every = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body})
