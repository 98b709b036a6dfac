from __future__ import annotations

import pytest

from foresighted.errors import ConfigError
from foresighted.games import LINEAR, NETWORK, LinearSettings
from foresighted.games.plan import Sweep, arm_cells, check_size, labels_read, program_key, sweep_from_text
from foresighted.games.settings import SweepSettings
from foresighted.settings import from_text


def test_arms_take_published_gammas_and_settings_of_their_own():
    cells = arm_cells(NETWORK, ["rlhf", "relaxed", "proximal:gamma=0.1:action_cost=0"], NETWORK.settings())
    assert [cell.settings.gamma for cell in cells] == [0.0, 0.005, 0.1]
    assert [cell.settings.action_cost for cell in cells] == [0.01, 0.01, 0.0]


def test_sweeps_multiply_but_not_gamma_where_it_is_not_read():
    sweeps = [Sweep("gamma", (0.01, 0.1)), Sweep("action_cost", (0.0, 0.1, 0.3))]
    cells = arm_cells(LINEAR, ["rlhf", "relaxed", "relaxed:gamma=1"], LinearSettings(), sweeps)
    assert [sum(cell.arm == arm for cell in cells) for arm in ("rlhf", "relaxed", "relaxed:gamma=1")] == [3, 6, 3]
    assert cells[0].swept == (("gamma", 0.0), ("action_cost", 0.0))


def test_numbers_share_a_program_and_shapes_do_not():
    arms = ["rlhf", "relaxed:gamma=1", "proximal:action_cost=0.3", "exact", "rlhf:reward_model_steps=2"]
    keys = [program_key(cell) for cell in arm_cells(LINEAR, arms, LinearSettings())]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3


def test_labels_are_counted():
    def count(arm, **settings):
        return labels_read(LINEAR, arm_cells(LINEAR, [arm], LinearSettings(iterations=10, dimension=6, **settings))[0])

    assert [count("rlhf"), count("practical"), count("relaxed"), count("relaxed:gamma=0")] == [10, 10, 20, 10]
    assert count("proximal:steering_labels=baseline") == 10
    assert count("relaxed", gradient="finite-difference") == 10 + 10 * 7


def test_ranges():
    assert sweep_from_text(LINEAR, "gamma=0.001:0.1:log3").values == (0.001, 0.01, 0.1)
    assert sweep_from_text(LINEAR, "action_cost=0:0.3:lin4").values == (0.0, 0.1, 0.2, 0.3)
    assert sweep_from_text(LINEAR, "reward_model_steps=1,10").values == (1, 10)
    assert sweep_from_text(LINEAR, "labels=utility,noisy").values == ("utility", "noisy")


@pytest.mark.parametrize("text", ["", "3:3", "-1:2", "1,1", "x", "0:4:2", "4294967296"])
def test_seeds_that_are_none(text):
    with pytest.raises(ConfigError, match="seeds: "):
        SweepSettings(seeds=from_text(SweepSettings, "seeds", text))


@pytest.mark.parametrize(
    "text",
    ["gama=1", "gamma", "gamma=", "gamma=1:2", "gamma=1:2:log1", "gamma=0:2:log3", "gamma=1:2:sqr3", "gamma=1,1"],
)
def test_sweeps_that_are_none(text):
    with pytest.raises(ConfigError, match="sweep: "):
        sweep_from_text(LINEAR, text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dimension": 0}, "dimension: got 0, must be at least 1"),
        ({"signal_dimension": 51}, "must not exceed dimension 50"),
        ({"gradient": "finite-difference", "label_slope": False}, "label_slope: "),
        ({"gradient": "finite-difference", "influence": "batch"}, "influence: batch"),
        ({"gradient": "finite"}, "did you mean 'finite-difference'"),
        ({"confidence": 1.0}, "confidence: needs an ensemble"),
        ({"iterations": 2.5}, "iterations: got 2.5, expected a whole number"),
        ({"gamma": float("nan")}, "gamma: got nan, must be finite"),
        ({"float64": "yes"}, "float64: got 'yes', expected true or false"),
        ({"policy_step": 0}, "policy_step: got 0, must be above 0"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        LinearSettings(**settings)


def test_what_no_machine_holds_is_refused_before_anything_is_made():
    for text in ("gamma=0.1:1:lin1000000000", "gamma=0.1:1:log99999999999999999999"):
        with pytest.raises(ConfigError, match="sweep 10000 at most"):
            sweep_from_text(LINEAR, text)
    cells = arm_cells(LINEAR, ["rlhf", "proximal"], LinearSettings(iterations=1))
    check_size(cells, 500_000)
    with pytest.raises(ConfigError, match="1000002 runs"):
        check_size(cells, 500_001)
    with pytest.raises(ConfigError, match="at most"):
        LinearSettings(iterations=10**9)
    large = arm_cells(LINEAR, ["rlhf"], LinearSettings(iterations=1_000_000, dimension=10_000))
    with pytest.raises(ConfigError, match="numbers at a time"):
        check_size(large, 1)
