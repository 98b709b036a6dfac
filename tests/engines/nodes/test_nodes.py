"""Two Ray nodes, of which the owner's is killed: Ray starts the owner on another, and the run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from foresighted.errors import RunError
from foresighted.integrations.ray import planned, start
from foresighted.integrations.ray.client import end

RESPONSES = ["Light scatters.", "Because of air", "It just is blue, blue."]


@pytest.fixture(scope="session")
def head_cpus():
    return 0  # nothing of ours runs on the head


def test_the_run_goes_on_with_the_newest_version_and_what_was_acknowledged(cluster, owner_files, tell):
    if cluster is None:
        pytest.skip("needs nodes of its own, without FORESIGHTED_RAY")
    made = owner_files("nodes", update_every=2, cpus=1, group_deadline=300)
    first = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    owner = start("rewards", planned(made.config, made.folder))

    def group(name):
        return owner.score_group("run", name, "Why is the sky blue?", RESPONSES)

    async def play():
        paid = [await group(name) for name in ("a", "b")]
        before = tell.until(owner, lambda status: status["version"] == 1)
        assert before["node"] == first.node_id
        held = [asyncio.ensure_future(owner.score("run", "c", n, 3, "Why?", RESPONSES[n])) for n in (0, 1)]
        await asyncio.sleep(1)
        assert (await owner.ask("status"))["held_responses"] == 2
        cluster.remove_node(first, allow_graceful=False)
        second = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        last = await owner.score("run", "c", 2, 3, "Why?", RESPONSES[2])
        answers = [await one for one in held] + [last]
        after = await owner.ask("status")
        assert (after["node"], after["taken_up_again"]) == (second.node_id, True)
        assert {answer.version for answer in answers} == {1}  # the newest
        assert [await group(name) for name in ("a", "b")] == paid  # acknowledged, and so not lost
        return {("c", place): (answer.reward, answer.version) for place, answer in enumerate(answers)}, after

    answers, after = asyncio.run(play())
    written = made.answered()
    for key, own in answers.items():
        assert own == pytest.approx(written[key], abs=1e-5)
    assert after["groups"] == len(made.journal("group")) == 3
    said = "".join(path.read_text() for path in made.logs(cluster))
    assert "taken up again at version 1 with 2 groups answered" in said
    assert "nothing acknowledged is lost" in said
    end("rewards")


def test_an_owner_whose_folder_is_not_on_the_other_node_says_so(cluster, owner_files, tell):
    made = owner_files("alone", cpus=1)
    owner = start("alone", planned(made.config, made.folder))
    made.folder.rename(made.folder.with_name("elsewhere"))
    tell.kill(owner)
    with pytest.raises(RunError, match="storage that all nodes share"):
        owner.wait("status")
    end("alone")


def a_replica() -> int:
    """Return the process of a replica."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ray::Replica" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise LookupError("no replica is running")


@pytest.mark.parametrize("scope", ["head", "all"])
def test_replicas_read_with_the_weights_of_the_version_that_pays(cluster, owner_files, tell, scope):
    settings = {"update_every": 4, "scope": scope, "reward_model_train": "all", "reward_model_learning_rate": 1e-2}
    made = owner_files(f"spread-{scope}", replicas=2, replica_cpus=0, **settings)
    owner = start("spread", planned(made.config, made.folder))
    groups = [("Why is the sky blue?", [f"{text} {i}" for text in RESPONSES]) for i in range(4)]

    async def pay(name, groups):
        asked = [owner.score_group("run", f"{name}{i}", *group) for i, group in enumerate(groups)]
        return await asyncio.gather(*asked)

    first = asyncio.run(pay("a", groups))
    tell.until(owner, lambda status: status["version"] == 1)
    if scope == "head":
        os.kill(a_replica(), signal.SIGKILL)  # Ray starts it anew, and it takes the weights of now
    second = asyncio.run(pay("b", groups[:3]))  # too few for another version
    end("spread")
    for found, expected in ((first, made.in_process(groups)), (second, made.in_process(groups[:3], "owner"))):
        for mine, theirs in zip(found, expected, strict=True):
            assert [a.version for a in mine] == [a.version for a in theirs]
            assert [a.reward for a in mine] == pytest.approx([a.reward for a in theirs], abs=1e-3)
