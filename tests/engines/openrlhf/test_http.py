"""OpenRLHF's own HTTP client (`--reward.remote_url`), unchanged, paid by `foresighted serve`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

SIZE = 3
REFERENCE = "It depends on what you mean."


@pytest.fixture(scope="module")
def made(owner_files):
    made = owner_files("served", update_every=4 * SIZE)
    settings = {name: value for name, value in made.settings.items() if name != "cpus"}  # of a placement in Ray
    made.config.write_text(yaml.safe_dump(settings))
    return made


@pytest.fixture(scope="module")
def server(cluster, made):
    """A server's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "--out", str(made.folder), "--config", str(made.config), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "foresighted", *words])
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while version(address) is None:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == 0


def version(address):
    """Return the version that pays, None where nobody answers yet."""
    try:
        with urllib.request.urlopen(f"{address}/health") as said:
            return json.load(said)["version"]
    except OSError:
        return None


def test_samples_are_paid_against_the_reference_of_their_label_as_in_one_process(server, made, generator, told):
    label = {"reference": REFERENCE, "step": 7}
    found, *_ = generator(
        [(f"Why is number {i} odd?", label) for i in range(4)], remote_rm_url=f"{server}/openrlhf"
    ).generate_samples(max_new_tokens=8, max_len=64)
    assert len(found) == 4 * SIZE
    answers = made.in_process([(one.prompts[0], [told(one)]) for one in found], references=[REFERENCE])
    for one, (answer,) in zip(found, answers, strict=True):
        assert float(one.rewards[0]) == pytest.approx(answer.reward, abs=1e-4)
        assert float(one.scores[0]) == pytest.approx(answer.score, abs=1e-4)
        assert float(one.info["penalty"][0]) == pytest.approx(answer.penalty, abs=1e-4)
    assert len({float(one.info["penalty"][0]) for one in found}) == 4 * SIZE
    rows = made.journal("group")
    assert [(row["run"], row["size"], row["step"], row["references"]) for row in rows] == [
        ("openrlhf", 1, 7, [REFERENCE])
    ] * (4 * SIZE)
    end = time.monotonic() + 60
    while version(server) != 1:  # as many groups as it learns from
        assert time.monotonic() < end
        time.sleep(0.05)


def test_evaluation_gets_the_bare_reward_and_leaves_no_trace(server, made, generator):
    size = (made.folder / "journal.jsonl").stat().st_size
    rows = [("Is this evaluated?", {"reference": REFERENCE, "evaluation": True})]
    found = generator([], rows, remote_rm_url=f"{server}/openrlhf").generate_eval_samples(max_new_tokens=8, max_len=64)
    assert len(found) == SIZE
    assert all(float(one.rewards[0]) == float(one.scores[0]) and not one.info["foresight"][0] for one in found)
    assert (made.folder / "journal.jsonl").stat().st_size == size
