"""The arms of a rehearsal in somebody's own setting, and its defaults."""

from __future__ import annotations

import pytest

from foresighted.errors import ConfigError
from foresighted.settings import RehearseConfig, TrainConfig, from_mapping, to_mapping
from foresighted.settings.rehearse import usual

SLOW = TrainConfig(**usual({}))


def _arms(train: TrainConfig, *, utility: bool = True) -> tuple[str, ...]:
    return RehearseConfig(train=train).with_arms(utility=utility).arms


def test_the_usual_arms():
    assert _arms(SLOW) == (
        "rlhf:kl_coefficient=0", "rlhf:kl_coefficient=0.1", "rlhf:kl_coefficient=0.3", "rlhf:kl_coefficient=1",
        "practical", "practical:kl_coefficient=0", "shuffled",
        "practical:reward_model_steps=auto:reward_model_learning_rate=0.005", "labels:kl_coefficient=0",
    )  # fmt: skip
    assert _arms(SLOW, utility=False) == _arms(SLOW)[:-1]


def test_a_follower_that_is_fitted_already_has_no_fitted_arm():
    assert not [arm for arm in _arms(TrainConfig()) if "reward_model_steps" in arm]
    assert not [arm for arm in _arms(TrainConfig(reward_model_train="lora")) if "reward_model_steps" in arm]


def test_a_kl_term_of_ones_own_stands_on_the_ladder():
    raw = _arms(TrainConfig(kl_coefficient=0.05, kl_unit="raw"), utility=False)
    assert raw[1:6] == (*(f"rlhf:kl_coefficient={k}:kl_unit=share" for k in ("0.1", "0.3", "1")),
                        "rlhf:kl_coefficient=0.05", "practical")  # fmt: skip
    none = _arms(TrainConfig(kl_coefficient=0.0), utility=False)
    assert none[4:] == ("practical:kl_coefficient=0.3", "practical:kl_coefficient=0", "shuffled:kl_coefficient=0.3")


@pytest.mark.parametrize("train", [SLOW, TrainConfig(), TrainConfig(kl_coefficient=0.2), TrainConfig(kl_unit="raw")])
def test_arms_differ_and_share_the_follower(train):
    config = RehearseConfig(train=train).with_arms(utility=True)
    made = [config.comparison.arm(arm, 0) for arm in config.arms]
    assert len({str(one) for one in made}) == len(made)
    assert {one.reward_model_pairs for one in made} == {train.reward_model_pairs}
    assert made[0].kl_coefficient == 0
    assert config.role(config.arms[0]) == "baseline"
    assert config.role(config.arms[-1]) == "ceiling"


def test_labels_are_counted_before_anything_is_played(told):
    config = RehearseConfig(train=SLOW, seeds=(0, 1)).with_arms(utility=True)
    assert config.labels_a_round == 2 * (8 * 4 + 16)
    told(config.announced(utility=True), "18 loops (9 arms, seeds 0, 1)", "288 answers of at most 16 tokens",
         "96 labels a round", "20 minutes", "60 at most")  # fmt: skip
    fixed = RehearseConfig(train=SLOW, minutes=None).with_arms(utility=False)
    told(fixed.announced(utility=False), "16 loops", "or more labels for win rates", "60 rounds")


def test_a_new_head_is_fitted_first():
    assert usual({})["initial_steps"] == usual({"reward_model": "./mine"})["initial_steps"] == 0
    assert "initial_steps" not in usual({"reward_model": "encoder:./mine"})
    assert "reward_model_learning_rate" not in usual({"reward_model": "embedded"})
    assert "system_prompt" not in usual({"policy": "./mine"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": ("rlhf", "practicl")}, ["unknown arm 'practicl'", "did you mean 'practical'"]),
        ({"arms": ("rlhf", "rlhf")}, ["names one twice"]),
        ({"arms": ("rlhf:seed=1",)}, ["sets 'seed=1'"]),
        ({"seeds": ()}, ["seeds: got none"]),
        ({"minutes": 0.0}, ["minutes: got 0.0, must be above 0"]),
        ({"minutes": "many"}, ["minutes: got 'many', expected a number"]),
        ({"selection": "labels"}, ["selection, control", "--arms"]),
    ],
)
def test_bad_settings_are_one_line(changes, words, told):
    with pytest.raises(ConfigError) as caught:
        from_mapping(RehearseConfig, to_mapping(RehearseConfig(train=SLOW)) | changes)
    told(caught, *words)
