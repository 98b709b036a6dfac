"""Win rates: closed forms, and naive twins for what is linearised."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from foresighted.judging.rows import JudgementRow
from foresighted.judging.winrates import (
    grids,
    length_check,
    net_interval,
    outcomes,
    pair_result,
    position_bias,
    tally,
)
from foresighted.statistics.ratings import holm, logistic_fit, ratings, sign_test

RESULTS = {"w": "win", "t": "tie", "l": "loss", "b": "position_bias", "f": "failure"}
VERDICTS = {"w": ("a", "a"), "t": ("tie", "tie"), "l": ("o", "o"), "b": ("a", "o"), "f": (None, "a")}


def row(
    letter: str, prompt: int, *, seed: int = 0, first: str = "a", second: str = "o", words=(10, 10)
) -> JudgementRow:
    forward, backward = VERDICTS[letter]
    return JudgementRow(
        first=first, second=second, seed=seed, first_seed=seed, second_seed=seed, prompt_id=f"p{prompt:04}",
        category="even" if prompt % 2 == 0 else "odd", result=RESULTS[letter], identical=False, forward=forward,
        backward=backward, forward_reason=None, backward_reason=None, failure="server" if letter == "f" else None,
        failure_detail=None, tokens_estimated=0, tokens_prompt=None, tokens_completion=None, sent=0, cached=0,
        first_words=words[0], second_words=words[1],
    )  # fmt: skip


def rows(text: str, **settings) -> list[JudgementRow]:
    return [row(letter, i, **settings) for i, letter in enumerate(text)]


def test_sign_test_is_the_binomial_sum():
    for wins, losses in ((7, 3), (188, 144), (5, 5), (1, 0)):
        n, low = wins + losses, min(wins, losses)
        both = 2 * sum(math.comb(n, k) for k in range(low + 1)) / 2**n
        assert sign_test(wins, losses) == pytest.approx(min(1.0, both))
    assert sign_test(0, 0) is None


def test_holm_against_its_definition():
    random = np.random.default_rng(0)
    for count in (1, 2, 5):
        p = random.uniform(size=count)
        order = np.argsort(p)
        naive = np.empty(count)
        for rank in range(count):
            naive[order[rank]] = min(1, max((count - j) * p[order[j]] for j in range(rank + 1)))
        np.testing.assert_allclose(holm(list(p)), naive)
    assert holm([None, 0.2]) == [None, 0.2]


def test_counts_and_rates_of_one_seed():
    result = pair_result(rows("w" * 6 + "t" * 3 + "l" * 2 + "b" * 4 + "f"), seed=0, level=0.95)
    counts = result.counts
    assert (counts.wins, counts.ties, counts.losses, counts.position_bias, counts.failed) == (6, 3, 2, 4, 1)
    assert counts.judged == 15
    assert result.net is not None
    assert result.net.mean == pytest.approx(4 / 15)
    assert result.win_rate is not None
    assert result.win_rate.mean == pytest.approx((6 + 7 / 2) / 15)
    assert result.decided is not None
    assert result.decided.mean == pytest.approx(6 / 8)
    assert result.p == pytest.approx(binomtest(6, 8).pvalue)
    assert result.failures == {"server": 1}
    assert sum(group.counts.judged for group in result.categories) == 15


def test_an_order_that_disagrees_is_no_win():
    with_bias = pair_result(rows("w" * 3 + "l" * 3 + "b" * 10), seed=0, level=0.95)
    assert with_bias.counts.wins == 3
    assert with_bias.win_rate is not None
    assert with_bias.win_rate.mean == 0.5
    bias = with_bias.bias
    assert bias is not None
    assert (bias.preferred_first, bias.preferred_second, bias.half) == (10, 0, 0)
    assert bias.p is not None
    assert bias.p < 0.01
    half = replace(row("b", 0), backward="tie")
    second = replace(row("b", 1), forward="o", backward="a")
    assert position_bias([half, second]) == replace(bias, preferred_first=0, preferred_second=1, half=1, p=1.0)


def test_seeds_on_one_prompt_are_one_draw_of_the_sign_test():
    once = pair_result(rows("wwwwwwll"), seed=0, level=0.95)
    thrice = pair_result([r for s in range(3) for r in rows("wwwwwwll", seed=s)], seed=0, level=0.95)
    assert thrice.p == once.p
    assert thrice.counts.wins == 18
    assert [group.counts.wins for group in thrice.by_seed] == [6, 6, 6]
    assert once.by_seed == ()


@pytest.mark.slow
def test_interval_of_one_seed_covers_as_often_as_it_says():
    """Coverage of the 95 % interval over simulated evaluations: 40 prompts, true net rate 0.2."""
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        letters = random.choice(list("wtl"), p=[0.4, 0.4, 0.2], size=40)
        found = net_interval(rows("".join(letters)), seed=trial % 5, level=0.95)
        assert found is not None
        hits += found.low <= 0.2 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_interval_with_failures_agrees_with_a_plain_bootstrap_of_the_ratio():
    random = np.random.default_rng(2)
    data = rows("".join(random.choice(list("wtlf"), p=[0.4, 0.2, 0.2, 0.2], size=120)))
    found = net_interval(data, seed=0, level=0.95)
    assert found is not None
    scores, judged = (grid[0] for grid in grids(data))
    picks = random.integers(120, size=(4000, 120))
    replicates = scores[picks].sum(1) / judged[picks].sum(1)
    low, high = np.quantile(replicates, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_seeds_that_disagree_widen_the_interval():
    alike = [r for s in range(4) for r in rows("w" * 60 + "l" * 30, seed=s)]
    apart = [r for s in range(4) for r in rows("w" * 90 if s < 2 else "l" * 60 + "w" * 30, seed=s)]
    same, different = (net_interval(data, seed=0, level=0.95) for data in (alike, apart))
    assert same is not None
    assert different is not None
    assert same.excludes_zero
    assert not different.excludes_zero
    assert different.mean == pytest.approx(same.mean)


def test_nothing_judged_gives_no_numbers():
    result = pair_result(rows("fff"), seed=0, level=0.95)
    assert (result.p, result.net, result.win_rate, result.decided) == (None, None, None, None)
    assert result.lengths is not None


def test_one_prompt_says_that_nothing_is_known():
    found = net_interval(rows("w"), seed=0, level=0.95)
    assert found is not None
    assert (found.low, found.high) == (-1.0, 1.0)


def test_length_check_sees_that_the_longer_answer_wins():
    longer = [row("w", i, words=(30, 10)) for i in range(20)] + [row("l", i + 20, words=(10, 30)) for i in range(15)]
    check = length_check(longer, 0.95)
    assert check is not None
    assert check.longer_won is not None
    assert (check.longer_won.successes, check.longer_won.total) == (35, 35)
    assert check.longer_p is not None
    assert check.longer_p < 1e-6
    assert check.controlled is not None
    assert check.controlled.low < 0.5 < check.controlled.high
    assert (check.first_longer.wins, check.first_shorter.losses) == (20, 15)
    assert length_check([replace(r, first_words=None) for r in longer], 0.95) is None


def test_length_check_keeps_a_win_that_length_does_not_explain():
    random = np.random.default_rng(3)
    data = [row("w" if random.uniform() < 0.8 else "l", i, words=tuple(random.integers(5, 50, 2))) for i in range(200)]
    check = length_check(data, 0.95)
    assert check is not None
    assert check.controlled is not None
    assert check.controlled.low > 0.65
    assert check.controlled.mean == pytest.approx(tally(data).wins / 200, abs=0.02)


def test_logistic_fit_against_a_general_optimiser():
    from scipy.optimize import minimize

    random = np.random.default_rng(4)
    design, outcome = random.normal(size=(50, 3)), random.uniform(size=50)
    weight = random.uniform(0.5, 2, size=50)

    def loss(b):
        z = design @ b
        return float((weight * (np.logaddexp(0, z) - outcome * z)).sum())

    effect, covariance = logistic_fit(design, outcome, weight)
    np.testing.assert_allclose(effect, minimize(loss, np.zeros(3), tol=1e-12).x, atol=1e-5)
    gradient = np.array([(loss(effect + h) - loss(effect - h)) / 2e-5 for h in 1e-5 * np.eye(3)])
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert np.all(np.linalg.eigvalsh(covariance) > 0)


def test_rating_of_two_policies_is_the_log_odds_of_half_counts():
    found = ratings(outcomes(rows("w" * 9 + "l" * 4 + "t" * 2)), ["o", "a"], seed=0, level=0.95)
    assert found is not None
    wins, losses = 9 + 1 + 0.5, 4 + 1 + 0.5
    assert found["a"].rating == pytest.approx(math.log(wins / losses))
    assert found["a"].beats_baseline == pytest.approx(wins / (wins + losses))
    assert found["o"].rating == 0
    all_won = ratings(outcomes(rows("w" * 10)), ["o", "a"], seed=0, level=0.95)
    assert all_won is not None
    assert all_won["a"].rating == pytest.approx(math.log(10.5 / 0.5))


def _three(random, prompts: int) -> list[JudgementRow]:
    """Judgements of three policies of strength 0, 0.5 and 1."""
    strength = {"o": 0.0, "a": 0.5, "c": 1.0}
    data = []
    for (second, first), p in itertools.product(itertools.combinations(strength, 2), range(prompts)):
        chance = 1 / (1 + math.exp(strength[second] - strength[first]))
        data.append(row("w" if random.uniform() < chance else "l", p, first=first, second=second))
    return data


@pytest.mark.slow
def test_ratings_of_three_recover_their_strengths_and_agree_with_a_bootstrap_of_the_fit():
    random = np.random.default_rng(5)
    data = _three(random, 200)
    found = ratings(outcomes(data), ["o", "a", "c"], seed=0, level=0.95)
    assert found is not None
    for name, value in (("a", 0.5), ("c", 1.0)):
        assert found[name].low < value < found[name].high
    by_prompt = [[r for r in data if r.prompt_id == name] for name in sorted({r.prompt_id for r in data})]
    replicates = []
    for _ in range(100):
        picked = [r for i in random.integers(200, size=200) for r in by_prompt[i]]
        fit = ratings(outcomes(picked), ["o", "a", "c"], seed=0, level=0.95)
        assert fit is not None
        replicates.append(fit["c"].rating)
    low, high = np.quantile(replicates, [0.025, 0.975])
    assert found["c"].low == pytest.approx(low, abs=0.15)
    assert found["c"].high == pytest.approx(high, abs=0.15)


def test_ratings_need_every_policy_to_have_met_some_other():
    assert ratings(outcomes(rows("wwl")), ["o", "a", "x"], seed=0, level=0.95) is None
    assert ratings(outcomes(rows("fff")), ["o", "a"], seed=0, level=0.95) is None
