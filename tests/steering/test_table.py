"""A form is a row: what CONTRIBUTING adds works in the settings, the loop, TRL and the games, with no other change."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foresighted import steering
from foresighted.errors import ConfigError
from foresighted.settings import TrainConfig, choices
from foresighted.steering import FORMS, Form

pytestmark = pytest.mark.slow

PROMPTS = ["Why is the sky blue?"] * 3 + ["What is rain?"] * 3
RESPONSES = ["Light scatters.", "Because of air", "It just is blue, blue.", "Water falls", "Clouds cool", "rain"]


def unsure(base, spread, value, label, *, gamma):
    return gamma * base * 4 * label * (1 - label)


@pytest.fixture(autouse=True)
def _row(monkeypatch):
    row = Form("unsure", "practical, where the label is unsure", "products", True, 0.3, "raw", "steps", unsure, unsure)
    monkeypatch.setitem(FORMS, "unsure", row)


def test_settings_know_it():
    assert "unsure" in choices(TrainConfig, "steering")
    config = TrainConfig(steering="unsure")
    assert (config.weight, config.reads_labels) == (0.3, True)
    with pytest.raises(ConfigError, match="unsure"):
        TrainConfig(steering="unsur")


def test_the_loop_charges_it(tiny):
    from foresighted.alignment.foresight import Foresight
    from foresighted.models.learner import reward_model_learner
    from foresighted.models.loading import load_reward_model

    config = replace(tiny, steering="unsure", gamma=0.5)
    model = load_reward_model(config, torch.device("cpu"))
    torch.nn.init.normal_(model.head.weight)
    optimizer = reward_model_learner(model.trainable(), config).optimizer
    foresight = Foresight(config, model, optimizer, "leave-one-out")
    scores = foresight.score(PROMPTS, RESPONSES, groups=2)
    label = torch.tensor([[0.5, 0.9, 0.0], [1.0, 0.4, 0.5]])
    want = 0.5 * scores.products.gram * 4 * label * (1 - label)
    torch.testing.assert_close(foresight.penalty(scores, label).value, want)


def test_trl_charges_it(tiny_llama_reward, tmp_path):
    pytest.importorskip("trl")
    from foresighted.integrations.trl import FPOConfig, FPOReward

    def scores(name, preference):
        config = FPOConfig(steering=name, gamma=0.5, gamma_unit="raw")
        fpo = FPOReward(str(tiny_llama_reward), config, lambda p, a, b: [preference] * len(p))
        out = str(tmp_path / f"{name}-{preference}")
        args = SimpleNamespace(device=torch.device("cpu"), output_dir=out, num_generations=3, should_save=True)
        state = SimpleNamespace(global_step=0, log_history=[])
        fpo.on_train_begin(args, state, None, model=SimpleNamespace(training=True), processing_class=None)
        return fpo(PROMPTS, RESPONSES)

    np.testing.assert_allclose(scores("unsure", 0.5), scores("practical", 0.5), rtol=1e-5)


def test_games_charge_it():
    from foresighted.games import LINEAR, LinearSettings, simulate

    config = LinearSettings(iterations=6, dimension=5, labels="preference")
    found = simulate(LINEAR, ["rlhf", "unsure:gamma=0", "unsure:gamma=0.5"], [0], config).action
    np.testing.assert_array_equal(found[0], found[1])
    assert np.isfinite(found).all()
    assert (found[1] != found[2]).any()


def test_rows_name_themselves_and_the_front_door_has_their_functions():
    assert all(name == form.name for name, form in FORMS.items())
    for name in ("practical", "relaxed", "proximal", "exact", "unrolled"):
        assert getattr(steering, name) is getattr(steering.pairwise, name)
