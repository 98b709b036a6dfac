"""A configuration as somebody types it: read back, it is the same."""

from __future__ import annotations

import shlex

import pytest

import foresighted as fpo
from foresighted.api.arguments import configured
from foresighted.cli.main import parser
from foresighted.cli.options import given, places
from foresighted.settings import RehearseConfig, TrainConfig, settings, to_mapping
from foresighted.settings.rehearse import usual
from foresighted.settings.steering import SteeringConfig
from foresighted.settings.typed import command, lines

ARMS = (*RehearseConfig(train=TrainConfig(**usual({}))).with_arms(utility=False).arms,
        "rlhf:policy_update=dpo:rollback_window=5")  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "reward_model": "my models/rm",
            "labels": "judge.py:prefer",
            "prompts": "a b.jsonl",
            "system_prompt": "-- 'x'",
        },
        {"lora_targets": ("q_proj", "v_proj"), "sampled_labels": True, "kl_unit": "raw", "reward_model_pairs": "all"},
    ],
)
def test_what_follows_from_an_arm_parses_back_to_it(arm, more):
    config = RehearseConfig(train=TrainConfig(**{**usual(more), **more}), arms=(arm,))
    made = config.comparison.arm(arm, 3)
    words = shlex.split(command(made, "runs/it's mine").replace("\\\n", " "))
    args = parser().parse_args(words[1:])
    back = configured(TrainConfig, given(args, TrainConfig), **places(args)).resolved()
    assert {**to_mapping(back), "seed": 3, "threads": 1} == to_mapping(made)
    assert str(args.out) == "runs/it's mine"
    scope: dict[str, object] = {}
    exec(lines(made), scope)
    steers = scope["config"]
    assert isinstance(steers, fpo.FPOConfig)
    shared = (*settings(SteeringConfig), "kl_coefficient", "kl_unit", "references", "reward_model_learning_rate",
              "sampled_labels")  # fmt: skip
    assert {name: getattr(steers.resolved(), name) for name in shared} == {name: getattr(made, name) for name in shared}
    left = "# without policy_update dpo, which foresighted train alone has\n# without rollback_window 5, which"
    assert (left in lines(made)) == ("dpo" in arm)
    assert (steers.reward_model_pairs == "all") == (made.reward_model_pairs == "all")


def test_what_trl_does_not_have_is_named_in_a_comment():
    config = TrainConfig(steering="proximal", steering_labels="group", shaping="par", ensemble=4, confidence=1.0)
    text, scope = lines(config), {}
    for told in ("steering_labels group", "shaping par", "ensemble 4", "confidence 1.0"):
        assert f"# without {told}, which foresighted train alone has" in text
    exec(text, scope)
    assert scope["config"].steering_labels == "candidate"
    assert "#" not in lines(TrainConfig())


def test_objects_are_left_out_of_a_command():
    assert "labels" not in command(TrainConfig(labels="object:judge.prefer:0123"), "x")
