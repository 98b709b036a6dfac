"""`foresighted watch`: what it shows, when it ends, and what it waits for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foresighted.cli import watch
from foresighted.reporting.live import chart
from foresighted.statistics.intervals import Interval, Method


def _write(path, logs):
    random = np.random.default_rng(0)
    rows = [
        {"step": n, "reward": 0.02 * n + random.normal(0, 0.02),
         "rewards/gold/mean": 0.5 - 0.05 * max(0, n - 20) + random.normal(0, 0.02)}
        for n in range(40)
    ]  # fmt: skip
    path.write_text(json.dumps({"log_history": rows[:logs]}))


def test_once_shows_both_curves_the_verdict_and_its_interval(tmp_path, foresighted):
    _write(tmp_path / "trainer_state.json", 40)
    code, out, err = foresighted("watch", tmp_path, "--once")
    assert (code, err) == (1, "")
    assert out.startswith("COLLAPSED: rewards/gold/mean fell")
    assert "reward (the loop follows), now 0." in out
    assert "rewards/gold/mean (trusted), now -0." in out
    assert out.count("●") == 16
    assert "(at least " in out


def test_a_line_a_change_where_there_is_no_terminal_until_a_collapse(tmp_path, foresighted, monkeypatch):
    path = tmp_path / "trainer_state.json"
    told = iter((0, 10, 10, 40))
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: _write(path, next(told)))
    code, out, err = foresighted("watch", tmp_path, "--stop", "--every", 0.5)
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines()] == ["SUSPICIOUS", "COLLAPSED"]
    assert [line.split(":")[0] for line in err.splitlines()] == ["waiting", "waiting"]  # nothing, then no number


def test_ended_by_hand_it_says_what_had_happened(tmp_path, foresighted, monkeypatch):
    def stop(seconds):
        raise KeyboardInterrupt

    _write(tmp_path / "trainer_state.json", 20)
    monkeypatch.setattr(watch.time, "sleep", stop)
    assert foresighted("watch", tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--every", "0"), "every: got 0.0"), (("--webhook", "example.org"), "webhook: got no http"),
        (("--once",), "holds no records of ours"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments, said, tmp_path, foresighted):
    code, _, err = foresighted("watch", tmp_path, *arguments)
    assert code == 2
    assert said in err
    assert foresighted("watch", tmp_path / "none")[0] == 2


def test_a_chart_of_nothing_and_of_one_value():
    one = Interval(2.0, -np.inf, np.inf, 0.95, 1, 1, Method.STUDENT)
    assert "●" in "".join(chart([None, one], width=40, height=5))
    assert "●" not in "".join(chart([None], width=40, height=5))
