"""The line to an endpoint: openai's own client, held within a time and a size, and to the host that was named.

A reply may come a byte a minute, never end, unpack to gigabytes, or send its reader elsewhere. So a try has a deadline
from its first byte out to its last byte in, a body has a largest size, packed or not, and a redirection is followed on
the same host only. All of it runs in one event loop of its own thread: whoever waits for a reply can be let go at once.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import zlib
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any

LARGEST = 8 << 20
"""Bytes of a body, packed or not; what is beyond is never read."""
_HOPS = 5
_CUT = "foresighted_cut"


class Line:
    """Requests to one endpoint, from any thread.

    Args:
        key: of the endpoint.
        base_url: its address.
        retries: tries after the first, with openai's own back-off.
        timeout: seconds that one try may take as a whole.
    """

    def __init__(self, key: str, base_url: str, *, retries: int, timeout: float) -> None:
        self._key, self._base_url, self._retries, self._timeout = key, base_url, retries, timeout
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._thread: threading.Thread | None = None
        self._open: set[Future[Any]] = set()
        self._stopped = False

    def create(self, **arguments: Any) -> bytes | None:
        """Return the body of a chat completion, or None where it is larger than `LARGEST`.

        Raises:
            openai.OpenAIError: a status, a connection or a time-out, after all retries.
            concurrent.futures.CancelledError: `stop` was called.
        """
        raw = self._wait(self._created(arguments))
        return None if raw.http_response.extensions.get(_CUT) else raw.http_response.content

    async def _created(self, arguments: dict[str, Any]) -> Any:
        if self._client is None:
            self._client = _client(self._key, self._base_url, self._retries, self._timeout)
        return await self._client.chat.completions.with_raw_response.create(**arguments)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        with self._lock:
            if self._stopped:
                work.close()
                raise CancelledError
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="foresighted-judge")
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._open.add(future)
        try:
            return future.result()
        finally:
            if future.done():
                self._open.discard(future)

    def stop(self) -> None:
        """Let everybody go who waits for a reply; nothing is sent any more."""
        with self._lock:
            self._stopped = True
            waiting = list(self._open)
        for future in waiting:
            future.cancel()

    def close(self) -> None:
        """End what is under way and close the connections."""
        self.stop()
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._closed(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None

    async def _closed(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.close()


def _client(key: str, base_url: str, retries: int, timeout: float) -> Any:
    import openai

    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        log = logging.getLogger(name)
        log.setLevel(max(log.level, logging.WARNING))  # below it they write headers, and what an endpoint echoes
    return openai.AsyncOpenAI(
        api_key=key or "none", base_url=base_url, max_retries=retries, timeout=timeout, http_client=_bounded(timeout),
        default_headers={"Accept-Encoding": "identity"},
    )  # fmt: skip


def _bounded(timeout: float) -> Any:
    """Return an HTTP client of the library that openai uses, held within time, size and host."""
    import openai

    of = next(one for one in openai.DefaultAsyncHttpxClient.__mro__ if one.__name__ == "AsyncClient")
    web = importlib.import_module(of.__module__.partition(".")[0])  # httpx, or httpx2 from openai 3 on

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **given: Any) -> Any:
            try:
                async with asyncio.timeout(timeout):
                    return await self._sent(request, {**given, "stream": True, "follow_redirects": False})
            except TimeoutError:
                raise web.ReadTimeout(f"no whole reply within {timeout:g} s", request=request) from None

        async def _sent(self, request: Any, given: dict[str, Any]) -> Any:
            for _ in range(_HOPS):
                response = await super().send(request, **given)
                try:
                    body, cut = await _body(response)
                finally:
                    await response.aclose()
                goal = response.next_request
                if response.status_code not in (307, 308) or goal is None or not _same_host(request.url, goal.url):
                    break
                request = goal
            headers = {k: v for k, v in response.headers.items() if k.lower() not in _OF_A_BODY}
            return web.Response(
                response.status_code, headers=headers, content=body, request=request, extensions={_CUT: cut}
            )

    return Bounded(timeout=timeout)


_OF_A_BODY = ("content-encoding", "content-length", "transfer-encoding")


async def _body(response: Any) -> tuple[bytes, bool]:
    """Return a body, unpacked, and whether it was cut at `LARGEST`."""
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            return b"".join(parts)[:LARGEST], True
    data = b"".join(parts)
    if response.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate"):
        try:
            data = zlib.decompressobj(wbits=47).decompress(data, LARGEST + 1)
        except zlib.error:
            return data, False  # no JSON, and said so
    return data[:LARGEST], len(data) > LARGEST


def _same_host(one: Any, other: Any) -> bool:
    upgrade = (one.scheme, other.scheme, one.port, other.port) == ("http", "https", None, None)
    same = (one.scheme, one.port) == (other.scheme, other.port)
    return one.host == other.host and (same or upgrade)
