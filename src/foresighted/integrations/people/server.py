"""The page's server: a few small answers in JSON, one page, and headers under which text from a model runs nothing."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from foresighted.errors import ForesightedError
from foresighted.integrations.people.desk import Asked, Desk, RefusedError
from foresighted.integrations.people.gate import Gate

_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_MOST = 10_000
"""Bytes of a request."""
_KINDS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_GUIDELINES = "<!-- guidelines -->"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(desk: Desk, gate: Gate, guidelines: str = "") -> FastAPI:
    """Return the server.

    Args:
        desk: hands out pairs and takes answers.
        gate: knows who may.
        guidelines: Markdown; HTML inside it is shown as text.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    page = _file("page.html").replace(_GUIDELINES, _rendered(guidelines))

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = _refused(request, gate)
        response = await call(request) if refused is None else _said(refused[1], refused[0])
        response.headers.update(_HEADERS)
        return response

    @app.get("/")
    async def show(request: Request) -> Response:
        if (token := request.query_params.get("token")) is not None:
            person = gate.by_token(token)
            if person is None:
                raise HTTPException(403)
            return _remembered(RedirectResponse("/", status_code=303), gate, person)
        return Response(page, media_type=_KINDS["page.html"])

    @app.get("/{name}.{kind}")
    async def part(name: str, kind: str) -> Response:
        file = f"{name}.{kind}"
        if file not in ("page.css", "page.js"):
            raise HTTPException(404)
        return Response(_file(file), media_type=_KINDS[file])

    @app.get("/state")
    async def state(request: Request) -> Response:
        return _state(desk, gate, _person(request, gate))

    @app.post("/name")
    async def name(request: Request) -> Response:
        person = gate.named((await _body(request)).get("name"))
        if person is None:
            raise HTTPException(403)
        return _remembered(_state(desk, gate, person), gate, person)

    @app.post("/answer")
    async def answer(request: Request) -> Response:
        person, said = _person(request, gate, must=True), await _body(request)
        if said.get("ask") not in ("new", "swapped", "again") or said.get("choice") not in ("1", "2", "0", "s"):
            raise RefusedError("this is no answer of the page; load it again")
        desk.answer(person, str(said.get("id")), said["ask"], said["choice"], _seconds(said.get("seconds")))
        return _state(desk, gate, person)

    @app.post("/undo")
    async def undo(request: Request) -> Response:
        person = _person(request, gate, must=True)
        undone = desk.undo(person)
        return _state(desk, gate, person, undone=undone)

    _tell_errors(app)
    return app


def _tell_errors(app: FastAPI) -> None:
    """Have errors answered in one line that the page shows."""

    @app.exception_handler(HTTPException)
    async def nothing(_: Request, error: HTTPException) -> Response:
        told = {401: "say who you are first", 403: "this needs the link that you were given"}
        return _said(told.get(error.status_code, "nothing is here"), error.status_code)

    @app.exception_handler(RefusedError)
    async def wrong(_: Request, error: RefusedError) -> Response:
        return _said(str(error), 409)

    @app.exception_handler(ForesightedError)
    @app.exception_handler(OSError)
    async def away(_: Request, error: Exception) -> Response:
        _log.warning("%s", error)  # the page names no path of this machine, and tries again
        return _said("the queue cannot be read or written", 503)


def _refused(request: Request, gate: Gate) -> tuple[int, str] | None:
    """Return why a request is not looked at, before anything of it is read."""
    host = request.headers.get("host", "")
    if not gate.may_ask(host):
        return 421, "open the address that the command printed"
    if request.method in ("GET", "HEAD"):
        return None
    origin, form = request.headers.get("origin"), request.headers.get("x-form")
    if not gate.may_change(host, origin, gate.by_session(request.cookies.get(gate.cookie)), form):
        return 403, "this did not come from the page, or its session is over; load it again"
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return 415, "this did not come from the page"
    length = request.headers.get("content-length", "")
    return None if length.isdigit() and int(length) <= _MOST else (413, "this is too long for an answer")


def _person(request: Request, gate: Gate, *, must: bool = False) -> Any:
    person = gate.by_session(request.cookies.get(gate.cookie))
    if person is None and must:
        raise HTTPException(401)
    return person


async def _body(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await request.body())
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise RefusedError("this is no answer of the page; load it again")
    return said


def _seconds(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def _state(desk: Desk, gate: Gate, person: str | None, **more: Any) -> Response:
    """Return all that the page shows a person."""
    if person is None:
        return _json({"person": None, "link": gate.named("a") is None})
    asked, progress = desk.ask(person), desk.progress(person)
    shown = None if asked is None else _shown(asked)
    return _json(
        {"person": person, "form": gate.form(person), "pair": shown, "answered": progress.answered,
         "open": progress.open, "seconds": progress.seconds} | more
    )  # fmt: skip  # one mapping


def _shown(asked: Asked) -> dict[str, Any]:
    first, second = asked.responses
    return {"id": asked.question.id, "ask": asked.ask, "prompt": asked.question.prompt, "responses": [first, second]}


def _remembered(response: Response, gate: Gate, person: str) -> Response:
    response.set_cookie(gate.cookie, gate.session(person), max_age=31_536_000, httponly=True, samesite="strict")
    return response


def _said(text: str, status: int) -> Response:
    return _json({"error": text}, status)


def _json(value: Any, status: int = 200) -> Response:
    """Return JSON in ASCII: a response may hold half of a surrogate pair, which UTF-8 does not have."""
    return Response(json.dumps(value, ensure_ascii=True), status, media_type="application/json")


@lru_cache(maxsize=8)
def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _rendered(guidelines: str) -> str:
    """Return guidelines as HTML, in a part that opens; nothing where there are none."""
    if not guidelines.strip():
        return ""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(guidelines)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):  # the page's own is the only one of the first rank
            token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"
    body = reader.renderer.render(tokens, reader.options, {})
    return f'<details id="guidelines" open><summary>Guidelines</summary>{body}</details>'
