"""verl's reward workers and V1 agent loop, unchanged, paid by an owner in the same cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from foresighted.errors import ConfigError, RunError
from foresighted.integrations.ray import RayOwner
from foresighted.integrations.ray.client import end

SIZE = 3
KEYS = {"reward", "score", "penalty", "version", "foresight"}


@pytest.fixture(scope="module")
def made(owner_files):
    return owner_files("verl", update_every=4, group_deadline=60)


@pytest.fixture(scope="module")
def config(cluster, configured, made):
    return configured(
        "+foresighted.owner=verl-rewards", f"+foresighted.config={made.config}", f"+foresighted.out={made.folder}"
    )


@pytest.fixture(scope="module")
def callback(config):
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

    yield build_checkpoint_callback(config)  # verl's first act, and it makes the owner
    end("verl-rewards")


@pytest.fixture(scope="module")
def owner(callback):
    return RayOwner("verl-rewards")


@pytest.fixture(scope="module")
def loop(config, owner, engine):
    return engine(config)


def texts(tokenizer, prompts, uids, paid):
    """Return the groups as the owner got them."""
    groups = []
    for text, uid in zip(prompts, uids, strict=True):
        said = [tokenizer.decode(paid[uid, place][0], skip_special_tokens=True) for place in range(SIZE)]
        asked = [{"role": "user", "content": text}]
        groups.append((asked, [[{"role": "assistant", "content": one}] for one in said]))
    return groups


def test_scattered_siblings_are_one_group_paid_as_in_one_process(loop, owner, made, tokenizer, tell):
    prompts = [f"Why is number {i} odd?" for i in range(4)]
    uids = loop.submit(prompts, step=1)
    assert set(loop.wait(uids).values()) == {"finished"}
    paid = loop.paid(uids)
    assert set(paid) == {(uid, place) for uid in uids for place in range(SIZE)}
    rows = made.journal("group")
    assert {row["group"] for row in rows} == set(uids)
    assert {(row["run"], row["size"], row["step"], len(row["members"])) for row in rows} == {
        ("tests/one", SIZE, 1, SIZE)
    }
    expected = made.in_process(texts(tokenizer, prompts, uids, paid))
    for uid, answers in zip(uids, expected, strict=True):
        for place, answer in enumerate(answers):
            _, reward, row = paid[uid, place]
            assert (reward, row["score"]) == pytest.approx((answer.reward, answer.score), abs=1e-4)
            assert set(row) == KEYS
        assert len({paid[uid, place][2]["penalty"] for place in range(SIZE)}) == SIZE
    status = tell.until(owner, lambda status: status["version"] == 1)  # four groups make it learn
    assert (status["groups"], status["labels"], status["held"]) == (4, 4, 0)


def test_evaluation_gets_the_bare_reward_and_leaves_no_trace(loop, owner, made):
    before, size = owner.wait("status"), (made.folder / "journal.jsonl").stat().st_size
    uids = loop.submit(["Is this evaluated?"], step=1, validate=True)
    assert set(loop.wait(uids, "val").values()) == {"finished"}
    ((_, reward, row),) = loop.paid(uids, "val").values()  # one response each, as val_kwargs.n says
    assert reward == pytest.approx(row["score"])
    assert not row["foresight"]
    assert owner.wait("status") == before
    assert (made.folder / "journal.jsonl").stat().st_size == size


def test_an_owner_that_is_killed_while_groups_are_held_answers_as_its_journal_says(loop, owner, made, tell):
    for turn, where in enumerate(("hold", "retrain")):
        before = owner.wait("status")
        if where != "hold":
            made.trap(where)
        uids = loop.submit([f"Turn {turn}, prompt {i}?" for i in range(4)], step=2 + turn)
        if where == "hold":
            tell.kill(owner)
        assert set(loop.wait(uids).values()) == {"finished"}, where
        after = tell.until(owner, lambda status, past=before: status["retrains"] > past["retrains"])
        assert after["pid"] != before["pid"], where
        paid, written = loop.paid(uids), made.answered()
        for key, (_, reward, row) in paid.items():
            assert (reward, row["version"]) == pytest.approx(written[key], abs=1e-4)
    names = [row["group"] for row in made.journal("group")]
    assert len(names) == len(set(names))  # nothing twice
    labelled = [row["number"] for row in made.journal("labels")]
    assert len(labelled) == len(set(labelled))


def test_a_checkpoint_is_tied_to_a_version_and_resuming_goes_back_to_it(callback, config, loop, owner, tell):
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

    version, folder = owner.wait("status")["version"], Path(config.trainer.default_local_dir)
    callback.on_save(trainer=None, global_step=9, checkpoint_dir=str(folder / "global_step_9"), async_save=False)
    loop.wait(loop.submit([f"After the checkpoint {i}?" for i in range(4)], step=10))
    tell.until(owner, lambda status: status["version"] == version + 1)
    (folder / "global_step_9").mkdir()
    (folder / "latest_checkpointed_iteration.txt").write_text("9")
    build_checkpoint_callback(config)  # a trainer that goes on
    assert owner.wait("status")["version"] == version
    (folder / "global_step_8").mkdir()
    (folder / "latest_checkpointed_iteration.txt").write_text("8")
    with pytest.raises(RunError, match="nothing is tied to step 8"):
        build_checkpoint_callback(config)


def test_what_cannot_work_is_refused_before_anything_starts(cluster, configured):
    from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

    for overrides, told in (
        (["+foresighted.owner=a", "data.train_batch_size=1024"], "reward.num_workers=4"),
        ([], r"\+foresighted.owner=NAME"),
        (["+foresighted.owner=a", "+foresighted.cofig=x"], "did you mean 'config'"),
        (["+foresighted.owner=a", "+foresighted.config=x"], "foresighted.out: missing"),
        (["+foresighted.owner=a", "trainer.use_v1=false"], "trainer.use_v1"),
        (["+foresighted.owner=a", "reward.reward_manager.name=Other"], "reward.reward_manager"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            build_checkpoint_callback(configured(*overrides))
    with pytest.raises(RunError, match="foresighted serve --ray nobody"):
        build_checkpoint_callback(configured("+foresighted.owner=nobody"))
