"""The routes of a server: rewards by group, OpenRLHF's protocol, answers of people, health and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from foresighted import __version__
from foresighted.errors import DataError, ForesightedError, NumericalError
from foresighted.inputs import shown
from foresighted.integrations.http import messages
from foresighted.integrations.http.config import ServeConfig
from foresighted.integrations.http.guard import Guard
from foresighted.integrations.http.metrics import Metrics
from foresighted.integrations.http.stock import Sample, samples
from foresighted.integrations.owner import Answer, GroupIncomplete, RewardOwner
from foresighted.labels.answers import Answer as Said
from foresighted.labels.queue import FileQueue

RETRY_AFTER = 1
"""Seconds after which a client that found the queue full may try again."""
_FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": messages.Fault, "description": "no JSON, or none that is read here"},
    401: {"model": messages.Fault, "description": "no token, or another one"},
    409: {"model": messages.Fault, "description": "nobody waits for this"},
    413: {"model": messages.Fault, "description": "a body that is too large"},
    422: {"model": messages.Fault, "description": "values that cannot be used"},
    500: {"model": messages.Fault, "description": "a reward that is not finite, or a fault of the server"},
    503: {"model": messages.Fault, "description": "too many responses wait, or nothing is scored any more"},
    504: {"model": messages.Fault, "description": "a group that was incomplete at its deadline"},
}


class Full(Exception):  # noqa: N818  # a state, not an error
    """As many responses wait as may."""


class Server:
    """Answers requests with an owner.

    Args:
        owner: open.
        config: limits.
    """

    def __init__(self, owner: RewardOwner, config: ServeConfig) -> None:
        self.owner, self.config, self.metrics = owner, config, Metrics()

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Count responses that wait, for a `with` block.

        Raises:
            Full: there are too many; nothing of the request is begun.
        """
        if self.metrics.waiting and self.metrics.waiting + count > self.config.waiting:
            raise Full
        self.metrics.waiting += count
        try:
            yield
        finally:
            self.metrics.waiting -= count

    async def score(self, asked: messages.GroupRequest | messages.MemberRequest) -> messages.ScoreResponse:
        """Return what the responses of a request are paid: of a whole group, or one of a group that is held for it."""
        prompt = messages.plain(asked.prompt)
        references = None if asked.references is None else [messages.plain(text) for text in asked.references]
        more: Any = {"step": asked.step, "evaluation": asked.evaluation, "references": references}
        if isinstance(asked, messages.GroupRequest):
            responses = [messages.plain(text) for text in asked.responses]
            with self.room(len(responses)):
                found = await self.owner.score_group(asked.run, asked.group, prompt, responses, **more)
        else:
            place, response = (asked.run, asked.group, asked.member, asked.size), messages.plain(asked.response)
            with self.room(1):
                found = [await self.owner.score(*place, prompt, response, **more)]
        return messages.ScoreResponse(answers=[paid(answer) for answer in found])

    async def openrlhf(self, asked: messages.OpenRLHFRequest) -> messages.OpenRLHFResponse:
        """Return what OpenRLHF reads of the samples of a request."""
        every = samples(asked, self.config.end_tokens)
        with self.room(len(every)):
            found = await asyncio.gather(*map(self._one, every))
        logs: dict[str, list[float]] = {
            name: [float(getattr(answer, name)) for answer in found] for name in ("penalty", "version", "foresight")
        }
        rewards, scores = [answer.reward for answer in found], [answer.score for answer in found]
        return messages.OpenRLHFResponse(rewards=rewards, scores=scores, extra_logs=logs if found else {})

    async def _one(self, sample: Sample) -> Answer:
        group = sample.group
        if group is None:
            group = self.owner.name_of_retry(sample.run, sample.digest)
        return await self.owner.score(
            sample.run, group, sample.member, sample.size, sample.prompt, sample.response, step=sample.step,
            evaluation=sample.evaluation, references=sample.references,
        )  # fmt: skip

    async def feedback(self, asked: messages.FeedbackRequest) -> messages.FeedbackResponse:
        """Write answers of people to the queue."""
        queue = self.owner.queue
        if not isinstance(queue, FileQueue):
            raise Unwanted("labels: nobody asks people here; start the server with --labels FOLDER/")
        strange = [one.id for one in asked.labels if one.id not in queue.questions()]
        if strange:
            raise DataError(f"labels: {shown(strange[0])} is the id of no question; see questions.jsonl of the queue")
        await asyncio.to_thread(queue.answer, [Said(one.id, one.label, by=one.by) for one in asked.labels])
        return messages.FeedbackResponse(taken=len(asked.labels))


class Unwanted(ForesightedError):  # noqa: N818  # no error of the user's
    """A request that this server has no use for."""


STATUS = {DataError: 422, Unwanted: 409, GroupIncomplete: 504, NumericalError: 500}
"""Errors of ours; any other one is 503."""


def paid(answer: Answer) -> messages.Paid:
    """Return an answer as it is sent."""
    return messages.Paid(**answer.row(), influence=-answer.penalty)  # type: ignore[arg-type]


def make_app(owner: RewardOwner, config: ServeConfig, token: str | None) -> Any:
    """Return the ASGI application of an open owner.

    Args:
        owner: open.
        config: limits.
        token: that requests must carry; None: none.
    """
    server = Server(owner, config)
    app = FastAPI(title="foresighted", version=__version__, description=__doc__, docs_url=None, redoc_url=None)
    if token is not None:
        app.openapi_tags = [{"name": "Authorization: Bearer TOKEN", "description": "on every path but /health"}]
    said: dict[str, Any] = {"responses": _FAULTS}
    app.post("/score", response_model=messages.ScoreResponse, **said)(server.score)
    app.post("/openrlhf", response_model=messages.OpenRLHFResponse, **said)(server.openrlhf)
    app.post("/feedback", response_model=messages.FeedbackResponse, **said)(server.feedback)

    @app.get("/health", response_model=messages.Health, responses={503: {"model": messages.Health}})
    async def health(response: Response) -> messages.Health:
        """Say whether responses are scored."""
        status = await owner.status()
        fine = not (status["fault"] or status["closed"])
        response.status_code = 200 if fine else 503
        return messages.Health(status="ok" if fine else "stopped", version=status["version"])

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Return counters in Prometheus' text format."""
        return PlainTextResponse(server.metrics.text(await owner.status()))

    @app.get("/status")
    async def status() -> dict[str, Any]:
        """Return what the owner has done and what it waits for."""
        return await owner.status()

    _tell_faults(app, server)
    return Guard(app, token, config.body_limit)


def _tell_faults(app: FastAPI, server: Server) -> None:
    """Have every error be one line of JSON, and every request counted."""

    @app.exception_handler(ForesightedError)
    async def ours(_: Request, error: ForesightedError) -> JSONResponse:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 503)
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(Full)
    async def full(_: Request, __: Full) -> JSONResponse:
        told = f"waiting: {server.metrics.waiting} responses wait already; ask again in {RETRY_AFTER} s"
        return JSONResponse({"error": told}, 503, {"Retry-After": str(RETRY_AFTER)})

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
        return JSONResponse({"error": f"{where[:120]}: {first['msg'][:200]}{more}"}, 422)

    @app.middleware("http")
    async def counted(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        began, status = time.monotonic(), 500
        try:
            response = await handle(request)
            status = response.status_code
            return response
        finally:
            known = request.url.path in ("/score", "/openrlhf", "/feedback", "/health", "/metrics", "/status")
            server.metrics.add(request.url.path if known else "other", status, time.monotonic() - began)
