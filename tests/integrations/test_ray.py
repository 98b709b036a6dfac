"""What an owner in Ray is made of, and how it is said that there is no Ray, without Ray."""

from __future__ import annotations

from dataclasses import replace

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
