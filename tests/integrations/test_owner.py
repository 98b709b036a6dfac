"""A reward owner on tiny models: what it pays, what it writes down, what it learns, and what a death leaves."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import asynccontextmanager

import pytest
import torch

from foresighted.alignment.probed import ProbedFollower
from foresighted.errors import DataError, RunError
from foresighted.integrations.owner import GroupIncomplete, OwnerConfig, RewardOwner
from foresighted.integrations.owner.scoring import placed, side_by_side
from foresighted.integrations.owner.watch import logged, watching
from foresighted.store.records import CandidateRow, HeldoutRow, RoundRow
from foresighted.store.rows import read

PROMPT = "Why is the sky blue?"
RESPONSES = ["Light scatters.", "Because of air", "It just is blue, blue.", "Nobody knows it at all"]


def longer(prompts, first, second):
    """Prefer the longer response, softly."""
    return [1 / (1 + 2.7 ** ((len(b) - len(a)) / 10)) for a, b in zip(first, second, strict=True)]


@asynccontextmanager
async def opened(folder, model, labels=None, **settings):
    owner = RewardOwner.open(folder, OwnerConfig(reward_model=str(model), device="cpu", **settings), labels)
    try:
        yield owner
    finally:
        await owner.close()


async def until(owner, **wanted):
    """Return the status once it says what is wanted; threads label and learn meanwhile."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        status = await owner.status()
        if all(status[name] == value for name, value in wanted.items()):
            return status
        assert not status["last_error"], status
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within a minute: {wanted}, but {status}")


def lines(folder, event=None):
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [row for row in rows if event in (None, row["event"])]


def test_a_group_from_many_places_is_paid_as_one_and_the_model_learns(tmp_path, tiny_deberta):
    async def play():
        async with opened(tmp_path, tiny_deberta, longer, update_every=2, reward_model_learning_rate=1e-2) as owner:
            places = [owner.score("run", "a", n, 4, PROMPT, RESPONSES[n], step=1) for n in (2, 0, 3, 1)]
            scattered = await asyncio.gather(*places)
            whole = await owner.score_group("run", "b", PROMPT, [*RESPONSES[:2], "rain"], step=1)
            status = await until(owner, rounds=1, version=1)
            assert (status["groups"], status["labels"], status["retrains"]) == (2, 2, 1)
            after = await owner.score_group("run", "c", PROMPT, RESPONSES)
            again = await owner.score_group("run", "a", PROMPT, RESPONSES)  # a retry
            bare = await owner.score("run", "d", 0, 4, PROMPT, RESPONSES[0], evaluation=True)
        return [scattered[i] for i in (1, 3, 0, 2)], whole, after, again, bare

    first, whole, after, again, bare = asyncio.run(play())
    assert [a.version for a in (*first, *whole)] == [0] * 7
    assert {a.version for a in after} == {1}
    assert again == first
    assert all(a.reward == a.score - a.penalty and a.foresight for a in first)
    assert len({a.penalty for a in first}) == 4
    assert (bare.version, bare.penalty, bare.foresight, bare.score) == (1, 0.0, False, pytest.approx(after[0].score))
    assert [row["event"] for row in lines(tmp_path)].count("group") == 3
    rows = read(tmp_path / "candidates.jsonl", CandidateRow)
    assert [row.round for row in rows] == [1] * 7
    assert [row.score for row in rows[:4]] == [a.reward for a in first]
    (row,) = read(tmp_path / "rounds.jsonl", RoundRow)
    assert (row.labels, row.labels_total, row.reward_model_loss is not None) == (2, 2, True)


def test_what_is_paid_is_what_fpo_reward_pays(tmp_path, tiny_deberta):
    from foresighted.alignment.foresight import Foresight
    from foresighted.alignment.probed import ProbedFollower, loaded

    config = OwnerConfig(reward_model=str(tiny_deberta), device="cpu")

    async def play():
        async with opened(tmp_path, tiny_deberta) as owner:
            return await owner.score_group("run", "a", PROMPT, RESPONSES)

    found = asyncio.run(play())
    model = loaded(str(tiny_deberta), None, config)
    optimizer = ProbedFollower(model, config).learner.optimizer
    foresight = Foresight(config, model, optimizer, "leave-one-out")
    scores = foresight.score([PROMPT] * 4, RESPONSES, groups=1)
    penalty = foresight.penalty(scores, torch.full_like(scores.reward, 0.5)).value
    assert [a.score for a in found] == pytest.approx(scores.reward[0].tolist(), abs=1e-5)
    assert [a.penalty for a in found] == pytest.approx(penalty[0].tolist(), abs=1e-5)


@pytest.mark.slow
def test_a_share_of_the_spread_is_that_of_the_groups_so_far(tmp_path, tiny_deberta):
    from foresighted.alignment.foresight import Foresight
    from foresighted.alignment.probed import ProbedFollower, loaded

    config = OwnerConfig(reward_model=str(tiny_deberta), device="cpu")
    texts = [RESPONSES[:2], RESPONSES[2:], ["Rain is rain.", "It falls, and falls, and falls."]]

    async def play(folder, parts):
        found = []
        for part in parts:  # an owner each
            async with opened(folder, tiny_deberta) as owner:
                found += [await owner.score_group("run", str(n), PROMPT, texts[n]) for n in part]
        return found

    found = asyncio.run(play(tmp_path / "one", [(0, 1, 2)]))
    assert asyncio.run(play(tmp_path / "two", [(0, 1), (2,)])) == found  # the journal knows
    model = loaded(str(tiny_deberta), None, config)
    foresight = Foresight(config, model, ProbedFollower(model, config).learner.optimizer, "leave-one-out")
    scores = foresight.score([PROMPT] * 6, [text for pair in texts for text in pair], groups=3)
    together = foresight.penalty(scores, torch.full_like(scores.reward, 0.5))  # as a round of three
    assert [a.penalty for a in found[2]] == pytest.approx(together.value[2].tolist(), abs=1e-5)
    assert [row["gamma"] for row in lines(tmp_path / "one", "group")][2] == pytest.approx(together.gamma, rel=1e-4)


def test_an_incomplete_group_is_an_error_or_paid_bare_and_counted(tmp_path, tiny_deberta, told):
    async def play(incomplete):
        settings = {"group_deadline": 0.05, "incomplete": incomplete}
        async with opened(tmp_path / incomplete, tiny_deberta, longer, **settings) as owner:
            places = [owner.score("run", "a", n, 4, PROMPT, RESPONSES[n]) for n in (0, 2)]
            found = await asyncio.gather(*places, return_exceptions=True)
            late = await asyncio.gather(owner.score("run", "a", 1, 4, PROMPT, RESPONSES[1]), return_exceptions=True)
            return found, late[0], await owner.status()

    found, late, status = asyncio.run(play("error"))
    assert all(isinstance(error, GroupIncomplete) for error in (*found, late))
    told(found[0], "'a'", "2 of 4", "group_deadline", "incomplete bare")
    assert (status["refused_responses"], status["groups"]) == (3, 0)
    found, late, status = asyncio.run(play("bare"))
    assert all(a.reward == a.score and not a.foresight for a in (*found, late))
    assert (status["bare_responses"], status["labels"], status["unlabelled_groups"]) == (3, 0, 0)


def test_what_does_not_go_together_is_refused(tmp_path, tiny_deberta, told):
    async def play():
        async with opened(tmp_path, tiny_deberta) as owner:
            waiting = asyncio.ensure_future(owner.score("run", "a", 0, 4, PROMPT, RESPONSES[0]))
            await asyncio.sleep(0)
            asked = [
                owner.score("run", "a", 0, 4, PROMPT, "another text"),
                owner.score("run", "a", 1, 3, PROMPT, RESPONSES[1]),
                owner.score("run", "a", 1, 4, "What is rain?", RESPONSES[1]),
                owner.score("run", "a", 4, 4, PROMPT, RESPONSES[1]),
                owner.score("run", "b", 0, 0, PROMPT, RESPONSES[1]),
                owner.score("run", "b", 0, 2, PROMPT, 5),
            ]
            found = await asyncio.gather(*asked, return_exceptions=True)
            with pytest.raises(RunError, match="another process is writing"):
                RewardOwner.open(tmp_path, OwnerConfig(reward_model=str(tiny_deberta), device="cpu"))
            await owner.close()
            return [*found, *await asyncio.gather(waiting, return_exceptions=True)]

    found = asyncio.run(play())
    assert all(isinstance(error, DataError) for error in found[:6])
    for error, words in zip(
        found, ("two texts", "size: got 3", "prompt", "member: got 4", "size: got 0", "got 5"), strict=False
    ):
        told(error, words)
    told(found[-1], "closed")


def test_an_owner_goes_on_where_it_was(tmp_path, tiny_deberta):
    settings = {"update_every": 1, "reward_model_learning_rate": 1e-2}

    async def play(labels, group):
        async with opened(tmp_path, tiny_deberta, labels, **settings) as owner:
            found = await owner.score_group("run", group, PROMPT, RESPONSES)
            return found, await until(owner, rounds=int(group), version=int(group))

    first, _ = asyncio.run(play(longer, "1"))
    second, status = asyncio.run(play(longer, "2"))
    assert (status["versions"], second[0].version, status["labels"]) == ([0, 1, 2], 1, 2)
    assert first != second


def test_back_to_a_version_and_to_a_step(tmp_path, tiny_deberta, told):
    async def play():
        async with opened(tmp_path, tiny_deberta, longer, update_every=1, reward_model_learning_rate=1e-2) as owner:
            first = await owner.score_group("run", "a", PROMPT, RESPONSES)
            await until(owner, rounds=1)
            tied = await owner.tie("run", 5)
            second = await owner.score_group("run", "b", PROMPT, RESPONSES)
            await until(owner, rounds=2)
            await owner.rollback(0, "it learnt nonsense")
            rolled = await owner.score_group("run", "c", PROMPT, RESPONSES)
            await until(owner, rounds=3, version=3)
            assert await owner.restore("run", 5) == tied == 1
            third = await owner.score_group("run", "b", PROMPT, RESPONSES)
            status = await until(owner, rounds=2, version=4)
            with pytest.raises(RunError, match="tied are 5"):
                await owner.restore("run", 6)
            with pytest.raises(RunError, match="on disk are"):
                await owner.rollback(9, "")
            return first, second, rolled, third, status

    first, second, rolled, third, status = asyncio.run(play())
    assert [a.score for a in rolled] == [a.score for a in first] != [a.score for a in second]
    assert [(a.score, a.version) for a in third] == [(a.score, a.version) for a in second]
    assert [row.round for row in read(tmp_path / "rounds.jsonl", RoundRow)] == [1, 2]
    assert status["versions"] == [0, 1, 2, 3, 4]


def test_evaluation_is_recorded_once_a_prompt_and_teaches_nothing(tmp_path, tiny_deberta, labels):
    async def play():
        async with opened(tmp_path, tiny_deberta, labels, update_every=1) as owner:
            for _ in range(2):
                await owner.score_group("run", "e", PROMPT, RESPONSES[:2], evaluation=True)
            before = lines(tmp_path) if (tmp_path / "journal.jsonl").exists() else []
            await owner.score_group("run", "a", PROMPT, RESPONSES)
            await until(owner, rounds=1)
            await owner.score("run", "e", 1, 8, PROMPT, RESPONSES[0], evaluation=True)
            return before, await owner.status()

    before, status = asyncio.run(play())
    assert (before, status["labels"], status["held"]) == ([], 1, 0)
    rows = read(tmp_path / "heldout.jsonl", HeldoutRow)
    assert [(row.round, row.text) for row in rows] == [(0, RESPONSES[0]), (1, RESPONSES[0])]
    assert rows[0].utility == pytest.approx(sum(map(len, RESPONSES[:2])) / 20)


def test_a_fall_of_the_utility_is_told_once(tmp_path, caplog):
    monitor = watching(tmp_path, [], trusted=True)
    for number in range(1, 41):
        utility, reward = 4 - 0.1 * number + 0.05 * (number % 3), 0.02 * number
        row = RoundRow(number, reward, reward, 0.0, utility, None, 0, 0, None, None, None, None, 9, 0, 1, number)
        monitor.log(number, logged(row))
    assert monitor.verdict.verdict == "collapsed"
    assert len(caplog.records) == len((tmp_path / "collapse.jsonl").read_text().splitlines()) == 1


def test_responses_alone_are_compared_with_references_that_are_kept(tmp_path, tiny_deberta, told):
    async def play():
        async with opened(tmp_path, tiny_deberta, longer, update_every=100) as owner:
            with pytest.raises(DataError) as refused:
                await owner.score("run", "s", 0, 1, PROMPT, RESPONSES[0])
            told(refused, "size", "no reference")
            first = await owner.score("run", "s0", 0, 1, PROMPT, RESPONSES[0], references=["It depends."])
            rest = [await owner.score("run", f"s{n}", 0, 1, PROMPT, f"{RESPONSES[n % 4]} {n}") for n in range(1, 12)]
            return first, rest, await until(owner, labels=12)

    first, rest, status = asyncio.run(play())
    assert not first.foresight
    assert first.reward == first.score
    assert [a.foresight for a in rest] == [False] * 6 + [True] * 5  # from 8 on their spread is known
    assert all(a.penalty for a in rest[6:])
    assert status["bare_responses"] == 7
    assert {row["references"][0] for row in lines(tmp_path, "group")} == {"It depends."}


def test_labels_that_a_form_reads_come_first_and_a_labeller_that_fails_is_told(tmp_path, tiny_deberta, monkeypatch):
    monkeypatch.setattr("foresighted.labels.asking.FIRST_WAIT", 0.01)
    fails = []

    def judge(prompts, first, second):
        if fails:
            raise ConnectionError("the judge is away")
        return longer(prompts, first, second)

    async def play():
        settings = {"steering": "relaxed", "label_failures": 2, "label_retries": 0, "update_every": 1}
        async with opened(tmp_path, tiny_deberta, judge, **settings) as owner:
            good = await owner.score_group("run", "a", PROMPT, RESPONSES)
            await until(owner, rounds=1)
            fails.append(1)
            bare = await owner.score_group("run", "b", PROMPT, RESPONSES)
            with pytest.raises(RunError, match="no answer 2 times"):
                await asyncio.wait_for(owner.score_group("run", "c", PROMPT, RESPONSES), 30)
            with pytest.raises(RunError, match="no answer 2 times"):
                await owner.score_group("run", "d", PROMPT, RESPONSES)
            return good, bare, await owner.status()

    good, bare, status = asyncio.run(play())
    assert all(a.foresight for a in good)
    assert not any(a.foresight or a.penalty for a in bare)
    assert (status["labels"], status["labels_failed"], status["bare_responses"]) == (4, 4, 4)


def test_people_answer_a_queue_later(tmp_path, tiny_deberta):
    async def play():
        settings = {"update_every": 1, "reward_model_learning_rate": 1e-2, "labels": f"{tmp_path / 'queue'}/"}
        async with opened(tmp_path / "owner", tiny_deberta, **settings) as owner:
            await owner.score_group("run", "a", PROMPT, RESPONSES)
            await until(owner, rounds=1, version=0, pairs_pending=1)
            (question,) = map(json.loads, (tmp_path / "queue" / "questions.jsonl").read_text().splitlines())
            with (tmp_path / "queue" / "labels.jsonl").open("w") as file:
                file.write(json.dumps({"id": question["id"], "label": 1.0}) + "\n")
            await owner.score_group("run", "b", PROMPT, RESPONSES)
            return await until(owner, rounds=2, version=1, pairs_pending=1)

    assert asyncio.run(play())["labels"] == 1


@pytest.mark.campaign
@pytest.mark.processes
def test_killed_anywhere_nothing_is_lost_and_nothing_recorded_twice(tmp_path, tiny_deberta, start_script, script):
    """SIGKILL while groups are held, the journal is written, the model learns, and versions change places."""
    most = None if os.environ.get("FUZZ_POINTS") == "all" else 6
    names = {"MODEL": str(tiny_deberta), "PLACE": str(tmp_path / "place"), "MOST": most}
    process = start_script(script("owner_dying.py"), names=names)
    assert process.wait(3000) == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["kills"] >= (50 if most is None else most)
    assert not found["wrong"], found["wrong"][:5]


@pytest.mark.slow
def test_a_model_that_accelerate_places_pays_and_learns_alike(tmp_path, tiny_deberta):
    async def play(folder, **settings):
        async with opened(folder, tiny_deberta, longer, update_every=1, reward_model_train="all", **settings) as owner:
            found = [await owner.score_group("run", "a", PROMPT, RESPONSES)]
            await until(owner, rounds=1, version=1)
            return [*found, await owner.score_group("run", "b", PROMPT, RESPONSES)]

    assert asyncio.run(play(tmp_path / "plain")) == asyncio.run(play(tmp_path / "placed", device_map="auto"))


def test_a_disk_that_refuses_is_told_and_leaves_whole_lines(tmp_path, tiny_deberta, monkeypatch, told):
    from foresighted.store import files

    append = files.append

    def full(path, text):
        if path.name == "journal.jsonl" and '"group": "b"' in text:
            with path.open("ab") as file:
                file.write(text.encode()[:50])
            raise OSError(28, "No space left on device", str(path))
        append(path, text)

    async def play():
        async with opened(tmp_path, tiny_deberta) as owner:
            await owner.score_group("run", "a", PROMPT, RESPONSES)
            monkeypatch.setattr(files, "append", full)
            with pytest.raises(RunError) as refused:
                await owner.score_group("run", "b", PROMPT, RESPONSES)
            told(refused, "journal.jsonl", "No space left", "free some space")
            monkeypatch.setattr(files, "append", append)
            await owner.score_group("run", "c", PROMPT, RESPONSES)
            with pytest.raises(DataError, match="cannot be written"):
                await owner.score_group("run", "d", PROMPT, ["\ud800", "x"])

    asyncio.run(play())
    assert [row["group"] for row in lines(tmp_path)] == ["a", "c"]


def test_two_threads_read_what_one_reads():
    config = OwnerConfig(reward_model="embedded:relevance", device="cpu").resolved()
    texts = [f"{word} " * count for count, word in enumerate(["rain", "fish", "sky", "why"] * 4, 1)]
    model = placed(config)
    one = model.features([PROMPT] * len(texts), texts)
    model.each = side_by_side(2)
    torch.testing.assert_close(model.features([PROMPT] * len(texts), texts), one)


def test_the_probe_of_a_head_is_read_once(tiny_deberta):
    config = OwnerConfig(reward_model=str(tiny_deberta), device="cpu").resolved()
    follower = ProbedFollower(placed(config), config)
    assert follower.drift() is None
    follower.take_probe([PROMPT] * 4, RESPONSES)
    assert follower.drift() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        follower.reward_model.head.weight.mul_(2)
    now = follower.rewards([PROMPT] * 4, RESPONSES)
    follower.reward_model.features = lambda *_, **__: pytest.fail("read again")
    apart = [abs(a - b) for a, b in zip(now, follower.probe.start, strict=True)]
    assert follower.drift() == pytest.approx(sum(apart) / 4, rel=1e-5)
    assert follower.drift() > 0
