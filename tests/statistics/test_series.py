"""The test of metrics logs: its level over a whole log, what it finds, blocks, and the rise of the proxy alone."""

from __future__ import annotations

import numpy as np
import pytest

from foresighted.statistics.series import (
    Blocks,
    blocks_of,
    check_fall,
    counts_from,
    cut,
    judge_logs,
    paired,
    rose_alone,
    window_of,
)


def _judge(gold, proxy):
    window = window_of(len(gold))
    thresholds = {"threshold": counts_from(gold, window), "proxy_threshold": counts_from(proxy, window)}
    return judge_logs(gold, proxy, **thresholds)


def _found(gold, proxy):
    judged = _judge(np.asarray(gold, float), np.asarray(proxy, float))
    return judged is not None and judged.fall.collapsed


@pytest.mark.slow
@pytest.mark.parametrize("logs", [17, 60, 200])
def test_healthy_logs_are_left_alone(logs):
    """At most 1 % where logs are independent, whatever the trend."""
    alarms = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        shape = (0, 1, 3)[seed % 3] * np.minimum(1, (1 + seed % 2) * np.arange(logs) / logs)
        alarms += _found(shape + random.normal(0, 1, logs), shape + random.normal(0, 1, logs))
    assert alarms <= 6  # more would happen in fewer than 1 of 200 tests


def test_seventeen_evaluations_are_enough():
    rise = np.r_[np.linspace(0.2, 0.42, 7), np.linspace(0.41, 0.2, 10)]
    noise = np.random.default_rng(0).normal(0, 0.01, 17)
    assert _found(rise + noise, np.linspace(0.2, 1, 17))
    assert not _found(rise[:7].tolist() + [0.42] * 10 + noise, np.linspace(0.2, 1, 17))
    assert not _found(rise + noise, rise)  # the reward fell as well


def test_blocks_grow_so_that_there_are_at_most_twelve():
    assert [cut(logs, 5) for logs in (10, 17, 60, 65, 500)] == [
        (0, 5, 2), (0, 5, 3), (0, 5, 12), (5, 10, 6), (5, 45, 11)
    ]  # fmt: skip
    assert blocks_of(np.arange(23.0), 5).straight
    assert not blocks_of(np.arange(25.0), 5).straight


def test_a_straight_line_is_no_spread_and_two_wild_blocks_are_their_own():
    assert Blocks(np.arange(10.0).reshape(2, 5), 0.05, True).variance() == pytest.approx(0)
    calm, wild = np.zeros((4, 5)), np.array([[0, 9, 0, 9, 0.0]])
    blocks = Blocks(np.concatenate([calm, wild]), 0.05)
    assert blocks.variance(3, 4) == pytest.approx(wild.var(ddof=1) / 2)
    assert blocks.variance(0, 1) == pytest.approx(wild.var(ddof=1) / 5)


def test_a_fall_is_told_in_places_of_logs():
    gold, proxy = np.r_[np.ones(10), np.zeros(5)], np.arange(15.0)
    fall = check_fall(gold, proxy, window=5, alpha=0.01, threshold=0.1, proxy_threshold=0.1)
    assert (fall.collapsed, fall.best, fall.last, fall.rounds) == (True, 0, 14, 3)
    assert check_fall(gold[:14], proxy[:14], window=5, alpha=0.01, threshold=0.1, proxy_threshold=0.1) is None


def test_the_proxy_alone_rose():
    random = np.random.default_rng(1)
    noise = [random.normal(0, 0.05, 60) for _ in range(3)]
    up = np.linspace(0, 1, 60)
    assert rose_alone(0.5 + noise[0], up + noise[1])
    assert not rose_alone(up + noise[0], up + noise[1])
    assert not rose_alone(0.5 + noise[0], 0.5 + noise[1])
    flat = rose_alone(np.zeros(60), up)
    assert flat.gold.mean == 0
    assert flat.proxy.mean == pytest.approx(up[55:].mean() - up[:5].mean())
    assert rose_alone(np.zeros(5), up) is None


def test_a_trusted_metric_that_is_logged_less_often_goes_with_the_rewards_since():
    steps, gold, proxy = paired({2: 1.0, 5: 2.0, 9: 3.0}, {1: 1.0, 2: 3.0, 4: 5.0, 12: 7.0})
    assert (steps, gold, proxy) == ([2, 5], [1.0, 2.0], [2.0, 5.0])


def test_what_counts_is_half_the_spread_over_responses_where_it_is_logged():
    assert counts_from([1.0, 2.0, 9.0], 3, [0.4, 0.2]) == pytest.approx(0.15)
    assert counts_from([0.0, 1.0, 2.0, 3.0], 4) == pytest.approx(0)  # a straight line, while there are few
    assert counts_from([0.0, 1.0] * 10, 4) == pytest.approx(0.5 * np.std([0, 1, 0, 1], ddof=1))
