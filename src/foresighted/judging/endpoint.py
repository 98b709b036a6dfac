"""A judge behind an OpenAI-compatible endpoint: hosted, vLLM, llama.cpp, `transformers serve`.

Retries with back-off are the `openai` client's own (it honours Retry-After). What is left after them is a reply with
the kind of failure. Only what no question can mend stops the evaluation: a wrong key, an unknown model or address.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foresighted.errors import ConfigError, ModelError, RunError
from foresighted.judging import rubric as rubrics
from foresighted.judging.judges import Question, Reply
from foresighted.judging.rows import TRANSIENT
from foresighted.judging.rubric import Messages, Rubric, Schema
from foresighted.judging.settings import EvaluateConfig

_log = logging.getLogger(__name__)
_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4
_EXPECTED_REPLY = 80  # tokens
_KEPT = ("text", "tokens_prompt", "tokens_completion")
_GIVE_UP = 25  # failed requests in a row, each after all its retries


@dataclass(frozen=True)
class Dialect:
    """What an endpoint takes. It starts with everything, and loses what the endpoint says it does not know."""

    schema: bool
    limit: str = "max_tokens"
    temperature: bool = True
    system: bool = True


class Cache:
    """Replies that were paid for, in one SQLite file that threads and processes share: no question is asked twice.

    Args:
        path: of the file, made if it is not there; None keeps nothing.

    Raises:
        RunError: the file cannot be opened or is something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise RunError(f"cache: {path} cannot be used ({error}); choose another --cache, or off") from None

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under a key, or None."""
        if self._connection is None:
            return None
        with self._lock:
            row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        try:
            found = json.loads(row[0]) if row else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a reply; it is on the disk when this returns.

        Raises:
            RunError: the file cannot be written.
        """
        if self._connection is None:
            return
        try:
            with self._lock:
                self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(reply)))
        except sqlite3.Error as error:
            raise RunError(f"cache: {self._path} cannot be written ({error}); free some space, then --resume") from None

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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
        from openai import OpenAI

        self._config = config
        self._rubric = rubric
        self._cache = cache
        self.model = (config.judge or "").partition(":")[2]
        if not self.model:
            raise ConfigError("judge: got 'openai:' without a model; give openai:MODEL")
        self._key = os.environ.get(config.api_key_env, "")
        if not self._key and config.base_url is None:
            raise ConfigError(
                f"judge: {config.judge} needs a key in the environment variable {config.api_key_env}; for a server of"
                " your own give --base-url"
            )
        self.base_url = config.base_url or "https://api.openai.com/v1"
        self._client = OpenAI(
            api_key=self._key or "none", base_url=self.base_url, max_retries=config.retries, timeout=config.timeout
        )
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
        self._client.close()

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
        if found is None:
            return replace(reply, failure="malformed", detail=f"{why}: {' '.join(reply.text.split())[:120]}")
        return replace(reply, verdict=found["verdict"], reason=found.get("reason"))  # type: ignore[arg-type]

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
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, messages: Messages, schema: Schema, *, first: bool = False) -> Reply:
        asked = {
            "model": self.model, "base_url": self.base_url, "messages": messages, "schema": schema,
            "structured": self._config.structured, "max_tokens": self._config.max_reply_tokens,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
        kept = self._cache.get(key)
        if kept is not None and kept.keys() <= set(_KEPT):
            return Reply(**kept, cached=True)
        if self._failing >= _GIVE_UP:
            detail = f"not asked: the endpoint failed {_GIVE_UP} times in a row"
            return Reply(failure=self._last_failure, detail=detail)
        reply = self._request(messages, schema, first=first)
        self._probed = True
        with self._lock:
            self._failing = self._failing + 1 if reply.failure in TRANSIENT else 0
            self._last_failure = reply.failure
        if reply.text is not None:
            self._settled = True
            self._cache.put(key, {name: getattr(reply, name) for name in _KEPT})
        return reply

    def _request(self, messages: Messages, schema: Schema, *, first: bool) -> Reply:
        """Send one request, in whatever dialect the endpoint takes."""
        import openai

        while True:
            dialect = self._dialect
            try:
                with self._lock:
                    self.sent += 1
                completion = self._client.chat.completions.create(**self._arguments(messages, schema, dialect))
                return _read(completion)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                text = self._said(error)
                if not self._adapt(dialect, text):
                    filtered = "content_filter" in str(getattr(error, "code", ""))
                    return Reply(failure="refused" if filtered else "rejected", detail=text)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise ModelError(
                    f"judge: {self.base_url} refuses {self.model!r} ({self._said(error)}); check --judge, --base-url"
                    f" and the key in {self._config.api_key_env}"
                ) from None
            except openai.APIConnectionError as error:  # a time-out is one, too
                timeout = isinstance(error, openai.APITimeoutError)
                if first and not timeout:
                    raise ModelError(
                        f"judge: {self.base_url} cannot be reached ({self._said(error)}); is the server running, and is"
                        " --base-url right?"
                    ) from None
                return Reply(failure="timeout" if timeout else "connection", detail=self._said(error))
            except openai.APIStatusError as error:
                return Reply(failure=_status_kind(error.status_code), detail=self._said(error))
            except (openai.OpenAIError, ValueError) as error:
                return Reply(failure="malformed", detail=self._said(error))

    def _arguments(self, messages: Messages, schema: Schema, dialect: Dialect) -> dict[str, Any]:
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

    def _adapt(self, tried: Dialect, text: str) -> bool:
        """Give up what the endpoint complains about; return whether there is anything left to try."""
        with self._lock:
            if self._dialect != tried:
                return True  # another thread has just learnt it
            new, note, said = tried, "", text.lower()
            if "max_tokens" in said and tried.limit == "max_tokens":
                new, note = replace(tried, limit="max_completion_tokens"), "asked for max_completion_tokens"
            elif "temperature" in said and tried.temperature:
                new, note = replace(tried, temperature=False), "the endpoint takes no temperature: its own was used"
            elif "system" in said and tried.system:
                new, note = replace(tried, system=False), "the endpoint takes no system message"
            elif tried.schema and self._config.structured == "auto" and not self._settled:
                new, note = replace(tried, schema=False), f"the endpoint refused a schema: {text[:80]}"
            if new == tried:
                return False
            self._dialect = new
            self.notes.append(note)
            _log.warning("judge: %s", note)
            return True

    def _said(self, error: Exception) -> str:
        """Return an error in one line, without the key."""
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        text = " ".join(str(said or getattr(error, "message", None) or error).split())[:200]
        with contextlib.suppress(Exception):
            cause = error.__cause__
            text += f": {' '.join(str(cause).split())[:100]}" if cause and str(cause) else ""
        return text.replace(self._key, "***") if self._key else text


def _read(completion: Any) -> Reply:
    """Return what a completion holds; a server may send anything with status 200."""
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (count if isinstance(count, int) else None for count in counts)
    counted = Reply(tokens_prompt=read, tokens_completion=written)
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        return replace(counted, failure="malformed", detail="no choices in the reply")
    refusal = getattr(message, "refusal", None)
    if refusal or getattr(choice, "finish_reason", None) == "content_filter":
        said = " ".join(str(refusal or "content filter").split())
        return replace(counted, failure="refused", detail=said[:200])
    content = getattr(message, "content", None)
    return replace(counted, text=content if isinstance(content, str) else "")


def _status_kind(status: int) -> str:
    return "rate_limit" if status == 429 else "timeout" if status == 408 else "server" if status >= 500 else "rejected"
