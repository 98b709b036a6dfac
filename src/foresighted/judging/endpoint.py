"""A judge behind an OpenAI-compatible endpoint: hosted, vLLM, llama.cpp, `transformers serve`.

Retries with back-off are the `openai` client's own (it honours Retry-After). What is left after them is a reply with
the kind of failure. Only what no question can mend stops the evaluation: a wrong key, an unknown model or address.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from foresighted.errors import ConfigError, ModelError
from foresighted.judging import rubric as rubrics
from foresighted.judging.cache import Cache
from foresighted.judging.judges import Question, Reply
from foresighted.judging.key import Key
from foresighted.judging.line import LARGEST, Line
from foresighted.judging.rows import TRANSIENT
from foresighted.judging.rubric import Messages, Rubric, Schema
from foresighted.judging.settings import EvaluateConfig
from foresighted.settings import to_mapping
from foresighted.texts import printable

_log = logging.getLogger(__name__)
_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4
_EXPECTED_REPLY = 80  # tokens
_KEPT = ("text", "tokens_prompt", "tokens_completion", "cut")
_GIVE_UP = 25  # failed requests in a row, each after all its retries
_SAID = 200  # characters of what an endpoint says
_LONGEST = 10_000  # of them that are looked at
_MOST_TOKENS = 2**53
_TOO_LONG = re.compile(
    r"context.?(?:length|window|size)|maximum context|max_model_len|sequence length|prompt is too long|reduce the"
    r"|(?:input|prompt|request|message)s? (?:is|are|was|were)? ?too (?:long|large)|too many (?:input )?tokens"
    r"|exceeds? the (?:available|max|model)|input tokens",
    re.IGNORECASE,
)
"""How endpoints say that a question is too long: that it is, says nothing of what else they take."""


@dataclass(frozen=True)
class Dialect:
    """What an endpoint takes. It starts with everything, and loses what the endpoint says it does not know."""

    schema: bool
    limit: str = "max_tokens"
    temperature: bool = True
    system: bool = True


class Endpoint:
    """A judge that is asked over HTTP, until `close`.

    Args:
        config: model, address, limits. The key is read from the environment and kept nowhere.
        rubric: what it judges by.
        cache: replies that were paid for.

    Raises:
        ConfigError: no key for an endpoint that needs one.
    """

    def __init__(self, config: EvaluateConfig, rubric: Rubric, cache: Cache) -> None:
        import openai  # noqa: F401  # that it is there shows now

        self._config = config
        self._rubric = rubric
        self._cache = cache
        self.model = (config.judge or "").partition(":")[2]
        if not self.model:
            raise ConfigError("judge: got 'openai:' without a model; give openai:MODEL")
        self._key = Key(config.api_key_env)
        for name, value in to_mapping(config).items():
            if self._key.within(str(value)):
                raise ConfigError(f"{name}: holds the key of {config.api_key_env}; it belongs in that variable alone")
        if not self._key.value and config.base_url is None:
            raise ConfigError(
                f"judge: {config.judge} needs a key in the environment variable {config.api_key_env}; for a server of"
                " your own give --base-url"
            )
        self.base_url = config.base_url or "https://api.openai.com/v1"
        self._line = Line(self._key.value, self.base_url, retries=config.retries, timeout=config.timeout)
        self._dialect = Dialect(schema=config.structured != "text")
        self._lock = threading.Lock()
        self._probed = self._settled = False
        self._failing = 0
        self._last_failure: str | None = None
        self._bare = self._wrapped = 0
        self.sent = 0
        self.category_tokens = [0, 0]
        self.notes: list[str] = []

    def close(self) -> None:
        """Close cache and connections."""
        self._cache.close()
        self._line.close()

    @property
    def asked(self) -> bool:
        """Whether any reply was read, cached or not, so that `mode` means something."""
        return self._bare + self._wrapped > 0 or bool(self.notes)

    @property
    def mode(self) -> str:
        """How it was asked for structured output, and what came of it, in words."""
        if not self._dialect.schema:
            refused = next((note for note in self.notes if "schema" in note), "as asked for")
            text = f"JSON in text, validated ({refused})"
        elif self._wrapped > self._bare:
            text = "JSON in text, validated (a schema was asked for, and the endpoint did not keep to it)"
        else:
            text = "output by JSON schema, validated"
        others = [note for note in self.notes if "schema" not in note]
        return "; ".join([text, *others])

    def estimate(self, question: Question) -> int:
        """Return about how many tokens a question costs: one for four bytes read, and 80 written."""
        return self._estimate(rubrics.verdict_messages(self._rubric, *question))

    def estimate_category(self, prompt: str) -> int:
        """Return about how many tokens the category of a prompt costs."""
        return self._estimate(rubrics.category_messages(self._rubric, prompt))

    def _estimate(self, messages: Messages) -> int:
        sizes = [len(message["content"].encode("utf-8", "surrogatepass")) for message in messages]
        read = sum(size // _BYTES_A_TOKEN + _TOKENS_A_MESSAGE for size in sizes)
        return read + min(_EXPECTED_REPLY, self._config.max_reply_tokens)

    def ask(self, questions: Iterable[Question]) -> Iterator[Reply]:
        """Yield one reply a question, in order, several requests at a time.

        Raises:
            ModelError: the endpoint cannot be reached, or refuses the key or the model.
        """
        tasks = ((rubrics.verdict_messages(self._rubric, *question), rubrics.VERDICT) for question in questions)
        yield from map(self._verdict, self._ask_all(tasks))

    def categories(self, prompts: Iterable[str]) -> Iterator[str | None]:
        """Yield the category of each prompt; None where the judge names none."""
        schema = rubrics.category_schema(self._rubric)
        tasks = ((rubrics.category_messages(self._rubric, prompt), schema) for prompt in prompts)
        for reply in self._ask_all(tasks):
            for place, tokens in enumerate((reply.tokens_prompt, reply.tokens_completion)):
                self.category_tokens[place] += tokens or 0
            found = rubrics.read_reply(reply.text, schema)[0] if reply.text is not None else None
            yield found["category"] if found else None

    def _verdict(self, reply: Reply) -> Reply:
        if reply.text is None:
            return reply
        found, why = rubrics.read_reply(reply.text, rubrics.VERDICT)
        bare = reply.text.strip().startswith("{") and reply.text.strip().endswith("}")
        self._bare, self._wrapped = self._bare + bare, self._wrapped + (not bare)
        if found is None and reply.cut:
            told = f"the reply ended at {self._config.max_reply_tokens} tokens (finish_reason=length) without a verdict"
            return replace(reply, failure="cut", detail=f"{told}; raise --max-reply-tokens")
        if found is None:
            return replace(reply, failure="malformed", detail=f"{why}: {self._line_of(reply.text[:_LONGEST])[:120]}")
        reason = self._key.masked(found["reason"]) if "reason" in found else None
        return replace(reply, verdict=found["verdict"], reason=reason)  # type: ignore[arg-type]

    def _ask_all(self, tasks: Iterable[tuple[Messages, Schema]]) -> Iterator[Reply]:
        waiting: deque[Future[Reply]] = deque()
        pool = ThreadPoolExecutor(self._config.concurrency)
        try:
            for task in tasks:
                if not self._probed:  # the first request alone shows what the endpoint takes, and whether it is there
                    yield self._one(*task, first=True)
                    continue
                waiting.append(pool.submit(self._one, *task))
                if len(waiting) > 2 * self._config.concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if waiting:  # nobody reads on: an interrupt, or an error
                self._line.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, messages: Messages, schema: Schema, *, first: bool = False) -> Reply:
        asked = {
            "model": self.model, "base_url": self.base_url, "messages": messages, "schema": schema,
            "structured": self._config.structured, "max_tokens": self._config.max_reply_tokens,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
        kept = self._cache.get(key)
        if kept is not None and kept.keys() <= set(_KEPT):
            read, written = _count(kept.get("tokens_prompt")), _count(kept.get("tokens_completion"))
            text, cut = self._key.masked(kept["text"]), kept.get("cut") is True
            return Reply(text=text, tokens_prompt=read, tokens_completion=written, cut=cut, cached=True)
        if self._failing >= _GIVE_UP:
            detail = f"not asked: the endpoint failed {_GIVE_UP} times in a row"
            return Reply(failure=self._last_failure, detail=detail)
        reply = self._request(messages, schema, first=first)
        self._probed = True
        with self._lock:
            self._failing = self._failing + 1 if reply.failure in TRANSIENT else 0
            self._last_failure = reply.failure
        if reply.text is not None:
            self._cache.put(key, {name: getattr(reply, name) for name in _KEPT})
        return reply

    def _request(self, messages: Messages, schema: Schema, *, first: bool) -> Reply:
        """Send one request, in whatever dialect the endpoint takes; what it refuses is given up once it has answered
        without."""
        import openai

        known = dialect = self._dialect
        learnt: list[str] = []
        while True:
            try:
                with self._lock:
                    self.sent += 1
                reply = self._read(self._line.create(**self._arguments(messages, schema, dialect)))
                self._learn(dialect, learnt)
                return reply
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                text = self._said(error)
                if "content_filter" in str(getattr(error, "code", "")):
                    return Reply(failure="refused", detail=text)
                if known != self._dialect:  # another thread has just learnt it
                    known = dialect = self._dialect
                    learnt.clear()
                    continue
                other = None if self._settled or _TOO_LONG.search(text) else self._other(dialect, text)
                if other is None:
                    return Reply(failure="rejected", detail=text)
                dialect, note = other
                learnt.append(note)
            except openai.APIConnectionError as error:  # a time-out is one, too
                timeout = isinstance(error, openai.APITimeoutError)
                if first and not timeout:
                    raise ModelError(
                        f"judge: {self.base_url} cannot be reached ({self._said(error)}); is the server running, and is"
                        " --base-url right?"
                    ) from None
                return Reply(failure="timeout" if timeout else "connection", detail=self._said(error))
            except openai.APIStatusError as error:
                self._stop_at(error)
                return Reply(failure=_status_kind(error.status_code), detail=self._said(error))
            except (openai.OpenAIError, ValueError, RecursionError) as error:
                return Reply(failure="malformed", detail=self._said(error))

    def _stop_at(self, error: Any) -> None:
        """Raise a `ModelError` for a status that every question would meet."""
        if 300 <= error.status_code < 400:
            goal = printable(self._key.masked(str(error.response.headers.get("location", "")))[:_SAID])
            raise ModelError(
                f"judge: {self.base_url} sends its readers on to {goal or 'nowhere'} ({error.status_code}), which is"
                " not followed (to another host never, on the same one by 307 and 308, five times): keys and answers go"
                " to the host that was named; if that address is right, give it as --base-url"
            ) from None
        if error.status_code in (401, 402, 403, 404):
            raise ModelError(
                f"judge: {self.base_url} refuses {self.model!r} ({self._said(error)}); check --judge, --base-url"
                f" and the key in {self._config.api_key_env}"
            ) from None

    def _arguments(self, messages: Messages, schema: Schema, dialect: Dialect) -> dict[str, Any]:
        messages = [{name: _sendable(text) for name, text in message.items()} for message in messages]
        if not dialect.system:
            messages = [{"role": "user", "content": "\n\n".join(m["content"] for m in messages)}]
        limit = {dialect.limit: self._config.max_reply_tokens}
        arguments: dict[str, Any] = {"model": self.model, "messages": messages, **limit}
        if dialect.temperature:
            arguments["temperature"] = 0.0
        if dialect.schema:
            form = {"name": "reply", "strict": True, "schema": schema}
            arguments["response_format"] = {"type": "json_schema", "json_schema": form}
        return arguments

    def _other(self, tried: Dialect, text: str) -> tuple[Dialect, str] | None:
        """Return what to try in place of what the endpoint complains about, and what to say of it if it helps."""
        said = text.lower()
        if "max_tokens" in said and tried.limit == "max_tokens":
            return replace(tried, limit="max_completion_tokens"), "asked for max_completion_tokens"
        if "temperature" in said and tried.temperature:
            return replace(tried, temperature=False), "the endpoint takes no temperature: its own was used"
        if "system" in said and tried.system:
            return replace(tried, system=False), "the endpoint takes no system message"
        if tried.schema and self._config.structured == "auto":
            return replace(tried, schema=False), f"the endpoint refused a schema: {text[:80]}"
        return None

    def _learn(self, dialect: Dialect, notes: list[str]) -> None:
        """Keep to a dialect that was answered; from then on a refusal is about its question."""
        with self._lock:
            if not self._settled:
                self._settled, self._dialect = True, dialect
                self.notes += notes
                for note in notes:
                    _log.warning("judge: %s", note)

    def _said(self, error: Any) -> str:
        """Return what an error says in one line, without the key."""
        body = getattr(error, "body", None)
        said = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        text = str(said or getattr(error, "message", None) or error)
        with contextlib.suppress(Exception):
            cause = str(error.__cause__ or "")
            text += f": {cause[:_SAID]}" if cause else ""
        return self._line_of(text)

    def _line_of(self, text: str) -> str:
        """Return what an endpoint says in one short line that can be printed, without the key."""
        return printable(" ".join(self._key.masked(text[:_LONGEST]).split())[:_SAID])

    def _read(self, body: bytes | None) -> Reply:
        """Return what the body of a completion holds; a server may send anything with status 200."""
        if body is None:
            return Reply(failure="malformed", detail=f"a reply of more than {LARGEST >> 20} MiB")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return Reply(failure="malformed", detail=f"no JSON: {self._line_of(body[:_SAID].decode(errors='replace'))}")
        usage = _mapping(found, "usage")
        read, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        counted = Reply(tokens_prompt=read, tokens_completion=written)
        choices = found.get("choices") if isinstance(found, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        if not isinstance(choice.get("message"), dict):
            failed = _mapping(found, "error")
            told = self._line_of(str(failed.get("message") or "")) or "no choices in the reply"
            code = failed.get("code")
            kind = _status_kind(code) if isinstance(code, int) and code >= 400 else "malformed"
            return replace(counted, failure=kind, detail=told)
        refusal = choice["message"].get("refusal")
        if refusal or choice.get("finish_reason") == "content_filter":
            return replace(counted, failure="refused", detail=self._line_of(str(refusal or "content filter")))
        text = self._key.masked(_content(choice["message"])[-2 * rubrics.LONGEST :])
        return replace(counted, text=text, cut=choice.get("finish_reason") == "length")


def _mapping(found: Any, name: str) -> dict[str, Any]:
    inside = found.get(name) if isinstance(found, dict) else None
    return inside if isinstance(inside, dict) else {}


def _content(message: dict[str, Any]) -> str:
    """Return the text of a message, which may come in parts; thoughts have parts of their own."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def _count(value: Any) -> int | None:
    """Return a number of tokens, or None where it can be none."""
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None


def _sendable(text: str) -> str:
    """Return a text as UTF-8 can hold it: half a surrogate pair is replaced."""
    return text.encode("utf-8", "replace").decode()


def _status_kind(status: int) -> str:
    return "rate_limit" if status == 429 else "timeout" if status == 408 else "server" if status >= 500 else "rejected"
