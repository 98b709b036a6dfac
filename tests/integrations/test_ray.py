"""What an owner in Ray is made of, and how it is said that there is no Ray, without Ray."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from foresighted.errors import ConfigError
from foresighted.integrations.owner import OwnerConfig
from foresighted.integrations.ray import Placement, Plan, RayOwner, planned


def test_a_file_holds_the_settings_of_owner_and_placement(tmp_path, told):
    path = tmp_path / "owner.yaml"
    path.write_text("steering: practical\ncpus: 2\n")
    plan = planned(path, "somewhere")
    assert plan == Plan(plan.folder, OwnerConfig(steering="practical"), Placement(cpus=2.0))
    assert plan.folder.startswith("/")
    assert plan.folder.endswith("/somewhere")
    path.write_text("gpus: -1\n")
    with pytest.raises(ConfigError) as error:
        planned(path, "somewhere")
    told(error, "gpus", "-1", "at least 0")
    path.write_text("sttering: practical\n")
    with pytest.raises(ConfigError) as error:
        planned(path, "somewhere")
    told(error, "sttering", "did you mean 'steering'")


def test_plans_differ_in_what_an_owner_cannot_change():
    plan = Plan("/a", OwnerConfig())
    assert plan.differences(plan) == ""
    assert plan.differences(replace(plan, config=OwnerConfig(group_deadline=7.0))) == ""
    other = Plan("/b", OwnerConfig(update_every=9), Placement(gpus=1.0))
    assert plan.differences(other) == "out /a, there /b, update_every 64, there 9, gpus 0.0, there 1.0"


def test_without_ray_that_is_said(told):
    with pytest.raises(ConfigError) as error:
        RayOwner("rewards")
    told(error, "ray", "not installed here", "pip install")


class Here:
    """Ray without Ray: actors are objects, what is put is counted."""

    class exceptions:  # noqa: N801  # its name there
        RayTaskError = RayError = ZeroDivisionError

    def __init__(self):
        self.puts = 0

    def put(self, value):
        self.puts += 1
        return value

    def get(self, value):
        return value

    def handle(self, actor):
        calls = {name: SimpleNamespace(remote=getattr(actor, name)) for name in ("read", "rewards")}
        return SimpleNamespace(**calls)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["head", "all"])
def test_replicas_read_what_the_owner_would_with_the_weights_of_its_version(tiny_deberta, scope, monkeypatch):
    import torch

    from foresighted.integrations.owner.scoring import Scorer, placed
    from foresighted.integrations.ray import replicas
    from foresighted.labels.pair import Groups

    here = Here()
    monkeypatch.setattr(replicas, "ray", lambda: here)
    config = OwnerConfig(reward_model=str(tiny_deberta), device="cpu", scope=scope, reward_model_train="all").resolved()
    own = Scorer(placed(config), config)
    actors = [replicas.Replica(config) for _ in range(2)]
    spread = replicas.SpreadScorer(placed(config), config, [here.handle(actor) for actor in actors])
    groups = [Groups([f"Why {i}?"], [["Because.", f"It is {i} so", "Who knows"]], None) for i in range(3)]
    groups.append(Groups(["Why?"], [["So it is"]], None))  # an evaluation
    for turn in range(2):
        expected, found = own.features(groups), spread.features(groups)
        assert (expected is None) == (found is None) == (scope != "head")
        for place, group in enumerate(groups[:3]):
            one = own.read(group, None if expected is None else expected[place])
            two = spread.read(group, None if found is None else found[place])
            torch.testing.assert_close(two.reward, one.reward)
            torch.testing.assert_close(two.products, one.products)
        told = (["Why?", "Why?"], ["So it is", "No"])
        assert spread.rewards(*told) == pytest.approx(own.rewards(*told), abs=1e-5)
        assert here.puts == turn + 1  # once a version
        with torch.no_grad():
            for scorer in (own, spread):
                for parameter in scorer.follower.learner.parameters.values():
                    parameter.add_(0.01)


def test_replicas_are_refused_where_only_the_owner_knows_enough(tiny_deberta, told):
    from foresighted.integrations.owner.scoring import placed
    from foresighted.integrations.ray.replicas import SpreadScorer

    config = OwnerConfig(reward_model=str(tiny_deberta), device="cpu", steering="unrolled", scope="all")
    with pytest.raises(ConfigError) as error:
        SpreadScorer(placed(config), config, [None])
    told(error, "replicas", "unrolled", "scope all", "no replicas")
