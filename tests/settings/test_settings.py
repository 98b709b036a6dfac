from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from foresighted.api.arguments import configured
from foresighted.errors import ConfigError
from foresighted.settings import (
    PRESETS,
    CompareConfig,
    TrainConfig,
    from_mapping,
    from_text,
    read_yaml,
    settings,
    to_mapping,
    to_yaml,
)


@pytest.mark.parametrize("kind", [TrainConfig, CompareConfig])
def test_yaml_round_trip(kind):
    values = {"gamma": 0.7, "lora_targets": ["q_proj"], "system_prompt": ""} | (
        {"arms": ["rlhf"], "seeds": [3, 4]} if kind is CompareConfig else {}
    )
    config = from_mapping(kind, values)
    assert from_mapping(kind, yaml.safe_load(to_yaml(config))) == config


def test_numbers_that_yaml_reads_as_text(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("policy_learning_rate: 5e-4\nrounds: 3\n")
    assert from_mapping(TrainConfig, read_yaml(path)).policy_learning_rate == 5e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gamma": -0.1}, "gamma: got -0.1, must be at least 0"),
        ({"gamma": float("nan")}, "gamma: got nan, must be finite and at least 0"),
        ({"gamma": float("inf")}, "gamma: got inf"),
        ({"candidates": 1}, "candidates: got 1, must be at least 2"),
        ({"steering": "relax"}, r"did you mean 'relaxed'"),
        ({"rounds": 2.5}, "rounds: got 2.5, expected a whole number"),
        ({"rounds": True}, "rounds: got True, expected a whole number"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens"),
        ({"policy_train": "all", "quantization": "4bit"}, "quantised policy can only be trained with lora"),
        ({"policy_train": "all", "lora_layers": "last:1"}, "lora_layers: got 'last:1', but policy_train all has no"),
    ],
)
def test_out_of_range_is_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"ensemble": 4, "reward_model_train": "all"},
            "ensemble: got 4, .* use reward_model_train and scope head",
        ),
        ({"ensemble": 4, "scope": "last:1"}, "ensemble: got 4, .* not head and last:1"),
        ({"ensemble": 2, "steering": "unrolled"}, "ensemble: got 2, and unrolled follows the optimiser of one head"),
        ({"ensemble": 2, "steering": "exact", "curvature": "adamw"}, "and exact follows the optimiser"),
        ({"confidence": 1.0}, "confidence: needs an ensemble of at least 2"),
        ({"correction": 0.5, "shaping": "par"}, "correction: pays .* already; use shaping none, not par"),
        (
            {"correction": 0.5, "reward_model_pairs": "winner"},
            "correction: .* reward_model_pairs random, not winner",
        ),
        ({"correction": 0.5, "steering": "relaxed"}, "correction: .* relaxed .* use steering_labels group or baseline"),
        (
            {"steering": "proximal", "steering_labels": "group", "reward_model_pairs": "influence"},
            "steering_labels: group .* use reward_model_pairs random or uncertain, not influence",
        ),
        (
            {"steering": "proximal", "steering_labels": "group", "selection": "labels"},
            "steering_labels: group .* use candidate",
        ),
    ],
)
def test_pay_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        TrainConfig(**changes)
    assert ";" not in str(caught.value).replace("; use", "")  # one fault, one line


def test_arms_of_the_pay_read_one_label_a_prompt():
    arms = (
        "rlhf:shaping=par:shaping_scale=2", "rlhf:ensemble=4:confidence=1", "practical:correction=0.3:shaping=none",
        "rlhf:reward_model_pairs=influence", "proximal:steering_labels=group", "labels",
    )  # fmt: skip
    compared = CompareConfig(TrainConfig(shaping="par"), arms=arms)  # what an arm pays by labels is not shaped
    made = [compared.arm(arm, 0) for arm in arms]
    assert [one.labels_a_round for one in made] == [4, 4, 4, 4, 4, 16]
    assert [one.pays_reward for one in made] == [False] * 5 + [True]
    assert [one.reads_labels_ahead for one in made] == [False, False, True, False, True, False]


def test_settings_of_adapters_that_nothing_gets_are_known():
    given = {"lora_rank": 8, "lora_dropout": 0.1}
    assert TrainConfig(policy_train="all").unused == TrainConfig(**given).unused == ()
    assert TrainConfig(policy_train="all", **given).unused == ("lora_rank", "lora_dropout")
    assert TrainConfig(policy_train="all", reward_model_train="lora", **given).unused == ("lora_dropout",)


def test_all_problems_are_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)rounds.*candidates.*gamma"):
        TrainConfig(rounds=0, gamma=-1.0, candidates=1)


def test_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match=r"gama: unknown setting .did you mean 'gamma'"):
        from_mapping(TrainConfig, {"gama": 1})


def test_arms():
    config = CompareConfig(
        TrainConfig(gamma=0.5), arms=("rlhf:reward_model_pairs=all", "relaxed:gamma=2"), seeds=(1, 2)
    )
    relaxed = replace(TrainConfig(), steering="relaxed", gamma=2.0, seed=2, threads=1)
    assert config.arm("relaxed:gamma=2", 2) == relaxed.resolved()
    assert config.arm("rlhf:reward_model_pairs=all", 1).reward_model_pairs == "all"
    for arm, words in [
        ("rlfh", "did you mean 'rlhf'"),
        ("rlhf:seed=3", "sets 'seed=3'"),
        ("rlhf:gamma=x", "expected a number"),
    ]:
        with pytest.raises(ConfigError, match=words):
            CompareConfig(TrainConfig(), arms=(arm,))
    with pytest.raises(ConfigError, match="names one twice"):
        CompareConfig(TrainConfig(), seeds=(1, 1))


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("rlhf:gamma=1", "sets gamma to 1, which has no penalty"),
        ("labels:gamma=0.5", "which has no penalty"),
        ("shuffled:gamma=0", "sets gamma to 0, where nothing is left"),
        ("labels:selection=reward", "sets selection, which is labels there"),
        ("penalty-alone:control=shuffled", "sets control, which is penalty-alone there"),
    ],
)
def test_an_arm_is_what_its_name_says(arm, words):
    with pytest.raises(ConfigError, match=words):
        CompareConfig(TrainConfig(), arms=(arm,))


def test_an_arm_may_say_what_it_is():
    arms = (
        "rlhf:gamma=0",
        "practical:gamma=0",
        "labels:selection=labels",
        "shuffled:gamma=2",
        "practical:control=none",
    )
    assert CompareConfig(TrainConfig(gamma=0.5), arms=arms).arms == arms


def test_text_of_the_command_line():
    assert from_text(CompareConfig, "seeds", "0:3") == (0, 1, 2)
    assert from_text(CompareConfig, "seeds", "4,2") == (4, 2)
    assert from_text(TrainConfig, "threads", "none") is None
    assert from_text(TrainConfig, "sampled_labels", "true") is True
    with pytest.raises(ConfigError, match="seeds: got '0:x'"):
        CompareConfig(TrainConfig(), seeds=from_text(CompareConfig, "seeds", "0:x"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    from_mapping(CompareConfig, PRESETS[name])


def test_paper_preset_is_the_published_protocol():
    paper = from_mapping(TrainConfig, PRESETS["paper"])
    got = (paper.candidates, paper.top_p, paper.temperature, paper.max_new_tokens, paper.min_new_tokens, paper.gamma)
    assert got == (8, 0.9, 0.8, 32, 5, 10.0)
    assert (paper.lora_rank, paper.lora_alpha, paper.lora_dropout) == (16, 32, 0.05)
    assert (paper.policy_learning_rate, paper.reward_model_learning_rate, paper.accumulation_steps) == (2e-5, 5e-5, 4)
    assert paper.rounds * paper.prompts_per_round == paper.prompt_limit == 500
    assert (paper.quantization, paper.optimizer, paper.labels) == ("4bit", "paged_adamw_8bit", "likelihood")


def test_every_setting_has_a_group_and_a_help():
    for kind in (TrainConfig, CompareConfig):
        assert all(item.metadata["group"] and len(item.metadata["help"]) > 9 for item in settings(kind).values())


def test_files_that_are_no_configuration(tmp_path):
    for text, words in [("a: [", "is not YAML"), ("- a\n", "must be a mapping")]:
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_yaml(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def test_seeds_in_a_file_are_a_range(tmp_path):
    path = tmp_path / "c.yaml"
    for written, seeds in [("8:11", (8, 9, 10)), ("0:2,7", (0, 1, 7)), ("3", (3,)), ("[4, 2]", (4, 2))]:
        path.write_text(f"seeds: {written}\n")
        assert from_mapping(CompareConfig, read_yaml(path)).seeds == seeds


def test_gamma_is_the_forms_own_where_none_is_given():
    found = [(c.weight, c.unit) for c in (TrainConfig(steering=form) for form in ("rlhf", "practical", "relaxed"))]
    assert found == [(0.0, "raw"), (1.0, "share"), (0.3, "raw")]
    assert TrainConfig(steering="exact", gamma=0.5).weight == 0.5
    assert TrainConfig(gamma_unit="raw", gamma=0.3).unit == "raw"
    with pytest.raises(ConfigError, match="gamma_unit: got raw, and practical has 1 share where no gamma is given"):
        TrainConfig(gamma_unit="raw").resolved()


def test_a_head_is_fitted_to_all_pairs_and_what_costs_a_pass_to_the_new_ones():
    head, whole = TrainConfig().resolved(), TrainConfig(reward_model_train="all", reward_model_l2=0.5).resolved()
    assert (head.reward_model_steps, head.reward_model_buffer, head.reward_model_l2) == ("auto", -1, 0.01)
    assert (whole.reward_model_steps, whole.reward_model_buffer, whole.reward_model_l2) == (1, 0, 0.5)
    assert head.resolved() == head == from_mapping(TrainConfig, to_mapping(head))


def test_a_file_of_an_earlier_version_means_what_it_meant(tmp_path, caplog):
    saved = to_mapping(replace(TrainConfig(), **TrainConfig.earlier, seed=3, gamma=0.3).resolved())
    for name in ("policy_update", "references", "reward_model_buffer", "reward_model_l2", "control"):
        saved.pop(name)  # new since
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(saved))
    for places in ({"out": None, "resume": False, "config": path}, {"out": tmp_path, "resume": True, "config": None}):
        found = configured(TrainConfig, {"rounds": 50}, **places)
        assert (found.policy_update, found.references, found.seed, found.rounds) == ("best-of-n", 1, 3, 50)
        assert (found.gamma, found.unit, found.fit.steps) == (0.3, "raw", 1)
        assert "what it does not name is as it was: policy_update best-of-n" in caplog.text
        caplog.clear()
    path.write_text("seed: 3\n")  # somebody's own few settings
    assert configured(TrainConfig, {}, out=None, resume=False, config=path).policy_update == "policy-gradient"
    assert not caplog.text


def test_a_hostile_yaml_file_is_one_line_and_no_wait(tmp_path):
    path = tmp_path / "c.yaml"
    laughs = "policy:\n- &x0 [lol]\n" + "".join(f"- &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12))
    merged = "a: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    for text, told in [
        (laughs, "aliases written out"),
        (merged, "aliases written out"),
        ("a: &a [*a]", "an alias that holds itself"),
        ("[" * 5000, "nested too deeply"),
        ("seed: 1\nseed: 2\n", "'seed' stands twice"),
        (f"seed: {'9' * 4000}", "a whole number of 4000 digits"),
        ("seed: 2024-13-45", "is not YAML"),
        ("- 1", "must be a mapping"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=told) as caught:
            read_yaml(path)
        assert len(str(caught.value)) < 500
    path.write_text("seeds: &s [1, 2]\nsame: *s\n8: 8:16\n")
    assert read_yaml(path) == {"seeds": [1, 2], "same": [1, 2], 8: "8:16"}
    with path.open("wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(ConfigError, match="bytes, more than"):
        read_yaml(path)


def test_sizes_that_nothing_holds_are_refused_in_a_few_words():
    for values, told in [
        ({"seeds": "0:4000000000"}, "names 4000000000 numbers"),
        ({"seed": 10**4000}, "more than 40 digits, must be"),
        ({"seed": 2**70}, "must lie within"),
        ({"gamma": 10**400}, "must be finite"),
        ({"policy": [["x"] * 9] * 9}, "expected text"),
    ]:
        with pytest.raises(ConfigError, match=told) as caught:
            from_mapping(CompareConfig, values)
        assert len(str(caught.value)) < 300
