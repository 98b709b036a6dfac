"""Who is asked what, who may come in, and what becomes of an answer: without a browser."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from foresighted.cli.main import main
from foresighted.errors import ConfigError, RunError
from foresighted.integrations.people.desk import Desk, RefusedError
from foresighted.integrations.people.gate import Gate
from foresighted.integrations.people.serve import only_writer, queue_of
from foresighted.integrations.people.server import application
from foresighted.integrations.people.settings import LabelConfig
from foresighted.labels.answers import standing
from foresighted.labels.pair import pair_id
from foresighted.labels.queue import FileQueue, Question

ONCE = LabelConfig(both_orders=0, again=0, shared=0)


def filled(folder: Path, count: int, number: int = 1) -> FileQueue:
    queue = FileQueue(folder)
    texts = [(f"prompt {n}", f"short {n}", f"a longer text {n}") for n in range(count)]
    queue.submit([Question(pair_id(number, *row), number, *row) for row in texts])
    return queue


def say(desk: Desk, person: str, choice: str = "1") -> str | None:
    asked = desk.ask(person)
    if asked is not None:
        desk.answer(person, asked.question.id, asked.ask, choice, 1.0)
    return None if asked is None else asked.question.id


# The desk.


def test_everything_is_asked_once_whatever_happens_to_the_server(tmp_path):
    queue, chance, asked = filled(tmp_path, 60), random.Random(0), []
    filled(tmp_path, 20, number=2)
    desks = Desk(queue, ONCE)
    while (name := say(desks, chance.choice(("ann", "bob")), chance.choice("120s"))) is not None or len(asked) < 80:
        asked.append(name)
        if chance.random() < 0.3:
            desks = Desk(FileQueue(tmp_path), ONCE)  # all that was in memory is gone
    skipped = {a.id for a in queue.answers() if a.label is None}
    again = Counter(a.id for a in queue.answers() if a.id not in skipped)
    assert max(again.values()) == 1
    assert len({a.id for a in queue.answers()}) == 80
    assert {queue.questions()[a.id].round for a in queue.answers()[:20]} == {2}  # the newest come first
    turned = [a.turned for a in queue.answers()]
    assert 20 < sum(turned) < len(turned) - 20
    assert all(desks.ask(who) is None or desks.ask(who).question.id in skipped for who in ("ann", "bob"))


@pytest.mark.slow
def test_shares_are_asked_again_in_the_other_order_as_before_and_of_a_second_person(tmp_path):
    queue = filled(tmp_path, 200)
    desk = Desk(queue, LabelConfig(both_orders=0.2, again=0.1, shared=0.3, gap=5))
    while any(say(desk, who) is not None for who in ("ann", "bob")):
        pass
    found = standing(queue.answers())
    kinds = Counter(a.ask for a in found.values())
    assert 25 < kinds["swapped"] < 70
    assert 8 < kinds["again"] < 40
    people = {name: {a.by for a in found.values() if a.id == name} for name in queue.questions()}
    assert 40 < sum(len(who) == 2 for who in people.values()) < 80
    for (name, who, ask), answer in found.items():
        if ask != "new":
            assert answer.turned == (found[name, who, "new"].turned != (ask == "swapped"))
    order = [(a.id, a.by) for a in queue.answers()]
    for place, answer in enumerate(queue.answers()):
        if answer.ask != "new":
            between = order[order.index((answer.id, answer.by)) : place]
            assert sum(who == answer.by for _, who in between) > 5


def test_answers_that_are_not_taken_and_those_that_are_taken_back(tmp_path):
    queue = filled(tmp_path, 3)
    desk = Desk(queue, ONCE)
    assert not desk.undo("ann")
    asked = desk.ask("ann")
    name = asked.question.id
    for _ in range(2):  # a browser that sends twice
        desk.answer("ann", name, "new", "1", -5.0)
    assert len(queue.answers()) == 1
    assert queue.answers()[0].seconds == 0.0  # a clock that went back
    with pytest.raises(RefusedError, match="answered this pair otherwise; take that back with u"):
        desk.answer("ann", name, "new", "2")
    with pytest.raises(RefusedError, match="no pair 'of another run' is in this queue"):
        desk.answer("ann", "of another run", "new", "1")
    with pytest.raises(RefusedError, match="is not asked again"):
        desk.answer("ann", name, "swapped", "1")
    assert desk.ask("ann").question.id != name
    assert desk.undo("ann")
    assert desk.ask("ann").question.id == name
    desk.answer("ann", name, "new", "2")
    assert queue.collect() == {name: 1.0 if asked.turned else 0.0}


def test_two_people_do_not_look_at_the_same_pair_unless_one_has_gone(tmp_path):
    now = [0.0]
    desk = Desk(filled(tmp_path, 1), ONCE, lambda: now[0])
    assert desk.ask("ann") is not None
    assert desk.ask("bob") is None
    now[0] = 601.0
    assert desk.ask("bob") == desk.ask("bob") is not None
    now[0] = -1e9  # a clock that jumps back costs a wait, and no answer
    desk.answer("ann", desk.ask("bob").question.id, "new", "1")
    assert desk.ask("bob") is None


# The gate and the server.


@pytest.fixture
def served(tmp_path):
    def make(config: LabelConfig = ONCE, base: str = "http://127.0.0.1:8765", count: int = 3, rules: str = ""):
        queue = filled(tmp_path / "people", count)
        gate = Gate(queue.folder, config)
        client = TestClient(application(Desk(queue, config), gate, rules), base_url=base, follow_redirects=False)
        return queue, gate, client

    return make


def post(client: TestClient, path: str, body: object, **headers: str):
    named = {"Origin": str(client.base_url).rstrip("/"), **headers}
    return client.post(path, json=body, headers={k: v for k, v in named.items() if v})


def test_a_name_an_answer_and_what_is_said_of_it(served):
    queue, _, client = served()
    assert client.get("/state").json() == {"person": None, "link": False}
    assert post(client, "/name", {"name": " ann "}).json()["person"] == "ann"
    state = client.get("/state").json()
    assert set(state) == {"person", "form", "pair", "answered", "open", "seconds"}
    assert set(state["pair"]) == {"id", "ask", "prompt", "responses"}  # no arm, no round, no order
    answer = {"id": state["pair"]["id"], "ask": "new", "choice": "0", "seconds": float("1e9")}
    said = post(client, "/answer", answer, **{"X-Form": state["form"]})
    assert (said.status_code, said.json()["answered"]) == (200, 1)
    assert queue.collect() == {answer["id"]: 0.5}
    assert queue.answers()[0].seconds == 86_400.0
    wrong = [answer | {"choice": "2"}, answer | {"choice": "9"}, answer | {"id": "../../etc/passwd"}, [1], "x"]
    for body in wrong:
        said = post(client, "/answer", body, **{"X-Form": state["form"]})
        assert said.status_code == 409
        assert "error" in said.json()
    assert post(client, "/undo", {}, **{"X-Form": state["form"]}).json()["answered"] == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403), ({"Origin": ""}, 403), ({"Origin": "null"}, 403),
        ({"X-Form": "guessed"}, 403), ({"X-Form": ""}, 403), ({"Content-Type": "text/plain"}, 415),
        ({"Host": "evil.example"}, 421), ({"Content-Length": "99999"}, 413),
    ],
)  # fmt: skip
def test_requests_of_other_pages_are_refused(served, headers, status):
    queue, _, client = served()
    post(client, "/name", {"name": "ann"})
    state = client.get("/state").json()
    body = {"id": state["pair"]["id"], "ask": "new", "choice": "1"}
    assert post(client, "/answer", body, **({"X-Form": state["form"]} | headers)).status_code == status
    assert queue.answers() == []


def test_nobody_gets_in_without_their_token(served):
    config = replace(ONCE, people=("ann", "bob"), host="0.0.0.0")
    queue, gate, client = served(config, "http://label.example:8765")
    assert client.get("/state").json() == {"person": None, "link": True}
    assert post(client, "/name", {"name": "ann"}).status_code == 403
    assert client.get("/", params={"token": "x"}).status_code == 403
    assert post(client, "/answer", {"id": "x", "ask": "new", "choice": "1"}).status_code == 401
    entered = client.get("/", params={"token": gate.token("ann")})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(entered.headers["set-cookie"].split("; "))
    assert client.get("/state").json()["person"] == "ann"
    assert Gate(queue.folder, config).by_session(gate.session("ann")) == "ann"  # sessions outlive the server
    assert Gate(queue.folder, replace(config, people=("bob",))).by_session(gate.session("ann")) is None
    assert (queue.folder / ".label.key").stat().st_mode & 0o777 == 0o600
    (queue.folder / ".label.key").write_text("short")
    with pytest.raises(RunError, match="is no key; remove it"):
        Gate(queue.folder, config)


def test_headers_and_what_cannot_be_read(served, tmp_path):
    queue, _, client = served(rules="# Rules\n\n<script>alert(1)</script> [x](javascript:alert(1))")
    for path in (
        "/",
        "/page.js",
        "/state",
        "/nothing",
        "/page.py",
        "/..%2f..%2fetc%2fpasswd",
        "/questions.jsonl",
        "/docs",
    ):
        said = client.get(path)
        assert said.status_code == (200 if path in ("/", "/page.js", "/state") else 404), path
        policy = said.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert str(tmp_path) not in said.text
    page = client.get("/").text
    assert "<script>alert" not in page
    assert 'href="javascript' not in page
    assert "<h2>Rules</h2>" in page
    (queue.folder / "labels.jsonl").write_text("not JSON\n")
    said = post(client, "/name", {"name": "ann"})
    assert (said.status_code, str(tmp_path) in said.text) == (503, False)


# The command.


def test_what_cannot_be_served_is_one_line(tmp_path, capsys, told):
    def refused(*words: str) -> str:
        assert main(["label", *words]) == 2
        return capsys.readouterr().err

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("policy: embedded\nlabels: relevance\n")
    (tmp_path / "run" / "rounds.jsonl").write_text("{}\n")
    people = str(filled(tmp_path / "people", 1).folder)
    told(refused(str(tmp_path / "run")), "queue:", "has its labels from relevance", "--labels FOLDER/")
    told(refused(str(tmp_path / "absent")), "queue:", "is not there", "train --labels")
    told(refused(people, "--host", "0.0.0.0"), "host:", "others can reach", "--people")
    told(refused(people, "--people", "ann,a/b"), "people:", "'a/b'")
    told(refused(people, "--people", "ann,ann"), "people:", "named twice")
    told(refused(people, "--both-orders", "0.7", "--again", "0.7"), "both_orders, again:", "1.4")
    told(refused(people, "--guidelines", str(tmp_path / "no.md")), "guidelines:", "no.md", "cannot be read")
    with only_writer(FileQueue(people)):
        told(refused(people, "--port", "0"), "queue:", "another foresighted label has", "stop it first")
    (tmp_path / "people" / "questions.jsonl").write_text('{"id": 1}\n')
    told(refused(people, "--port", "0"), "questions.jsonl, line 1", "lacks")


def test_a_runs_queue_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled(Path("people"), 1)
    Path("run").mkdir()
    Path("run/config.yaml").write_text("policy: embedded\nlabels: people/\n")
    Path("run/rounds.jsonl").write_text("{}\n")
    assert queue_of(Path("run")).folder == Path("people")
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(ConfigError, match="asks in people/, which is not here"):
        queue_of(tmp_path / "run")


def test_a_last_line_is_made_whole(tmp_path):
    queue = filled(tmp_path, 2)
    names = list(queue.questions())
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"id": names[0], "label": 1}))  # by hand, without its end
    with only_writer(queue):
        assert queue.collect() == {names[0]: 1.0}
    with path.open("a") as file:
        file.write('{"id": "' + names[1])  # a server that died
    with only_writer(queue):
        Desk(queue, ONCE).answer("ann", names[1], "new", "0")
    assert queue.collect() == {names[0]: 1.0, names[1]: 0.5}


def test_the_command_exports_imports_and_sums_up(tmp_path, capsys, told):
    people, table = str(filled(tmp_path / "people", 3).folder), tmp_path / "pairs.csv"
    assert main(["label", people, "--export", str(table)]) == 0
    assert f"3 questions: {table}" in capsys.readouterr().out
    table.write_text(table.read_text(encoding="utf-8-sig").replace(",,\n", ",1,\n").replace(",,\r\n", ",1,\r\n"))
    assert main(["label", people, "--import", str(table), "--by", "ann"]) == 0
    assert "3 new answers, 0 in place of earlier ones" in capsys.readouterr().out
    assert main(["label", people, "--summary"]) == 0
    assert "3 of 3 questions have a label, by 1 person." in capsys.readouterr().out
    for words, said in (
        (("--summary", "--export", str(table)), "export, import, summary: each is done alone"),
        (("--summary", "--port", "1"), "port: a setting of the page, which summary does not serve"),
        (("--import", str(tmp_path / "no.csv")), "no.csv"),
    ):
        assert main(["label", people, *words]) == 2
        told(capsys.readouterr().err, said)
