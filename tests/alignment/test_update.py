"""The policy's update: best of N, the policy gradient of all candidates, and DPO on labelled pairs."""

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
from foresighted.alignment.update import advantages, direct_loss, read_once, update_directly, update_policy
from foresighted.errors import ConfigError, ForesightedError, NumericalError
from foresighted.labels.pair import Pair, Place
from foresighted.models import noise
from foresighted.models.learner import Learner, policy_learner
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


def _policy(config, *, double=False):
    policy = load_policy(config, torch.device("cpu"))
    policy.model.to(torch.float64 if double else torch.float32)
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


@pytest.mark.slow
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


REFERENCES = [records.ReferenceRow(1, "p0", PROMPTS[0], "It is.", 4, None),
              records.ReferenceRow(1, "p1", PROMPTS[1], "water and water", 8, None)]  # fmt: skip
"""The first ended by itself; the second was cut off at 8 tokens."""


def _direct(config, places, labels):
    """Take a step of plain gradient descent by DPO from an adapter that has moved; return what it was taken on, the
    loss and the step."""
    policy, candidates = _policy(config, double=True)
    parameters = policy.trainable()
    with torch.no_grad():
        for i, p in enumerate(parameters.values()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    pairs = [Pair("", PROMPTS[g], "", "", p, place=Place(g, n, None)) for (g, n), p in zip(places, labels, strict=True)]
    learner = Learner("policy", parameters, torch.optim.SGD(parameters.values(), lr=1.0),
                      accumulation=config.accumulation_steps)  # fmt: skip
    loss = _done(update_directly(config, policy, learner, 1, pairs, candidates, REFERENCES), policy)
    step = {name: (before[name] - p).detach() for name, p in parameters.items()}
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(before[name])
    return policy, candidates, loss, step


@pytest.mark.parametrize("lora_layers", ["last:1", "all"])
@pytest.mark.parametrize(
    ("places", "labels", "accumulation"),
    [
        ([(0, 2), (1, 0)], [0.75, 0.125], 1),
        ([(g, n) for g in (0, 1) for n in range(3)], [0.0, 1.0, 0.5, 0.25, 0.875, 0.375], 2),
    ],
)
def test_dpo_is_that_of_whole_sequences(config, lora_layers, places, labels, accumulation):
    config = replace(config, lora_layers=lora_layers, dpo_beta=0.3, accumulation_steps=accumulation)
    policy, candidates, loss, step = _direct(config, places, labels)
    end = policy.tokenizer.eos_token_id

    def ratio(prompt, ids):
        def log_p():
            asked = policy.reader.ids(prompt)
            logits = policy.model(input_ids=torch.tensor([asked + ids])).logits[0, len(asked) - 1 : -1]
            return logits.log_softmax(-1)[range(len(ids)), ids].sum()

        with policy.model.disable_adapter(), torch.no_grad():
            frozen = log_p()
        return log_p() - frozen

    texts = [policy.tokenizer(r.text, add_special_tokens=False)["input_ids"] for r in REFERENCES]
    texts[0].append(end)
    total = 0.0
    for (group, n), label in zip(places, labels, strict=True):
        row = 3 * group + n
        ids = candidates.tokens[row, : candidates.lengths()[row]].tolist()
        m = 0.3 * (ratio(PROMPTS[group], ids) - ratio(PROMPTS[group], texts[group]))
        total = total - (label * m.sigmoid().log() + (1 - label) * (-m).sigmoid().log()) / len(labels)
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-8)
    for name, p in policy.trainable().items():
        torch.testing.assert_close(step[name], p.grad, rtol=1e-4, atol=1e-7)  # Llama norms in float32
    assert any(float(p.grad.abs().max()) > 1e-4 for p in policy.trainable().values())


def test_dpo_is_done_where_the_policy_prefers_as_the_labels_do():
    label, beta = torch.tensor([0.2, 0.5, 0.9]), 0.3
    margin = (label.double().logit() / beta).requires_grad_()
    direct_loss(margin, label, beta).backward()
    assert float(margin.grad.abs().max()) < 1e-7
    won = direct_loss(torch.tensor([2.0]), torch.tensor([1.0]), beta)  # the published loss
    assert won.item() == pytest.approx(-torch.tensor(beta * 2.0).sigmoid().log().item())


@pytest.mark.slow
def test_no_reward_model_has_a_part_in_dpo(config, tmp_path):
    config = replace(config, policy_update="dpo", steering="rlhf", reward_model_pairs="random", rounds=3)
    train(config, tmp_path / "one")
    train(replace(config, reward_model_learning_rate=1.0), tmp_path / "other")
    words, rewards = [], []
    for name in ("one", "other"):
        rows = read(tmp_path / name / records.CANDIDATES, records.CandidateRow)
        words.append([row.text for row in rows])
        rewards.append([row.reward for row in rows])
    assert words[0] == words[1]
    assert rewards[0] != rewards[1]
    rounds = read(tmp_path / "one" / records.ROUNDS, records.RoundRow)
    assert rounds[0].policy_loss == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)
    assert rounds[1].policy_loss != rounds[0].policy_loss
    assert [row.labels for row in rounds] == [2, 2, 2]


def test_what_would_do_nothing_with_dpo_is_refused(tiny, told):
    direct = replace(tiny, policy_update="dpo")
    assert replace(direct, steering="practical", gamma=0.0).resolved().policy_update == "dpo"
    wrong = replace(direct, steering="practical", kl_coefficient=0.3, selection="labels", control="shuffled")
    with pytest.raises(ConfigError) as caught:
        wrong.resolved()
    told(caught, "steering: got practical", "use rlhf", "kl_coefficient: got 0.3", "dpo_beta in its place; use 0",
         "selection: got labels", "control: got shuffled")  # fmt: skip
    with pytest.raises(ConfigError, match=r"shaping: got par, .* use none"):
        replace(direct, steering="rlhf", kl_coefficient=0.0, shaping="par").resolved()


def test_an_arm_with_dpo_has_beta_in_place_of_the_kl_term(tiny, told):
    train_of = replace(tiny, kl_coefficient=0.3)
    arms = ("rlhf", "rlhf:policy_update=dpo:dpo_beta=0.5", "rlhf:policy_reset_every=5", "practical:rollback_window=3")
    config = CompareConfig(train=train_of, arms=arms)
    made = [config.arm(arm, 0) for arm in arms]
    assert [one.kl_coefficient for one in made] == [0.3, 0.0, 0.3, 0.3]
    assert (made[1].dpo_beta, made[2].policy_reset_every, made[3].rollback_window) == (0.5, 5, 3)
    every = CompareConfig(train=replace(train_of, policy_update="dpo"), arms=("rlhf:dpo_beta=0.1", "rlhf:dpo_beta=1"))
    assert [every.arm(arm, 0).kl_coefficient for arm in every.arms] == [0.0, 0.0]
    for arm, *words in (
        ("rlhf:policy_update=dpo:kl_coefficient=0.3", "kl_coefficient: got 0.3"),
        ("practical:policy_update=dpo", "steering: got practical"),
        ("labels:policy_update=dpo", "selection: got labels"),
        ("rlhf:rollback_window=2:policy_reset_every=3", "rollback_window, policy_reset_every: got 2 and 3"),
    ):
        with pytest.raises(ConfigError) as caught:
            CompareConfig(train=train_of, arms=("rlhf", arm))
        told(caught, arm, *words)
    with pytest.raises(ConfigError, match="rollback_window: got 1 with prompts_per_round 1"):
        replace(tiny, rollback_window=1, prompts_per_round=1)


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
@pytest.mark.parametrize("pairs", ["random", "uncertain", "all"])
def test_a_run_goes_on_to_the_same_bits(config, tmp_path, pairs):
    config = replace(config, rounds=3, kl_coefficient=0.1, reward_model_pairs=pairs)
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
