"""`foresighted serve` and `foresighted owner`, from the start of a server to the audit of what it left."""

from __future__ import annotations

import json
import re
import time
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("fastapi")

from foresighted.cli.main import main
from foresighted.settings import read_yaml

PROMPT, RESPONSES = "Why is the sky blue?", ["Light scatters.", "Because of air", "It just is blue, blue."]


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=60) as said:
        return json.loads(said.read())


def heard(server):
    try:
        return server.stdout
    except FileNotFoundError:  # it has not begun
        return ""


@pytest.fixture
def owner(capsys):
    """Run `foresighted owner` in this process: exit code, standard output, standard error."""

    def run(*words):
        code = main(["owner", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.slow
@pytest.mark.processes
def test_a_server_from_its_start_to_the_audit_of_its_folder(
    tmp_path, tiny_deberta, start_foresighted, owner, told, request
):
    (tmp_path / "judge.py").write_text("def longer(prompt, first, second): return float(len(first) > len(second))\n")
    out = tmp_path / "owner"
    judge = f"{tmp_path / 'judge.py'}:longer"
    words = ["serve", "--out", out, "--reward-model", tiny_deberta, "--labels", judge, "--device", "cpu",
             "--port", "0", "--update-every", "1", "--reward-model-learning-rate", "0.01"]  # fmt: skip
    server = start_foresighted(*words)
    request.addfinalizer(lambda: server.is_alive() and server.kill())
    end = time.monotonic() + 240
    while not (said := re.search(r"listening on (\S+)", heard(server))):
        assert server.is_alive(), server.stderr
        assert time.monotonic() < end, server.stderr
        time.sleep(0.05)
    url = said[1]
    for group in range(2):
        held_out = {"group": "e", "prompt": "What is rain?", "responses": ["Water falls."], "evaluation": True}
        assert not ask(f"{url}/score", held_out)["answers"][0]["foresight"]
        body = {"group": str(group), "prompt": PROMPT, "responses": RESPONSES}
        assert len(ask(f"{url}/score", body)["answers"]) == 3
        while ask(f"{url}/status")["rounds"] <= group:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert owner("status", out, "--json")[1].startswith('{"running": true')
    assert owner("rollback", out, 0, "--reason", "a test")[0] == 0
    assert ask(f"{url}/status")["version"] == 0
    code, _, err = owner("rollback", out, 7)
    assert code == 2
    told(err, "version: got 7", "on disk are 0, 1, 2")
    assert main(list(map(str, words))) == 2  # a second owner
    code, text, _ = owner("stop", out)
    assert (code, "has ended" in text, server.wait(60)) == (0, True, 0)

    status = json.loads(owner("status", out, "--json")[1])
    assert (status["running"], status["version"], status["groups"], status["rollbacks"]) == (False, 0, 2, 1)
    assert owner("rollback", out, 2)[0] == 0  # nobody has it: the next owner reads it in the journal
    assert json.loads(owner("status", out, "--json")[1])["version"] == 2
    assert read_yaml(out / "config.yaml")["update_every"] == 1
    assert main(["audit", str(out), "--quiet"]) == 0
    assert main(["report", str(out)]) == 0
    assert "Water falls." in (out / "report.html").read_text()


def test_what_is_no_owner_is_named(tmp_path, owner, told):
    code, _, err = owner("status", tmp_path)
    assert code == 2
    told(err, str(tmp_path), "holds nothing", "foresighted serve")
    with pytest.raises(SystemExit):
        owner("restart", tmp_path)
