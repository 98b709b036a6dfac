"""What a rehearsal says of known trajectories: whatever came out, in words that are true of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foresighted.alignment.compared import Comparison
from foresighted.alignment.comparison import summarise
from foresighted.alignment.rehearsal_text import advice, sentences, table
from foresighted.alignment.rehearsed import Wins, rehearsed
from foresighted.settings import RehearseConfig, TrainConfig
from foresighted.settings.rehearse import usual
from foresighted.statistics.intervals import Interval, Method

PLAIN, KL, CEILING = "rlhf:kl_coefficient=0", "rlhf:kl_coefficient=0.3", "labels:kl_coefficient=0"
ARMS = (PLAIN, KL, "practical", "shuffled", CEILING)
GAINING: dict[str, Any] = {"utility": lambda t: 4.0 + 0.06 * t, "reward": lambda t: 0.01 * t, "labels_a_round": 16}


def _config(arms: tuple[str, ...] = ARMS, seeds: tuple[int, ...] = (0, 1, 2, 3)) -> RehearseConfig:
    return RehearseConfig(train=TrainConfig(**usual({})), arms=arms, seeds=seeds)


@pytest.fixture(scope="module")
def said(synthetic: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    """Write a comparison with these trajectories; return what a rehearsal says of it."""

    def said(shapes: dict[str, Any], *, seeds: tuple[int, ...] = (0, 1, 2, 3), **more: Any):
        config = _config(tuple(shapes), seeds)
        out = synthetic.write_comparison(tmp_path_factory.mktemp("said") / "loops", shapes, seeds=seeds, **more)
        return rehearsed(config, summarise(out), {})

    return said


@pytest.fixture(scope="module")
def wished(said, synthetic: SimpleNamespace):
    return said({
        PLAIN: synthetic.FALLING, KL: synthetic.FALLING, "practical": synthetic.STEADY, "shuffled": synthetic.FALLING,
        CEILING: GAINING,
    }, rounds=20)  # fmt: skip


def test_a_fall_that_an_arm_prevents(wished, told) -> None:
    first, second, third = sentences(wished)
    told(first, "Plain RLHF", PLAIN, "collapses here in 20 rounds and 4 seeds", "best at round 0", "falls by 1.",
         "to round 20", "proxy reward changes by", "4 of 4 seeds")  # fmt: skip
    told(second, "What prevents it at equal labels (88 a seed)", "practical (", "0 of 4 seeds collapsed", "over", KL)
    told(second, "over shuffled (the same with it shuffled)")
    assert "no clear difference" not in second
    told(third, "ceiling", "328 labels a seed", "practical", "since the start", "nats", "ended 0.", "over practical")
    assert wished.best == "practical"
    assert [one.role for one in wished.standings] == ["baseline", "candidate", "candidate", "control", "ceiling"]


@pytest.mark.slow
def test_the_same_records_under_swapped_names_give_no_wished_words(said, synthetic: SimpleNamespace, told) -> None:
    found = said({
        PLAIN: synthetic.STEADY, KL: synthetic.STEADY, "practical": synthetic.FALLING, "shuffled": synthetic.STEADY,
        CEILING: synthetic.FALLING,
    }, rounds=20)  # fmt: skip
    first, second, third = sentences(found)
    told(first, "does not collapse here in 20 rounds and 4 seeds", "is not ruled out", "0 of 4 seeds")
    told(second, "nothing to prevent", "no arm ended clearly better", "clearly worse: practical (-")
    told(second, "practical ended -", KL)
    told(third, "ceiling", "since the start", "and ended -")
    assert found.best in (PLAIN, KL)


@pytest.mark.slow
def test_nothing_prevents_it(said, synthetic: SimpleNamespace, told) -> None:
    same = said({PLAIN: synthetic.FALLING, "practical": synthetic.FALLING}, rounds=20)
    told(sentences(same)[1], "Nothing is shown to prevent it at equal labels", "practical (", "no clear difference")
    worse = said({PLAIN: {"utility": lambda t: 4.0 - 0.04 * t, "reward": lambda t: 0.02 * t}, KL: synthetic.FALLING})
    told(sentences(worse)[1], "Nothing is shown to prevent it", KL, "clearly worse still")
    half = {"utility": lambda t: 4.0 - 0.04 * t, "reward": lambda t: 0.02 * t}
    softer = said({PLAIN: synthetic.FALLING, "practical": half}, rounds=40)
    told(sentences(softer)[1], "Nothing prevents it", "what softens it", "practical (", "4 of 4 seeds collapsed")
    assert softer.best == "practical"
    told(advice(softer)[0], "practical", "though it fell, too")


def test_more_labels_are_no_prevention_at_equal_labels(said, synthetic: SimpleNamespace, told) -> None:
    found = said({PLAIN: synthetic.FALLING, "relaxed": {**synthetic.STEADY, "labels_a_round": 16}}, rounds=20)
    told(sentences(found)[1], "Nothing can be said of what prevents it at equal labels")
    told(sentences(found)[2], "not known, since no arm chose by the true label", PLAIN)


def test_a_fall_that_the_loop_shows_is_no_collapse(said, synthetic: SimpleNamespace, told) -> None:
    found = said({PLAIN: synthetic.BOTH_FALL, "practical": synthetic.STEADY}, rounds=20)
    told(sentences(found)[0], "gets worse here", "the loop's own numbers show it")
    told(sentences(found)[1], "What prevents it", "practical (")


@pytest.mark.slow
def test_too_early_and_one_seed(said, synthetic: SimpleNamespace, told) -> None:
    arms = {PLAIN: synthetic.FALLING, "practical": synthetic.STEADY}
    early = said(arms, rounds=20, cut={(arm, seed): 0 for arm in arms for seed in range(4)})
    told(sentences(early)[0], "Too early", "only round 0")
    one = said(arms, rounds=20, seeds=(3,))
    told(sentences(one)[1], "with one seed all this speaks about prompts only")
    stopped = said(arms, rounds=20, cut={(arm, seed): 10 for arm in arms for seed in range(4)})
    assert [row[0] for row in table(stopped)[1]] == list(arms)
    even = said({PLAIN: synthetic.FLAT, "practical": synthetic.FLAT}, rounds=20)
    told(advice(even)[0], "the choice among the arms is not made by this rehearsal")


def test_an_unfinished_arm_is_not_the_best(said, synthetic: SimpleNamespace, told) -> None:
    arms = {PLAIN: synthetic.FALLING, KL: synthetic.STEADY, "practical": GAINING | {"labels_a_round": 4}}
    found = said(arms, rounds=20, cut={("practical", seed): 10 for seed in range(4)})
    assert found.best == KL
    assert table(found)[1][2][0] == "practical (unfinished, round 10)"


def test_the_table_has_a_row_an_arm(wished) -> None:
    head, rows = table(wished)
    assert head[2:4] == ("true utility", "over the baseline")
    assert [row[0] for row in rows] == list(ARMS)
    assert rows[0][1] == "88"
    assert rows[0][3] == "baseline"
    assert rows[0][-1] == "4 of 4"
    assert rows[-1][1] == "328"


def _rate(mean: float) -> Interval:
    return Interval(mean, mean - 0.1, mean + 0.1, 0.95, 4, 12, Method.BOOTSTRAP)


def _judged(comparison: Comparison, plain: tuple[float, ...], other: tuple[float, float]):
    rounds = range(10, 10 * len(plain) + 1, 10)
    wins = {
        PLAIN: [Wins(round_, _rate(rate), None, 0) for round_, rate in zip(rounds, plain, strict=True)],
        "practical": [Wins(rounds[-1], _rate(other[0]), _rate(other[1]), 1)],
    }
    return rehearsed(_config((PLAIN, "practical")), comparison, wins)


def test_without_a_utility_win_rates_say_it(said, synthetic: SimpleNamespace, told) -> None:
    loops = said({PLAIN: synthetic.NO_UTILITY, "practical": synthetic.NO_UTILITY}, rounds=40).comparison
    fallen = _judged(loops, (0.5, 0.45, 0.3, 0.2), (0.55, 0.8))
    first, second, third = sentences(fallen)
    told(
        first, "collapses here, by the judge", "from round 30 on", "after round 40", "0.20 [0.10, 0.30]", "proxy reward"
    )
    told(second, "What prevents it at equal labels", "by win rate over the baseline", "practical (0.80 [0.70, 0.90])")
    told(third, "cannot be held against a ceiling", "no utility", "practical", "0.55 [0.45, 0.65]")
    assert table(fallen)[0][2] == "won against the first policy"
    assert table(fallen)[1][1][2:4] == ("0.55 [0.45, 0.65]", "0.80 [0.70, 0.90]")
    told(sentences(_judged(loops, (0.5, 0.5), (0.5, 0.5)))[0], "does not fall here", "not ruled out")
    failed = replace(fallen.standings[0], wins=(Wins(40, None, None, 96),))
    told(sentences(replace(fallen, standings=(failed, *fallen.standings[1:])))[0], "judging failed on 96 pairs")
    waiting = replace(fallen.standings[0], wins=(Wins(40, None, None, 0),))
    told(sentences(replace(fallen, standings=(waiting, *fallen.standings[1:])))[0], "cannot be judged", "--resume")


def test_nothing_known_at_all_is_said(said, synthetic: SimpleNamespace, told) -> None:
    found = said({PLAIN: synthetic.NO_UTILITY, "practical": synthetic.NO_UTILITY}, rounds=20)
    told(sentences(found)[0], "neither a true utility nor a verdict")
    assert found.best is None
    assert advice(found) == ("", "", "")


def test_a_baseline_without_records_is_said(said, synthetic: SimpleNamespace, told) -> None:
    arms = {PLAIN: synthetic.FALLING, "practical": synthetic.STEADY}
    (only,) = sentences(said(arms, rounds=20, seeds=(0,), skip=[(PLAIN, 0)]))
    told(only, f"The baseline {PLAIN} has no records yet")


def test_numbers_are_json(wished, tmp_path: Path) -> None:
    import json

    mapping = json.loads(json.dumps(wished.to_mapping(), allow_nan=False))
    assert mapping["best"] == "practical"
    assert mapping["comparison"]["arms"][0]["utility_change"]["mean"] < -1
