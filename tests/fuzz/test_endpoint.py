"""Endpoints that say anything: never a traceback, the key nowhere, a verdict exactly where one was given."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foresighted.errors import ForesightedError
from foresighted.judging.cache import Cache
from foresighted.judging.endpoint import Endpoint
from foresighted.judging.judges import Question
from foresighted.judging.key import PIECE, Key
from foresighted.judging.rows import FAILURES
from foresighted.judging.rubric import PAPER, VERDICT, read_reply
from foresighted.judging.settings import EvaluateConfig

KEY = "sk-Fuzz+0123456789/abcdefghijKLMNOP="
QUESTIONS = [Question("Question?", "one answer", "another"), Question("Question?", "another", "one answer")]
ECHOES = (
    KEY, f"Bearer {KEY}", KEY[:20], KEY[-12:], KEY[7:25], KEY.lower(), quote(KEY, safe=""), KEY.encode().hex(),
    base64.b64encode(KEY.encode()).decode(), base64.b64encode(f"Bearer {KEY}".encode()).decode(),
)  # fmt: skip


class Raw:
    """A server that sends bytes as they are, whatever it is asked."""

    def __init__(self) -> None:
        self.reply = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                asked, _ = self._socket.accept()
            except OSError:
                return
            with asked:
                asked.settimeout(5)
                try:
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += asked.recv(65536)
                    head, _, body = data.partition(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                    while len(body) < length:
                        body += asked.recv(65536)
                    asked.sendall(self.reply)
                    asked.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def raw():
    with closing(Raw()) as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FUZZ_API_KEY", f"  {KEY}\r\n")
    monkeypatch.setenv("OPENAI_LOG", "debug")


TEXT = st.lists(
    st.sampled_from((*ECHOES, "\x1b[2J", "\u202e", "\ud800", "{", "}", '"', "\\", "\n", "</think>", "<think>",
                     "max_tokens", "temperature", "system", "context length",
                     '{"verdict": "first"}')) | st.text(max_size=5),
    max_size=6,
).map("".join)  # fmt: skip
VERDICTS = st.sampled_from(["first", "second", "tie"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=6,
)


@st.composite
def hostile_bodies(draw):
    content = draw(TEXT | JSON)
    whole = {
        "choices": draw(st.just([{"message": {"content": content, "refusal": draw(st.none() | TEXT)},
                                  "finish_reason": draw(st.sampled_from(["stop", "length", "content_filter", None]))}])
                        | JSON),
        "usage": draw(st.just({"prompt_tokens": draw(JSON), "completion_tokens": 3}) | JSON),
    }  # fmt: skip
    error = {"error": {"message": draw(TEXT), "code": draw(st.sampled_from([429, 500, "content_filter", None, {}]))}}
    found = draw(st.sampled_from([whole, error, {**whole, **error}, content, {"detail": content}]))
    deep = draw(st.sampled_from([0, 0, 0, 0, 5000]))
    text = "[" * deep + json.dumps(found) + "]" * deep
    return draw(st.just(text.encode()) | st.binary(max_size=40))


@st.composite
def hostile_replies(draw):
    body = draw(hostile_bodies())
    status = draw(
        st.sampled_from([200, 200, 200, 204, 301, 307, 308, 400, 401, 403, 404, 413, 418, 422, 429, 500, 999])
    )
    name = st.sampled_from(["content-type", "content-encoding", "location", "retry-after", "x-should-retry", "x-echo"])
    value = st.sampled_from([*ECHOES, "gzip", "deflate", "br", "text/event-stream", "http://127.0.0.2:9/", "/v1", "file:///x",
                             "0.01", "true", "//[", "a\tb"])  # fmt: skip
    headers = draw(st.lists(st.tuples(name, value), max_size=3))
    if ("content-encoding", "gzip") in headers and draw(st.booleans()):
        body = gzip.compress(body)
    size = draw(st.sampled_from([len(body)] * 4 + [len(body) + 7, 0]))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    whole = (
        f"HTTP/1.1 {status} {draw(st.sampled_from(['OK', KEY]))}\r\n{lines}content-length: {size}\r\n\r\n".encode()
        + body
    )
    return draw(st.just(whole) | st.just(whole[: draw(st.integers(0, 60))]))


def _ask(url: str, cache: Path | None):
    config = EvaluateConfig(
        policies=("a=x", "b=y"), judge="openai:m", base_url=url, retries=0, timeout=5, concurrency=2,
        api_key_env="FUZZ_API_KEY",
    )  # fmt: skip
    with closing(Endpoint(config, PAPER, Cache(cache))) as judge:
        try:
            return list(judge.ask(QUESTIONS)), judge.notes
        except ForesightedError as error:
            if _shows_key(str(error)):
                pytest.fail(str(error))
            raise


def _shows_key(text: str) -> bool:
    folded = text.lower()
    coded = [quote(KEY, safe=""), KEY.encode().hex(), base64.b64encode(KEY.encode()).decode()[:-2]]
    return any(KEY[i : i + PIECE].lower() in folded for i in range(len(KEY) - PIECE + 1)) or any(
        one.lower() in folded for one in coded
    )


@given(reply=hostile_replies())
def test_whatever_an_endpoint_says_is_a_reply_or_one_line(tally, raw, tmp_path_factory, caplog, capfd, reply):
    counts = tally("endpoints: status, headers and body")
    raw.reply = reply
    cache = tmp_path_factory.mktemp("cache") / "judge.sqlite"
    caplog.set_level(logging.DEBUG)

    def right(found) -> bool:
        replies, notes = found
        said = "\n".join([*map(str, replies), *notes, caplog.text, *capfd.readouterr()])
        assert not _shows_key(said), said
        assert not _shows_key(cache.read_bytes().decode(errors="replace"))
        assert len(replies) == len(QUESTIONS)
        return all((one.verdict is None) == (one.failure in FAILURES) for one in replies)

    began = time.monotonic()
    counts.call(_ask, raw.url, cache, right=right)
    assert time.monotonic() - began < 20


@st.composite
def good_replies(draw):
    """A verdict as some judge would write it, and which it is."""
    verdict = draw(VERDICTS)
    other = draw(VERDICTS)
    reason = draw(st.sampled_from(["Because.", "Line one.\nLine two.\t", "\\(E=mc^2\\) and \\alpha",
                                   "it quotes </think>", "a {brace} and [x, ]",
                                   "ends in a comma,", "é \u2028 \U0001f600"]))  # fmt: skip
    coded = json.dumps(reason) if draw(st.booleans()) else '"' + reason.replace('"', "") + '"'
    comma = draw(st.sampled_from(["", ",", " ,\n"]))
    pairs = [f'"reason": {coded}', f'"verdict": "{draw(st.sampled_from([verdict, verdict.title(), f" {verdict} "]))}"']
    text = "{" + ", ".join(draw(st.permutations(pairs))) + comma + "}"
    text = draw(st.sampled_from(["{}", "```json\n{}\n```", "Sure: {}", "{}\n\nDone.", "\n {}"])).replace("{}", text)
    draft = f'Perhaps {{"reason": "x", "verdict": "{other}"}}? No: {{ or [1, '
    thoughts = draw(st.sampled_from([
        "", f"<think>{draft}</think>", f"{draft}\n</think>\n", f"<thinking>{draft}</thinking>",
        f"[THINK]{draft}[/THINK]", f"<think>a</think>b{draft}</think>",
        f"<|channel|>analysis<|message|>{draft}<|end|><|start|>assistant<|channel|>final<|message|>",
        f"<|START_THINKING|>{draft}<|END_THINKING|>", f"<seed:think>{draft}</seed:think>",
        f"\u25c1think\u25b7{draft}\u25c1/think\u25b7", f"analysisWe see {draft}assistantfinal",
    ]))  # fmt: skip
    return verdict, thoughts + text


@given(reply=good_replies())
def test_a_verdict_is_read_as_it_was_meant(tally, reply):
    verdict, text = reply
    counts = tally("endpoints: verdicts in text")
    counts.call(read_reply, text, VERDICT, right=lambda found: found[0] is not None and found[0]["verdict"] == verdict)


@given(text=TEXT, cut=st.integers(0, 300))
def test_no_text_makes_a_verdict_that_it_does_not_hold(tally, text, cut):
    counts = tally("endpoints: verdicts in text")

    def right(found) -> bool:
        return (found[0] is None) == bool(found[1]) and (found[0] is None or '"verdict": "first"' in text)

    counts.call(read_reply, text[: len(text) - cut], VERDICT, right=right)


@given(part=TEXT, times=st.sampled_from([1000, 30_000]))
def test_a_reply_of_one_thing_over_and_over_is_read_in_no_time(tally, part, times):
    counts = tally("endpoints: verdicts in text")
    began = time.monotonic()
    counts.call(read_reply, part * times, VERDICT, right=lambda found: (found[0] is None) == bool(found[1]))
    assert time.monotonic() - began < 5


@given(before=TEXT, echo=st.sampled_from(ECHOES), after=TEXT, most=st.integers(1, 400))
def test_a_key_is_masked_before_anything_is_cut(tally, before, echo, after, most):
    counts = tally("keys in texts")
    masked = Key("FUZZ_API_KEY").masked
    counts.call(masked, before + echo + after, right=lambda text: not _shows_key(text[:most]) and not _shows_key(text))
