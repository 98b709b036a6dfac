"""A small HTTP server that plays an OpenAI-compatible endpoint, with faults; and files of answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Behaviour = Callable[[dict[str, Any], int], tuple[int, Any, dict[str, str]]]
"""From a request and its number (from 0) to status, body (JSON, or bytes as they are) and headers."""


def completion(content: str | None, **message: Any) -> dict[str, Any]:
    """Return the body of a chat completion."""
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "judge",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": content, **message}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }  # fmt: skip


def verdict(which: str) -> dict[str, Any]:
    """Return a completion with a valid verdict."""
    return completion(json.dumps({"reason": "because", "verdict": which}))


def answers_of(request: dict[str, Any]) -> tuple[str, str]:
    """Return the two answers that a request shows, between their fences."""
    text = request["messages"][-1]["content"]
    parts = []
    for number in (1, 2):
        after = text.split(f"=== answer {number} begins ", 1)[1].split("===\n", 1)[1]
        parts.append(after.split(f"\n=== answer {number} ends ", 1)[0])
    return parts[0], parts[1]


def honest(request: dict[str, Any], _number: int) -> tuple[int, Any, dict[str, str]]:
    """Prefer the answer that says `good`, a tie where both or none does; every prompt is of the first category."""
    form = request.get("response_format", {}).get("json_schema", {})
    properties = form.get("schema", {}).get("properties", {})
    if "category" in properties:
        return 200, completion(json.dumps({"category": properties["category"]["enum"][0]})), {}
    first, second = ("good" in text for text in answers_of(request))
    return 200, verdict("tie" if first == second else "first" if first else "second"), {}


@dataclass
class Server:
    """A running endpoint: what it was asked, and how it behaves."""

    url: str = ""
    behave: Behaviour = honest
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    delay: float = 0.0


@pytest.fixture
def server():
    """An endpoint on a free port; set `behave` to inject faults."""
    state, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the library's name
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(state.requests)
                state.requests.append(body)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            time.sleep(state.delay)
            status, reply, headers = state.behave(body, number)
            with lock:
                state.at_once -= 1
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client has given up

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{running.server_address[1]}/v1"
    yield state
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def answer_files(tmp_path) -> Callable[..., str]:
    """Write files of answers, name=texts; return what `--policies` takes."""

    def write(**texts: list[str]) -> str:
        named = []
        for name, own in texts.items():
            path = Path(tmp_path) / f"{name}.jsonl"
            rows = [
                {
                    "prompt_id": f"p{i}",
                    "prompt": f"Question {i}?",
                    "kind": "factual" if i % 2 else "deceptive",
                    "text": t,
                }
                for i, t in enumerate(own)
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            named.append(f"{name}={path}")
        return ",".join(named)

    return write


@pytest.fixture
def fake() -> Any:
    """The builders of replies, for tests that cannot import this file."""

    class Fake:
        completion = staticmethod(completion)
        verdict = staticmethod(verdict)
        answers_of = staticmethod(answers_of)
        honest = staticmethod(honest)

    return Fake


JUDGE = """
def longer(prompt, first, second):
    return 0.9 if len(first) > len(second) else 0.1 if len(first) < len(second) else 0.5

def always_first(prompt, first, second):
    return 1.0

def broken(prompt, first, second):
    if "good" in first:
        raise RuntimeError("boom")
    return 2.0

class Known:
    def __call__(self, prompts, first, second):
        return [0.5] * len(first)

    def utility(self, prompts, responses):
        return [float("good" in r) for r in responses]

known = Known()
"""


@pytest.fixture
def judge_file(tmp_path):
    path = tmp_path / "judge.py"
    path.write_text(JUDGE)
    return path


@pytest.fixture
def files(answer_files):
    """Return a configuration with answers from files in place of its policies: name=texts."""

    def files(config, **texts):
        return replace(config, prompts=None, split="auto", policies=tuple(answer_files(**texts).split(",")))

    return files
