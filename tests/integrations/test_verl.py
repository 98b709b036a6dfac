"""What verl's configuration must say, and how many reward workers are enough, without verl."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from foresighted.errors import ConfigError
from foresighted.integrations.verl.plan import Asked, check_capacity, fewest_workers, in_flight


class Section(dict):
    __getattr__ = dict.__getitem__


def config(*, workers=8, prompts=64, size=8, mode="sync", **foresighted):
    v1 = Section(trainer_mode=mode, sync=Section(), separate_async=Section(num_warmup_batches=1, parameter_sync_step=4))
    found = Section(
        data=Section(train_batch_size=prompts), algorithm=Section(),
        reward=Section(
            num_workers=workers, reward_model=Section(enable=False), custom_reward_function=Section(path=None)
        ),
        trainer=Section(v1=v1, use_v1=True, project_name="p", experiment_name="e"),
        actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(n=size)),
    )  # fmt: skip
    if foresighted:
        found["foresighted"] = foresighted
    return found


def test_workers_are_enough_where_the_fullest_of_them_holds_what_comes():
    assert [fewest_workers(samples) for samples in (1, 1000, 1001, 1600, 1760, 4096)] == [1, 1, 2, 2, 3, 5]
    for samples in (5_000, 50_000):
        mean = samples / fewest_workers(samples)
        assert mean + 5 * math.sqrt(mean) <= 1000


def test_groups_that_would_block_each_other_are_refused(told):
    check_capacity(config(workers=1, prompts=62, size=16))
    with pytest.raises(ConfigError) as error:
        check_capacity(config(workers=1, prompts=110, size=16))  # left no whole group
    told(error, "reward.num_workers", "got 1", "1760", "1000", "reward.num_workers=3")
    assert in_flight(config(prompts=10, size=4, mode="separate_async")) == 10 * 4 * 6
    filtered = config(prompts=10, size=4)
    filtered["algorithm"]["filter_groups"] = {"enable": True, "max_inflight_gen_batches": 3}
    assert in_flight(filtered) == 10 * 4 * 3


def test_the_section_names_an_owner_or_what_it_is_made_of(told, tmp_path):
    asked = Asked.of(config(owner="rewards"))
    assert (asked.owner, asked.run, asked.size, asked.plan) == ("rewards", "p/e", 8, None)
    (tmp_path / "owner.yaml").write_text("update_every: 7\ngpus: 1\n")
    plan = Asked.of(config(owner="rewards", config=str(tmp_path / "owner.yaml"), out=str(tmp_path))).plan
    assert (plan.config.update_every, plan.placement.gpus, plan.folder) == (7, 1, str(tmp_path))
    for given, words in (
        ({}, ("foresighted", "+foresighted.owner=NAME")),
        ({"owner": None}, ("foresighted.owner", "missing")),
        ({"ovner": "a"}, ("foresighted.ovner", "did you mean 'owner'")),
        ({"owner": "a", "out": "b"}, ("foresighted.config", "missing")),
    ):
        with pytest.raises(ConfigError) as error:
            Asked.of(config(**given))
        told(error, *words)
    old = config(owner="a")
    old["trainer"]["use_v1"] = False
    with pytest.raises(ConfigError) as error:
        Asked.of(old)
    told(error, "trainer.use_v1", "true")
    own = config(owner="a")
    own["reward"]["reward_model"]["enable"] = True
    with pytest.raises(ConfigError) as error:
        Asked.of(own)
    told(error, "reward.reward_model.enable", "leave the owner out", "false")
