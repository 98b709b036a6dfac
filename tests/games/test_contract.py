"""One suite over every game, the documentation's included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foresighted.errors import ConfigError
from foresighted.games import LINEAR, NETWORK, simulate
from foresighted.games.game import load_game

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "bandit_game.py"
BANDIT = load_game(f"{EXAMPLE}:BANDIT")
SMALL = {
    "linear": LINEAR.settings(iterations=12, dimension=6),
    "network": NETWORK.settings(iterations=6, hidden=4, inner_steps=2, dimension=3),
    "bandit": BANDIT.settings(iterations=8),
}
ARMS = ("rlhf", "practical:gamma=0", "relaxed", "proximal", "proximal:gamma=0.3")


@pytest.fixture(scope="module", params=[LINEAR, NETWORK, BANDIT], ids=lambda game: game.name)
def game(request):
    return request.param


@pytest.fixture(scope="module")
def played(game):
    return simulate(game, ARMS, [0, 2], SMALL[game.name])


def test_shapes_and_numbers(game, played):
    rounds = SMALL[game.name].iterations
    assert played.utility.shape == played.noise.shape == (len(ARMS), 2, rounds + 1)
    assert played.action.shape[:3] == (len(ARMS), 2, rounds + 1)
    assert all(np.isfinite(values).all() for values in played[2:])
    assert [cell.arm for cell in played.cells] == list(ARMS)


def test_gamma_zero_is_rlhf_and_gamma_matters(played):
    np.testing.assert_array_equal(played.utility[0], played.utility[1])
    assert (played.utility[3] != played.utility[4]).any()


def test_a_seed_starts_alike_in_all_arms_and_unlike_another(played):
    np.testing.assert_array_equal(played.proxy_reward[0, :, 1:2].shape, (2, 1))
    for values in played[2:]:
        assert (values[:, :, 0] == values[:1, :, 0]).all()
    assert (played.proxy_reward[:, 0, -1] != played.proxy_reward[:, 1, -1]).any()


def test_a_run_does_not_depend_on_who_is_played_with_it(game, played):
    if game is not LINEAR:
        pytest.skip("another number of runs compiles again; the linear game speaks for the loop")
    alone = simulate(game, ARMS[2:3], [2], SMALL[game.name])
    np.testing.assert_allclose(alone.utility[0, 0], played.utility[2, 1], rtol=1e-4)


OTHERS = {  # each compiles a program, so the larger games play several settings in one arm
    "linear": (
        "rlhf:ensemble=2:confidence=1:shaping=par:gradient_regularisation=0.1",
        "proximal:labels=sampled:influence=batch",
        "unrolled:labels=noisy:labels_per_round=3:exploration=0.1",
    ),
    "network": ("relaxed:labels=sampled:influence=batch:policy_samples=2:ensemble=2:reward_model_steps=2",),
    "bandit": ("exact:labels=preference",),
}


def test_other_forms_and_baselines_play(game):
    found = simulate(game, OTHERS[game.name], [0], SMALL[game.name])
    assert np.isfinite(found.utility).all()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("game.py", "expected FILE.py:NAME"),
        ("/no/such.py:GAME", "no file /no/such.py"),
        (f"{EXAMPLE}:BANDITS", "did you mean 'BANDIT'"),
    ],
)
def test_a_game_that_cannot_be_loaded(spec, words):
    with pytest.raises(ConfigError, match=words):
        load_game(spec)


def test_a_game_file_that_fails_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"broken.py fails with ZeroDivisionError"):
        load_game(f"{tmp_path / 'broken.py'}:GAME")


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
