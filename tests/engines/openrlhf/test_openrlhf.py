"""OpenRLHF's rollout actors and samples generator, unchanged, paid by an owner in the same cluster."""

from __future__ import annotations

import contextlib
import json
import threading

import pytest

from foresighted.errors import RunError
from foresighted.integrations.ray import planned, start
from foresighted.integrations.ray.client import end

SIZE = 3
KEYS = {"reward", "score", "penalty", "version", "foresight"}


@pytest.fixture(scope="module")
def made(owner_files):
    return owner_files("openrlhf", update_every=4)


@pytest.fixture(scope="module")
def owner(cluster, made):
    yield start("rewards", planned(made.config, made.folder))
    with contextlib.suppress(RunError):  # the last test has ended it
        end("rewards")


def groups_of(experiences):
    found = {}
    for one in experiences:
        found.setdefault(one.prompts[0], []).append(one)
    return found


def test_groups_are_whole_and_paid_as_in_one_process(owner, made, generator, told, tell):
    prompts = [(f"Why is number {i} odd?", {"step": 7, "evaluation": False}) for i in range(4)]
    found, *_ = generator(prompts).generate_samples(max_new_tokens=8, max_len=64)
    groups = groups_of(found)
    assert {prompt: len(own) for prompt, own in groups.items()} == {prompt: SIZE for prompt, _ in prompts}
    rows = made.journal("group")
    assert [(row["run"], row["size"], row["step"], len(row["members"])) for row in rows] == [
        ("openrlhf", SIZE, 7, SIZE)
    ] * 4
    texts = [(prompt, [told(one) for one in own]) for prompt, own in groups.items()]
    for own, answers in zip(groups.values(), made.in_process(texts), strict=True):
        assert [float(one.rewards[0]) for one in own] == pytest.approx([a.reward for a in answers], abs=1e-4)
        assert [float(one.scores[0]) for one in own] == pytest.approx([a.score for a in answers], abs=1e-4)
        assert all(set(one.info) >= KEYS for one in own)
        assert len({float(one.info["penalty"][0]) for one in own}) == SIZE
    status = tell.until(owner, lambda status: status["version"] == 1)  # four groups make it learn
    assert (status["groups"], status["labels"], status["held"]) == (4, 4, 0)


def test_evaluation_gets_the_bare_reward_and_leaves_no_trace(owner, made, generator, tell):
    before = owner.wait("status")
    size = (made.folder / "journal.jsonl").stat().st_size
    rows = [("Is this evaluated?", {"evaluation": True}), ("And this?", {"evaluation": True})]
    found = generator([], rows).generate_eval_samples(max_new_tokens=8, max_len=64)
    assert len(found) == 2 * SIZE
    assert all(float(one.rewards[0]) == float(one.scores[0]) and not one.info["foresight"][0] for one in found)
    assert owner.wait("status") == before
    assert (made.folder / "journal.jsonl").stat().st_size == size


def test_an_owner_that_is_killed_while_samples_come_answers_as_its_journal_says(owner, made, generator, tell):
    for turn, where in enumerate(("journal", "answer", "swap")):  # verl's test has two more, the owner's own has all
        prompts = [(f"Turn {turn}, prompt {i}?", {"step": turn, "evaluation": False}) for i in range(4)]
        before = owner.wait("status")
        made.trap(where)
        found, *_ = generator(prompts).generate_samples(max_new_tokens=8, max_len=64)
        after = tell.until(owner, lambda status, past=before: status["retrains"] > past["retrains"])
        assert after["pid"] != before["pid"], where
        mine = {row["group"] for row in made.journal("group") if row["prompt"].startswith(f"Turn {turn},")}
        assert len(mine) == 4
        said = sorted((float(one.rewards[0]), int(one.info["version"][0])) for one in found)
        written = sorted(own for (name, _), own in made.answered().items() if name in mine)
        assert [version for _, version in said] == [version for _, version in written]
        assert [reward for reward, _ in said] == pytest.approx([reward for reward, _ in written], abs=1e-4)
    names = [row["group"] for row in made.journal("group")]
    assert len(names) == len(set(names))  # nothing twice
    labelled = [row["number"] for row in made.journal("labels")]
    assert len(labelled) == len(set(labelled))


def test_a_label_that_is_wrong_ends_the_run_with_its_cause(owner, generator):
    with pytest.raises(Exception, match="label: step is 'seven'"):
        generator([("Why?", {"step": "seven"})]).generate_samples(max_new_tokens=8, max_len=64)


def test_the_command_line_looks_at_it_and_takes_it_back(owner, made, capsys):
    from foresighted.cli.main import main

    assert main(["owner", "status", "ray:rewards", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["folder"]) == (owner.wait("status")["version"], str(made.folder))
    assert main(["owner", "rollback", "ray:rewards", "1", "--reason", "tests"]) == 0
    assert owner.wait("status")["version"] == 1
    assert made.journal("rollback")[-1]["reason"] == "tests"
    assert main(["serve", "--ray", "rewards", "--out", str(made.folder), "--config", str(made.config)]) == 0
    assert "pays at version 1" in capsys.readouterr().out
    assert main(["owner", "rollback", "ray:rewards", "99"]) == 2
    assert main(["owner", "status", "ray:nobody"]) == 2
    assert "foresighted serve --ray nobody" in capsys.readouterr().err


def test_an_owner_that_is_not_there_is_said(cluster):
    from foresighted.integrations.ray import RayOwner

    with pytest.raises(RunError, match="foresighted serve --ray nobody"):
        RayOwner("nobody")


def test_two_owners_of_one_name_are_refused(owner, made):
    from foresighted.errors import ConfigError

    found = {}

    def same():
        found["same"] = start("rewards", planned(made.config, made.folder)).wait("status")["pid"]

    threads = [threading.Thread(target=same) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["same"] == owner.wait("status")["pid"]
    made.config.write_text(made.config.read_text().replace("update_every: 4", "update_every: 5"))
    with pytest.raises(ConfigError, match="update_every 5, there 4"):
        start("rewards", planned(made.config, made.folder))


def test_the_command_line_ends_it(owner, capsys):
    from foresighted.cli.main import main

    assert main(["owner", "stop", "ray:rewards"]) == 0
    assert capsys.readouterr().out == "owner 'rewards' has ended\n"
    assert main(["owner", "status", "ray:rewards"]) == 2
    assert "foresighted serve --ray rewards" in capsys.readouterr().err
