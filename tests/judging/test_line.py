"""The line to an endpoint: bounds of time and size, the host that was named, and keys that nobody sees."""

from __future__ import annotations

import gzip
import json
import socketserver
import sqlite3
import threading
import time
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import replace

import pytest

from foresighted.errors import ConfigError, ModelError, RunError
from foresighted.judging.cache import Cache
from foresighted.judging.endpoint import Endpoint
from foresighted.judging.judges import Question
from foresighted.judging.rubric import PAPER
from foresighted.judging.run import evaluate
from foresighted.judging.settings import EvaluateConfig

KEY = "sk-Line0123456789abcdefghij"
QUESTIONS = [Question(f"Question {i}?", f"good {i}", f"bad {i}") for i in range(4)]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")  # as a file of secrets leaves it


@pytest.fixture
def config(server) -> EvaluateConfig:
    return EvaluateConfig(
        policies=("a=x", "b=y"), judge="openai:judge", base_url=server.url, retries=0, timeout=5, concurrency=2
    )


def _ask(config, questions=QUESTIONS, cache=None):
    with closing(Endpoint(config, PAPER, Cache(cache))) as judge:
        return list(judge.ask(questions)), judge


class _Drip(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(65536)
        try:
            for _ in range(200):
                self.request.sendall(b"HTTP/1.1 200 OK\r\n"[:1])
                time.sleep(0.05)
        except OSError:
            pass


@pytest.fixture
def drip():
    """An endpoint that sends a byte every twentieth of a second."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Drip) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1"
        running.shutdown()


def test_a_reply_that_drips_ends_at_the_deadline(config, drip):
    began = time.monotonic()
    replies, _ = _ask(replace(config, base_url=drip, timeout=0.3), QUESTIONS[:1])
    assert replies[0].failure == "timeout"
    assert time.monotonic() - began < 5


def test_who_stops_reading_waits_for_no_reply(config, drip):
    judge = Endpoint(replace(config, base_url=drip, timeout=60), PAPER, Cache(None))
    judge._probed = True
    replies = judge.ask(QUESTIONS)
    threading.Timer(0.5, judge._line.stop).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        next(replies)
    replies.close()
    judge.close()
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_body_without_end_is_cut_and_named(server, config, fake):
    whole = json.dumps(fake.verdict("first")).encode()
    server.behave = lambda *_: (200, whole + b" " * (9 << 20), {})
    assert "more than 8 MiB" in (_ask(config, QUESTIONS[:1])[0][0].detail or "")
    server.behave = lambda *_: (200, gzip.compress(b" " * (64 << 20)), {"Content-Encoding": "gzip"})
    assert "more than 8 MiB" in (_ask(config, QUESTIONS[:1])[0][0].detail or "")
    server.behave = lambda *_: (200, gzip.compress(whole), {"Content-Encoding": "gzip"})
    assert _ask(config, QUESTIONS[:1])[0][0].verdict == "first"


def test_a_redirection_is_followed_on_the_same_host_only(server, config, fake):
    def moved(request, number):
        return (307, b"", {"Location": "/v1/there"}) if number == 0 else fake.honest(request, number)

    server.behave = moved
    assert _ask(config, QUESTIONS[:1])[0][0].verdict == "first"
    other = server.url.replace("127.0.0.1", "localhost")
    for status, goal in ((307, other), (302, "/v1/there"), (308, "file:///etc/passwd")):
        server.behave = lambda *_, status=status, goal=goal: (status, b"", {"Location": goal})
        sent = len(server.requests)
        with pytest.raises(ModelError, match="not followed"):
            _ask(config, QUESTIONS[:1])
        assert len(server.requests) == sent + 1


def test_a_key_is_stripped_and_what_is_none_is_refused(server, config, monkeypatch):
    _ask(config, QUESTIONS[:1])
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    for value in (f"{KEY}\nmore", "sk-Schlüssel0123456789", f"{KEY} {KEY}", "   "):
        monkeypatch.setenv("OPENAI_API_KEY", value)
        with pytest.raises(ConfigError, match="api_key_env: ") as caught:
            _ask(config, QUESTIONS[:1])
        assert "Line0123" not in str(caught.value)
        assert "Schl" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("api_key_env", KEY), ("api_key_env", "gsk_0123456789abcdefghijABCDEFGH"), ("api_key_env", "TWO WORDS"),
        ("base_url", f"http://user:{KEY}@host/v1"), ("base_url", f"http://host/v1?api_key={KEY}"),
        ("base_url", KEY), ("base_url", "http://[::1"), ("base_url", "http://host:99999/v1"),
    ],
)  # fmt: skip
def test_a_key_in_another_place_is_refused_and_not_shown(config, setting, value):
    with pytest.raises(ConfigError, match=f"{setting}: ") as caught:
        replace(config, **{setting: value})
    assert "0123456789" not in str(caught.value)


def test_a_setting_that_holds_the_key_is_refused(config):
    with pytest.raises(ConfigError, match="judge: holds the key") as caught:
        _ask(replace(config, judge=f"openai:{KEY}"), QUESTIONS[:1])
    assert KEY not in str(caught.value)


def test_an_echoed_key_is_kept_nowhere(server, config, fake, answer_files, tmp_path):
    def echo(request, number):
        said = f"you said {server.headers[-1]['authorization']}, {KEY[5:17]}"
        return 200, fake.completion(json.dumps({"reason": said, "verdict": "first"})), {}

    server.behave = echo
    named = answer_files(a=["one"] * 2, b=["two"] * 2)
    out = tmp_path / "out"
    evaluate(replace(config, policies=tuple(named.split(","))), out)
    kept = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"you said Bearer ***, ***" in kept
    assert not any(KEY[i : i + 8].encode() in kept for i in range(len(KEY) - 7))


def test_a_question_that_is_too_long_changes_nothing_for_the_others(server, config, fake):
    told = (
        "'max_tokens' or 'max_completion_tokens' is too large: 300. This model's maximum context length is 2048 tokens"
    )

    def behave(request, number):
        long = "Question 0?" in str(request) or "Question 2?" in str(request)
        return (400, {"error": {"message": told}}, {}) if long else fake.honest(request, number)

    server.behave = behave
    replies, judge = _ask(config)
    assert [reply.failure for reply in replies] == ["rejected", None, "rejected", None]
    assert judge.mode == "output by JSON schema, validated"
    assert all("max_tokens" in request for request in server.requests)


def test_what_does_not_help_is_not_given_up(server, config, fake):
    """The first question meets an error that says nothing of its cause."""
    server.behave = lambda request, number: (
        (400, {"error": {"message": "bad request"}}, {})
        if "Question 0?" in str(request)
        else fake.honest(request, number)
    )
    replies, judge = _ask(config)
    assert [reply.failure for reply in replies] == ["rejected", None, None, None]
    assert judge.notes == []
    assert "response_format" in server.requests[-1]


def test_a_reply_that_ends_at_the_limit_says_so_and_is_asked_again_with_more(
    server, config, fake, answer_files, tmp_path
):
    def short(request, number):
        if request["max_tokens"] >= 500:
            return fake.honest(request, number)
        reply = fake.completion("<think>Well, let me look at both")
        reply["choices"][0]["finish_reason"] = "length"
        return 200, reply, {}

    server.behave = short
    named = answer_files(a=["bad"] * 2, b=["good"] * 2)
    config = replace(config, policies=tuple(named.split(",")))
    with pytest.raises(RunError, match=r"cut 2.*finish_reason=length.*--max-reply-tokens 300"):
        evaluate(config, tmp_path / "out")
    result = evaluate(replace(config, max_reply_tokens=500), tmp_path / "out", resume=True)
    assert result.pairs[0].counts.wins == 2


@pytest.mark.parametrize("kept", ["{}", "[]", '{"text": 5}', '{"text": null}', "[" * 5000, '{"text": "x", "odd": 1}'])
def test_a_cached_reply_that_is_none_is_asked_for_again(config, tmp_path, kept):
    path = tmp_path / "judge.sqlite"
    _ask(config, QUESTIONS[:1], cache=path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE replies SET reply = ?", (kept,))
        connection.commit()
    assert _ask(config, QUESTIONS[:1], cache=path)[0][0].verdict == "first"
