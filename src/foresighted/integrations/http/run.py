"""`foresighted serve`: an owner and its server, from settings to the end of the process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from foresighted.errors import ConfigError
from foresighted.integrations.http.app import make_app
from foresighted.integrations.http.config import ServeConfig
from foresighted.integrations.owner import RewardOwner
from foresighted.integrations.owner.folder import sign


def serve(config: ServeConfig, out: Path, *, said: Callable[[str], None] = lambda _: None) -> None:
    """Open the owner of a folder, and answer until SIGTERM or Ctrl-C.

    Args:
        config: settings.
        out: the owner's folder.
        said: takes the address, once it is listened on.

    Raises:
        ConfigError: an address that cannot be listened on, or one that needs a token.
        ForesightedError: what `RewardOwner.open` raises.
    """
    token = config.token()
    listening = _listen(config)
    try:
        owner = RewardOwner.open(out, config.owner)
        address = "http://{}:{}".format(*listening.getsockname()[:2])
        sign(out, address)
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
        ):  # uvicorn ends, then raises them again
            signal.signal(number, lambda *_: None)
        said(address)
        asyncio.run(_answer(owner, config, token, listening))
    finally:
        listening.close()


def _listen(config: ServeConfig) -> socket.socket:
    try:
        kind = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        found = socket.socket(kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((config.host, config.port))
        found.listen(2048)  # who comes before uvicorn does waits
    except OSError as error:
        raise ConfigError(
            f"host: cannot listen on {config.host}:{config.port} ({error.strerror}); choose another"
        ) from None
    return found


async def _answer(owner: RewardOwner, config: ServeConfig, token: str | None, listening: socket.socket) -> None:
    try:
        await server(owner, config, token).serve([listening])
    finally:
        await owner.close()


def server(owner: RewardOwner, config: ServeConfig, token: str | None) -> uvicorn.Server:
    """Return what answers for an open owner; arguments as those of `make_app`."""
    settings = uvicorn.Config(
        make_app(owner, config, token), log_level="warning", access_log=False, timeout_graceful_shutdown=30,
        server_header=False,
    )  # fmt: skip
    return uvicorn.Server(settings)
