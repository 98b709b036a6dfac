"""A client of a reward owner's server, for reward functions that an engine awaits."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from foresighted.errors import ConfigError, DataError, ForesightedError, RunError
from foresighted.integrations.http.config import TOKEN
from foresighted.integrations.owner.answer import Answer, GroupIncomplete

URL = "FORESIGHTED_URL"
"""Environment variable that says where the server is, where nothing else does."""
PATIENCE = 900.0
"""Seconds for which a server that is away, or full, is asked again."""
_ERRORS: Mapping[int, type[ForesightedError]] = {504: GroupIncomplete, 400: DataError, 413: DataError, 422: DataError}
_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()


def references_of(told: Mapping[str, Any]) -> Any:
    """Return the references that a row of an engine's dataset has, under `references` or `reference`; one text as a
    list of it, anything else as it is, None where there are none."""
    found = told.get("references", told.get("reference"))
    return [found] if isinstance(found, str) else found


class Client:
    """Asks a server for rewards; a request may be sent again, since the owner answers a retry with the same.

    Args:
        url: of the server, `http://host:8000` (default: the environment variable FORESIGHTED_URL).
        token: that it asks for (default: the environment variable FORESIGHTED_TOKEN, else none).
        patience: seconds for which a server that is away or full is asked again.

    Raises:
        ConfigError: nobody says where the server is.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, patience: float = PATIENCE) -> None:
        found = url or os.environ.get(URL, "")
        if not found.startswith(("http://", "https://")):
            raise ConfigError(f"url: got {found!r}; give http://HOST:PORT of foresighted serve, or set {URL}")
        self._url, self._patience = found.rstrip("/"), patience
        secret = token or os.environ.get(TOKEN, "").strip()
        self._headers = {"Authorization": f"Bearer {secret}"} if secret else {}

    async def score(self, **asked: Any) -> list[Answer]:
        """Return what the responses of a request to `/score` are paid, in order.

        Raises:
            GroupIncomplete: others of the group did not come in time.
            DataError: the server cannot use the request.
            RunError: it is away, full or stopped for longer than `patience`.
        """
        said = await self.ask("/score", asked)
        return [Answer(a["reward"], a["score"], a["penalty"], a["version"], a["foresight"]) for a in said["answers"]]

    async def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON of an answer; raises what `score` does."""
        import aiohttp

        end, wait = time.monotonic() + self._patience, 0.25
        while True:
            try:
                async with self._session().post(self._url + path, json=body, headers=self._headers) as response:
                    if response.status == 200:
                        return await response.json()
                    told = await _told(response)
                    if response.status != 503:
                        raise _ERRORS.get(response.status, RunError)(told)
                    wait = float(response.headers.get("Retry-After", wait))
            except (aiohttp.ClientError, TimeoutError) as error:
                told = f"{type(error).__name__}: {error}"
            if time.monotonic() + wait > end:
                waited = f"no answer within {self._patience:g} s ({told})"
                raise RunError(f"{self._url}: {waited}; is foresighted serve there?")
            await asyncio.sleep(wait)
            wait = min(2 * wait, 5.0)

    def _session(self) -> Any:
        import aiohttp

        loop = asyncio.get_running_loop()
        session = _sessions.get(loop)
        if session is None or session.closed:
            connector = aiohttp.TCPConnector(limit=0)  # responses of a group wait for each other
            session = _sessions[loop] = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(3600))
        return session


async def close() -> None:
    """Close the connections of this event loop."""
    session = _sessions.pop(asyncio.get_running_loop(), None)
    if session is not None:
        await session.close()


async def _told(response: Any) -> str:
    try:
        return str((await response.json())["error"])
    except Exception:  # of something else that listens there
        return f"status {response.status}"
