"""Measures of text against naive twins, and the sample."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foresighted.auditing.symptoms import Measures, idle_groups, suspicious, symptoms
from foresighted.auditing.texts import alike_shares, read_texts, sample
from foresighted.statistics.layout import Layout
from foresighted.texts import distinct

TWO = Layout((0, 1), (0, 1), True)


def test_distinct_pairs_are_those_of_the_records_in_the_first_64_words(logs):
    said = ["Yes, yes! Yes. yes", "one", "a b " * 32, "a b " * 500]
    table = logs.rollouts([0] * 4, [0, 1, 2, 3], text=said)
    found = read_texts(table, np.zeros(4, np.int64)).distinct_2
    assert found[0] == distinct(said[0], 2) == pytest.approx(1 / 3)
    assert math.isnan(found[1])
    assert found[2] == found[3] == distinct(said[2], 2)


def test_alike_equals_counting():
    random = np.random.default_rng(0)
    group, prompt, code = random.integers(2, size=60), random.integers(6, size=60), random.integers(4, size=60)
    for i, got in enumerate(alike_shares(group, prompt, code)):
        others = [j for j in range(60) if group[j] == group[i] and prompt[j] != prompt[i]]
        assert got == pytest.approx(sum(code[j] == code[i] for j in others) / len(others))
    assert np.isnan(alike_shares(np.zeros(3, int), np.zeros(3, int), np.zeros(3, int))).all()


def test_the_same_text_scored_again(logs):
    text = ["same", "other", "same", "new"]
    table = logs.rollouts([0, 0, 1, 1], [0, 1, 0, 1], text=text, reward=[1.0, 0.0, 1.75, 2.0])
    read = read_texts(table, TWO.rows_of(table.round))
    np.testing.assert_array_equal(read.rescored, [np.nan, np.nan, 0.75, np.nan])


@pytest.mark.parametrize("prompts", [3, 5000])
def test_samples_are_even(logs, prompts):
    table = logs.rollouts(np.repeat([0, 1], 10_000), np.arange(20_000) % prompts, reward=np.zeros(20_000))
    places = sample(table, table.round, most=2000)
    assert 1000 <= len(places) <= 2100
    assert abs((table.round[places] == 0).mean() - 0.5) < 0.02
    if prompts == 3:
        assert np.ptp(np.bincount(table.prompt[places])) <= 2
    everything = sample(table, table.round, most=20_000)
    assert len(everything) == 20_000


def _collapsing(logs, decayed: bool):
    random = np.random.default_rng(0)
    rounds, prompts, texts, rewards = [], [], [], []
    for place in range(2):
        for prompt in range(60):
            words = [f"w{random.integers(1000)}" for _ in range(20)]
            if place == 1 and decayed:
                words = ["as", "you", "know"] * 5 + words[:5]
            rounds.append(place)
            prompts.append(prompt)
            texts.append(" ".join(words))
            rewards.append(float(random.standard_normal() + 1.5 * place))
    table = logs.rollouts(rounds, prompts, text=texts, reward=rewards)
    measures = Measures(TWO, table, read_texts(table, TWO.rows_of(table.round)))
    return symptoms(measures, table)


def test_decay_with_a_rising_reward_is_suspicious_and_better_reward_alone_is_not(logs):
    decayed, healthy = _collapsing(logs, True), _collapsing(logs, False)
    assert suspicious(decayed) == ("reward", "distinct word pairs", "like openings")
    assert suspicious(healthy) == ()
    by_name = {symptom.name: symptom for symptom in decayed}
    assert by_name["alike"].end == pytest.approx(1.0, abs=0.01)
    assert by_name["alike"].change.low > 0.9
    assert not by_name["length"].alarming
    assert by_name["reward"].change.mean == pytest.approx(1.5, abs=0.4)


def test_groups_of_one_reward_are_counted():
    reward = np.array([0.1] * 3 + [0.1, 0.2, 0.3] + [0.7, np.nan, np.nan])
    spread = np.array([1e-17] * 3 + [0.1] * 3 + [np.nan] * 3)
    np.testing.assert_array_equal(idle_groups(spread, reward), [1] * 3 + [0] * 3 + [np.nan] * 3)
