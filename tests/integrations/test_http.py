"""A reward owner over HTTP, asked as an ASGI application: what engines get, and what is refused."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("fastapi")

from foresighted.errors import ConfigError
from foresighted.integrations.http.app import make_app
from foresighted.integrations.http.config import TOKEN, ServeConfig
from foresighted.integrations.http.guard import fault_of
from foresighted.integrations.http.messages import OpenRLHFRequest
from foresighted.integrations.http.stock import samples
from foresighted.integrations.owner import OwnerConfig, RewardOwner

PROMPT = "Why is the sky blue?"
RESPONSES = ["Light scatters.", "Because of air", "It just is blue, blue."]


async def ask(app, path, body=b"", headers=(), method="POST"):
    """Return status, headers and body of what an application answers."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    parts = [{"type": "http.request", "body": body, "more_body": False}]
    said = []

    async def receive():
        if parts:
            return parts.pop()
        await asyncio.sleep(3600)

    async def send(message):
        said.append(message)

    every = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
             "raw_path": path.encode(), "query_string": b"", "headers": every, "scheme": "http", "server": ("x", 80),
             "client": ("y", 1), "root_path": ""}  # fmt: skip
    await app(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in said[1:])
    return said[0]["status"], dict(said[0]["headers"]), text


@asynccontextmanager
async def serving(folder, model, labels=None, token=None, server=None, **settings):
    config = ServeConfig(OwnerConfig(reward_model=str(model), device="cpu", **settings), **(server or {}))
    owner = RewardOwner.open(folder, config.owner, labels)
    try:
        yield make_app(owner, config, token), owner
    finally:
        await owner.close()


def test_groups_over_http_are_paid_as_by_the_owner(tmp_path, tiny_deberta):
    async def play():
        async with serving(tmp_path, tiny_deberta) as (app, owner):
            whole = {"run": "r", "group": "a", "prompt": PROMPT, "responses": RESPONSES, "step": 3}
            first = await ask(app, "/score", whole)
            one = [{"run": "r", "group": "b", "prompt": PROMPT, "response": r, "member": n, "size": 3}
                   for n, r in enumerate(RESPONSES)]  # fmt: skip
            apart = await asyncio.gather(*(ask(app, "/score", row) for row in one))
            known = [answer.row() for answer in await owner.score_group("r", "a", PROMPT, RESPONSES)]
            health = await ask(app, "/health", method="GET")
            metrics = (await ask(app, "/metrics", method="GET"))[2].decode()
            schema = json.loads((await ask(app, "/openapi.json", method="GET"))[2])
            return first, apart, known, health, metrics, schema

    first, apart, known, health, metrics, schema = asyncio.run(play())
    answers = json.loads(first[2])["answers"]
    assert [{k: v for k, v in a.items() if k != "influence"} for a in answers] == known
    assert all(a["influence"] == -a["penalty"] for a in answers)
    found = [json.loads(text)["answers"][0] for _, _, text in apart]
    assert [a["reward"] for a in found] == pytest.approx([a["reward"] for a in answers], abs=1e-5)
    assert (health[0], json.loads(health[2])) == (200, {"status": "ok", "version": 0})
    assert "foresighted_groups_total 2\n" in metrics
    assert 'foresighted_http_requests_total{path="/score",status="200"} 4\n' in metrics
    assert {"/score", "/openrlhf", "/feedback", "/health", "/metrics"} <= schema["paths"].keys()


def test_openrlhf_gets_lists_of_numbers_for_one_sample_a_batch_and_none(tmp_path, tiny_deberta):
    label = {"reference": "It depends.", "step": 1}

    async def play():
        async with serving(tmp_path, tiny_deberta, steering="practical", gamma=0.1, gamma_unit="raw") as (app, owner):
            query = [f"<|user|>{PROMPT}<|assistant|>{r}<|end|>" for r in RESPONSES]
            prompts = [f"<|user|>{PROMPT}<|assistant|>"] * 3
            batch = await ask(app, "/openrlhf", {"query": query, "prompts": prompts, "labels": [label] * 3})
            single = await ask(app, "/openrlhf", {"query": query[:1], "prompts": prompts[:1], "labels": [label]})
            empty = await ask(app, "/openrlhf", {"query": [], "prompts": [], "labels": []})
            seen = await ask(app, "/openrlhf", {"query": query[:1], "prompts": prompts[:1],
                                                "labels": [label | {"evaluation": True}]})  # fmt: skip
            odd = await ask(app, "/openrlhf", {"query": ["other"], "prompts": prompts[:1], "labels": [label]})
            bad = await ask(app, "/openrlhf", {"query": query[:1], "prompts": [], "labels": []})
            return batch, single, empty, seen, odd, bad, await owner.status()

    batch, single, empty, seen, odd, bad, status = asyncio.run(play())
    found = json.loads(batch[2])
    assert found["rewards"] == [s - p for s, p in zip(found["scores"], found["extra_logs"]["penalty"], strict=True)]
    assert len(set(found["extra_logs"]["penalty"])) == 3
    assert json.loads(single[2]) == {k: v[:1] if isinstance(v, list) else {n: c[:1] for n, c in v.items()}
                                     for k, v in found.items()}  # fmt: skip
    assert json.loads(empty[2]) == {"rewards": [], "scores": [], "extra_logs": {}}
    assert json.loads(seen[2])["extra_logs"]["penalty"] == [0.0]
    assert (odd[0], bad[0], status["groups"]) == (422, 422, 3)
    assert "does not hold its prompt" in odd[2].decode()
    row = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert (row["members"][0]["text"], row["references"], row["step"]) == (RESPONSES[0], ["It depends."], 1)


def test_of_an_empty_prompt_the_query_is_the_response():
    (sample,) = samples(OpenRLHFRequest(query=[" So it is.<|end|>"], prompts=[""]), ["<|end|>"])
    assert (sample.prompt, sample.response) == ("", " So it is.")


def test_what_cannot_be_read_is_refused_with_a_cause(tmp_path, tiny_deberta):
    good = {"group": "a", "prompt": PROMPT, "responses": RESPONSES}
    bodies = {
        413: [b"x" * 5000],
        400: [b"[" * 100, b'{"group": NaN}', b"{", b"\xff", b'{"group": ' + b"9" * 4500 + b"}"],
        422: [b"[]", {**good, "group": 3}, {**good, "responses": "x"}, {**good, "strange": 1},
              {**good, "responses": []},
              {"group": "a", "prompt": PROMPT}, {**good, "member": 0}, {**good, "prompt": [{"no": "role"}]},
              {**good, "step": True}, b'{"group": "a", "prompt": "\\ud800", "responses": ["a", "b"]}'],
    }  # fmt: skip

    async def play():
        async with serving(tmp_path, tiny_deberta, server={"body_limit": 4096 + 700}) as (app, _):
            bodies[413][0] = b"x" * 5000
            found = {code: [await ask(app, "/score", body) for body in own] for code, own in bodies.items()}
            long = await ask(app, "/score", b"{}", headers=[(b"content-length", b"100000000")])
            gone = await ask(app, "/feedback", {"labels": [{"id": "1-a", "label": 1.0}]})
            return found, long, gone

    found, long, gone = asyncio.run(play())
    for code, answers in found.items():
        for body, (status, _, text) in zip(bodies[code], answers, strict=True):
            assert status == code, (body, status, text)
            assert set(json.loads(text)) == {"error"}
    assert (long[0], gone[0]) == (413, 409)


def test_a_token_is_asked_for_and_needed_beyond_this_machine(tmp_path, tiny_deberta, monkeypatch, told):
    monkeypatch.delenv(TOKEN, raising=False)
    assert ServeConfig(OwnerConfig()).token() is None
    with pytest.raises(ConfigError) as refused:
        ServeConfig(OwnerConfig(), host="0.0.0.0").token()
    told(refused, "0.0.0.0", "token", TOKEN, "--token-file")
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(ConfigError, match="at least 16"):
        ServeConfig(OwnerConfig(), token_file=str(tmp_path / "token")).token()
    monkeypatch.setenv(TOKEN, "a" * 32)
    assert ServeConfig(OwnerConfig(), host="0.0.0.0").token() == "a" * 32

    async def play():
        async with serving(tmp_path / "o", tiny_deberta, token="a" * 32) as (app, _):
            given = [(), [(b"authorization", b"Bearer b")], [(b"authorization", b"Bearer " + b"a" * 32)]]
            found = [(await ask(app, "/metrics", headers=headers, method="GET"))[0] for headers in given]
            return [*found, (await ask(app, "/health", method="GET"))[0]]

    assert asyncio.run(play()) == [401, 401, 200, 200]


def test_beyond_the_limit_of_what_waits_clients_are_told_when_to_come_again(tmp_path, tiny_deberta):
    async def play():
        async with serving(tmp_path, tiny_deberta, server={"waiting": 2}) as (app, owner):
            row = {"group": "a", "prompt": PROMPT, "response": "x", "size": 3}
            held = [asyncio.ensure_future(ask(app, "/score", {**row, "member": n})) for n in (0, 1)]
            while (await owner.status())["held_responses"] < 2:
                await asyncio.sleep(0.01)
            full = await ask(app, "/score", {**row, "member": 2})
            await owner.score("http", "a", 2, 3, PROMPT, "x")
            return full, await asyncio.gather(*held)

    full, held = asyncio.run(play())
    assert (full[0], full[1][b"retry-after"]) == (503, b"1")
    assert [status for status, *_ in held] == [200, 200]


def test_people_send_their_answers_over_http(tmp_path, tiny_deberta):
    async def play():
        queue = f"{tmp_path / 'queue'}/"
        async with serving(tmp_path / "o", tiny_deberta, labels=queue, update_every=1) as (app, owner):
            await owner.score_group("r", "a", PROMPT, RESPONSES)
            for _ in range(500):
                if (await owner.status())["pairs_pending"]:
                    break
                await asyncio.sleep(0.01)
            (question,) = map(json.loads, (tmp_path / "queue" / "questions.jsonl").read_text().splitlines())
            good = await ask(app, "/feedback", {"labels": [{"id": question["id"], "label": 0.0, "by": "ada"}]})
            odd = await ask(app, "/feedback", {"labels": [{"id": "7-x", "label": 0.0}]})
            return good, odd

    good, odd = asyncio.run(play())
    assert (good[0], json.loads(good[2])) == (200, {"taken": 1})
    assert odd[0] == 422
    (line,) = (tmp_path / "queue" / "labels.jsonl").read_text().splitlines()
    assert json.loads(line)["by"] == "ada"


def test_a_group_that_is_incomplete_at_its_deadline_gets_504(tmp_path, tiny_deberta):
    async def play():
        async with serving(tmp_path, tiny_deberta, group_deadline=0.1) as (app, _):
            row = {"group": "a", "prompt": PROMPT, "response": "x", "size": 3, "member": 1}
            return await ask(app, "/score", row)

    status, _, text = asyncio.run(play())
    assert status == 504
    assert "1 of 3" in text.decode()


def test_depth_is_counted_outside_of_texts():
    assert fault_of(b'{"a": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\"["}') == ""
    assert "deeper than 32" in fault_of(b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}")
    assert "deeper than 32" in fault_of(b'{"a\\\\": ' + b"[" * 40 + b"]" * 40 + b"}")
