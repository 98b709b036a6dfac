"""What a training goes by where its settings leave it open, or where trainer or checkpoint say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from foresighted.errors import ConfigError
from foresighted.integrations.trl import FPOConfig
from foresighted.integrations.trl.config import settled
from foresighted.settings import names, read_yaml, renamed, to_mapping

OLD = Path(__file__).parents[1] / "settings" / "files_of_0_2" / "trl.yaml"
NO_ADAPTER = {"no_policy": "the policy has no adapter to switch off", "no_ratio": "the policy has no adapter"}
SHARDS = {"no_ratio": "the policy is in shards"}


@pytest.mark.parametrize(
    ("asked", "what", "found", "said"),
    [
        ({}, {}, ("policy", 0.3), []),
        ({}, NO_ADAPTER, ("leave-one-out", 0.0), ["reference is leave-one-out and kl_coefficient is 0"]),
        ({"reference": "column"}, NO_ADAPTER, ("column", 0.0), ["kl_coefficient is 0"]),
        ({"reference": "leave-one-out", "kl_coefficient": 0.0}, NO_ADAPTER, ("leave-one-out", 0.0), []),
        ({}, SHARDS, ("policy", 0.0), ["in shards: kl_coefficient is 0"]),
        ({}, {"beta": 0.05}, ("policy", 0.0), ["0.3 is not applied: the trainer's own beta 0.05 holds"]),
        ({"kl_coefficient": 0.0}, {"beta": 0.05}, ("policy", 0.0), []),
        (
            {},
            {"beta": 0.05, **NO_ADAPTER},
            ("leave-one-out", 0.0),
            ["trainer's own beta 0.05 holds", "off: reference is leave-one-out"],
        ),
        ({}, {"elsewhere": "helpful"}, ("policy", 0.0), ["FPOReward 'helpful' of the same trainer"]),
    ],
)
def test_references_and_distance_follow_the_trainer(asked, what, found, said):
    config, lines = settled(FPOConfig(**asked), **what)
    assert (config.reference, config.kl_coefficient) == found
    assert len(lines) == len(said)
    assert all(words in line for words, line in zip(said, lines, strict=True))


def test_references_of_a_policy_that_cannot_be_asked_are_refused():
    with pytest.raises(ConfigError, match=r"no adapter to switch off; give reference_policy=MODEL, or"):
        settled(FPOConfig(reference="policy"), **NO_ADAPTER)


def test_a_run_of_0_2_goes_on_as_it_was():
    saved = renamed(read_yaml(OLD), names(FPOConfig))
    config, said = settled(FPOConfig(), saved)
    assert (config.reference, config.references, config.kl_coefficient) == ("leave-one-out", 1, 0.0)
    assert (config.reward_model_buffer, config.reward_model_max_length, config.gamma) == (0, 1024, 1.0)
    assert len(said) == 1
    assert "the checkpoint is of an earlier version" in said[0]
    assert "references 1" in said[0]


def test_a_checkpoint_says_what_the_settings_leave_open():
    saved = to_mapping(settled(FPOConfig(gamma=2.0), beta=0.05)[0])
    config, said = settled(FPOConfig(), saved)  # without the trainer's beta
    assert (config.reference, config.gamma, config.kl_coefficient) == ("policy", 2.0, 0.0)
    assert said == ["kl_coefficient 0.3 is not applied: the run was begun without it"]
    again = to_mapping(settled(FPOConfig(), no_policy="trained before", no_ratio="trained before")[0])
    assert settled(FPOConfig(), again)[0].reference == "leave-one-out"  # nobody can tell any more
    assert settled(FPOConfig(kl_coefficient=0.1), to_mapping(settled(FPOConfig())[0]))[0].kl_coefficient == 0.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"references": 0}, "references: got 0, must be at least 1"),
        ({"kl_coefficient": -0.1}, "kl_coefficient: got -0.1, must be at least 0"),
        ({"kl_unit": "shares"}, r"kl_unit: got 'shares' \(did you mean 'share'"),
        ({"reference": "frozen"}, "reference: got 'frozen', expected one of auto, leave-one-out, column, policy"),
    ],
)
def test_bad_values_are_one_line(wrong, said):
    with pytest.raises(ConfigError, match=said):
        FPOConfig(**wrong)
