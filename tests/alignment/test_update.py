"""The policy's update: best of N, and the policy gradient of all candidates."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from foresighted.alignment.foresight import Penalty
from foresighted.alignment.round import controlled
from foresighted.alignment.rows import within_prompts
from foresighted.alignment.run import train
from foresighted.alignment.together import Alone, play
from foresighted.alignment.update import advantages, read_once, update_policy
from foresighted.errors import ForesightedError, NumericalError
from foresighted.models import noise
from foresighted.models.learner import policy_learner
from foresighted.models.loading import load_policy
from foresighted.settings import CompareConfig
from foresighted.steering import raw_gamma
from foresighted.store import records
from foresighted.store.rows import read

PROMPTS = ["Why is the sky blue?", "What is rain?"]
SCORES = torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.4, 0.0]])


def test_advantages_are_leave_one_out_in_units_of_the_spread():
    found, spread = advantages(SCORES)
    assert spread == pytest.approx(torch.stack([row.var() for row in SCORES]).mean().sqrt().item())
    for row, own in zip(SCORES.tolist(), found.tolist(), strict=True):
        for n, (score, advantage) in enumerate(zip(row, own, strict=True)):
            others = [other for m, other in enumerate(row) if m != n]
            assert advantage == pytest.approx((score - sum(others) / len(others)) / spread)
    scaled, _ = advantages(10 * SCORES + 7)
    torch.testing.assert_close(scaled, found)
    assert advantages(torch.ones(2, 3)) == (pytest.approx(torch.zeros(2, 3)), 0.0)


@pytest.fixture
def config(tiny):
    return replace(tiny, policy_update="policy-gradient", lora_layers="last:1", max_new_tokens=8, optimizer="adamw")


def _policy(config):
    policy = load_policy(config, torch.device("cpu"))
    keys = [noise.key("test", p, i) for p in PROMPTS for i in range(3)]
    return policy, policy.sample(PROMPTS, 3, keys)


def _done(work, policy):
    """Return what a coroutine comes to whose requests a policy answers."""
    found = play({0: work}, Alone(SimpleNamespace(policy=policy)))[0]
    if isinstance(found, ForesightedError):
        raise found
    return found


def _updated(config, score, steps=1):
    policy, candidates = _policy(config)
    settings = replace(config, policy_steps=steps)
    learner = policy_learner(policy.trainable(), settings)
    before = {name: p.detach().clone() for name, p in policy.trainable().items()}
    loss = _done(update_policy(settings, learner, 1, PROMPTS, candidates, score, [1, 3]), policy)
    changed = any(not torch.equal(before[name], p) for name, p in policy.trainable().items())
    return loss, changed, policy, candidates


def test_the_loss_is_that_of_a_written_out_gradient(config):
    policy, candidates = _policy(config)
    advantage, _ = advantages(SCORES)
    every = [p for p in PROMPTS for _ in range(3)]
    lengths = candidates.lengths()
    expected = 0.0
    for i, (prompt, weight) in enumerate(zip(every, advantage.flatten().tolist(), strict=True)):
        log_p = policy.log_likelihood([prompt], candidates.rows([i]))
        expected -= weight * float(log_p) / len(every)
    loss, changed, _, _ = _updated(config, SCORES)
    assert loss == pytest.approx(expected / (sum(lengths) / len(lengths)), rel=1e-4)
    assert changed


@pytest.mark.parametrize("steps", [1, 3])
def test_the_pass_that_kl_was_read_from_serves_the_first_step(config, steps):
    after = []
    for shared in (False, True):
        policy, candidates = _policy(config)
        settings = replace(config, policy_steps=steps)
        log_p = _done(read_once(settings, policy, PROMPTS, candidates), policy) if shared else None
        assert log_p is None or log_p.requires_grad
        learner = policy_learner(policy.trainable(), settings)
        _done(update_policy(settings, learner, 1, PROMPTS, candidates, SCORES, [1, 3], log_p), policy)
        after.append({name: p.detach().clone() for name, p in policy.trainable().items()})
    for name, value in after[0].items():
        assert torch.equal(value, after[1][name]), name


@pytest.mark.parametrize(
    "change", [{"policy_update": "best-of-n"}, {"accumulation_steps": 2}, {"lora_dropout": 0.1}], ids=str
)
def test_an_update_with_passes_of_its_own_shares_none(config, change):
    settings = replace(config, **change)
    policy, candidates = _policy(settings)
    assert _done(read_once(settings, policy, PROMPTS, candidates), policy) is None


def test_it_raises_what_scored_well_and_lowers_the_rest(config):
    _, _, policy, candidates = _updated(replace(config, policy_learning_rate=1e-3), SCORES)
    fresh, _ = _policy(config)
    every = [p for p in PROMPTS for _ in range(3)]
    moved = policy.log_likelihood(every, candidates) - fresh.log_likelihood(every, candidates)
    advantage, _ = advantages(SCORES)
    assert float((advantage.flatten() * moved).sum()) > 0


def test_several_steps_are_clipped(config):
    far = replace(config, policy_learning_rate=0.05)
    ratios = []
    for clip in (0.01, 0.9):
        _, _, policy, candidates = _updated(replace(far, clip_range=clip), SCORES, steps=6)
        fresh, _ = _policy(config)
        every = [p for p in PROMPTS for _ in range(3)]
        ratios.append(
            float((policy.log_likelihood(every, candidates) - fresh.log_likelihood(every, candidates)).abs().sum())
        )
    assert ratios[0] < ratios[1]


def test_scores_that_are_all_equal_move_nothing(config, caplog):
    loss, changed, _, _ = _updated(config, torch.ones(2, 3))
    assert (loss, changed) == (None, False)
    assert "takes no step" in caplog.text


def test_a_score_that_is_not_finite_is_an_error(config):
    with pytest.raises(NumericalError, match="round 1"):
        _updated(config, SCORES.clone().fill_(float("nan")))


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_gamma_and_kl_as_shares_mean_the_same_for_rewards_of_another_size(scale):
    reward, kl = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = torch.rand(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def moved(c: float) -> torch.Tensor:
        r, s = c * reward, c**2 * products  # gradients grow with the rewards
        penalty = raw_gamma(1.0, r, s, residual="one") * s
        return advantages(r - penalty - 0.3 * within_prompts(r) * kl)[0]

    torch.testing.assert_close(moved(scale), moved(1.0), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["winner", "random", "uncertain", "all"])
def test_a_run_goes_on_to_the_same_bits(config, tmp_path, pairs):
    config = replace(config, rounds=4, kl_coefficient=0.1, reward_model_pairs=pairs)
    train(config, tmp_path / "whole")
    train(replace(config, rounds=2), tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    names = [records.CANDIDATES, records.ROUNDS, records.HELDOUT, "policy/adapter_model.safetensors"]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    rows = read(tmp_path / "whole" / records.CANDIDATES, records.CandidateRow)
    labelled = [row.label is not None for row in rows]
    assert sum(labelled) == (len(rows) if pairs == "all" else len(rows) // config.candidates)
    assert all(row.kl is not None for row in rows)
    assert any(abs(row.kl) > 1e-4 for row in rows)
    assert all(row.score == pytest.approx(row.reward - row.penalty - 0.1 * row.kl, abs=1e-4) for row in rows)


def test_shuffled_is_the_same_penalty_elsewhere(config):
    references = [records.ReferenceRow(3, f"p{i}", "?", "so", 1, None) for i in range(4)]
    penalty = Penalty(torch.arange(12.0).view(4, 3), 0.3, 1.0)
    assert controlled(config, penalty, references) is penalty
    shuffled = controlled(replace(config, control="shuffled"), penalty, references).value
    assert shuffled.flatten().sort().values.tolist() == list(range(12))
    assert not torch.equal(shuffled, penalty.value)
    assert torch.equal(shuffled, controlled(replace(config, control="shuffled"), penalty, references).value)


def test_arms_name_their_controls(config):
    arms = ("shuffled:gamma=2", "penalty-alone", "labels", "rlhf:kl_coefficient=0")
    made = [CompareConfig(train=replace(config, kl_coefficient=0.3), arms=arms).arm(arm, 0) for arm in arms]
    assert [(one.steering, one.control, one.selection) for one in made] == [
        ("practical", "shuffled", "reward"),
        ("practical", "penalty-alone", "reward"),
        ("rlhf", "none", "labels"),
        ("rlhf", "none", "reward"),
    ]
    assert [one.kl_coefficient for one in made] == [0.3, 0.3, 0.3, 0.0]
    assert made[0].gamma == 2


@pytest.mark.slow
def test_scores_and_records_of_controls(config, tmp_path):
    for name, changes in (
        ("alone", {"control": "penalty-alone", "steering": "practical"}),
        ("labels", {"selection": "labels", "steering": "rlhf"}),
        ("share", {"kl_coefficient": 0.5, "kl_unit": "share", "steering": "practical"}),
    ):
        train(replace(config, rounds=2, **changes), tmp_path / name)
    rows = {
        name: read(tmp_path / name / records.CANDIDATES, records.CandidateRow) for name in ("alone", "labels", "share")
    }
    assert all(row.score == pytest.approx(-row.penalty) for row in rows["alone"])
    for row in rows["labels"]:
        assert row.score == pytest.approx(torch.tensor(row.label).logit().item(), rel=1e-3, abs=1e-4)
    rounds = read(tmp_path / "share" / records.ROUNDS, records.RoundRow)
    for row, played in zip((rows["share"][:6], rows["share"][6:]), rounds, strict=True):
        unit = within_prompts(torch.tensor([one.reward for one in row]).view(2, 3))
        for one in row:
            assert one.score == pytest.approx(one.reward - one.penalty - 0.5 * unit * one.kl, abs=1e-3)
        assert played.kl == pytest.approx(sum(one.kl for one in row) / 6, abs=1e-6)
        assert 0 < played.penalty_share < 1
        assert 0 < played.win_predicted < 1
        assert played.win_share == pytest.approx(sum(one.label or 0.0 for one in row) / 2)
