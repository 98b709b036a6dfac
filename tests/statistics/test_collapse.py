"""The one definition of collapse: its cases, and the same verdict from everybody who asks."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from foresighted.alignment.comparison import summarise
from foresighted.auditing.audit import audit
from foresighted.games.summary import run_statistics
from foresighted.statistics.collapse import FALL_SHARE, Exact, Reason, fall_to, judge
from foresighted.statistics.profile import of_grid
from foresighted.statistics.series import check_fall
from foresighted.store import records
from foresighted.store.directory import arm_directory
from foresighted.store.rows import append

pytestmark = pytest.mark.slow


def of_trajectory(utility, reward, seeds=2, noise=0.05):
    """Grids of (rows, seeds, 20 prompts) with given means; prompts differ by about 1."""
    random = np.random.default_rng(0)
    prompts = random.normal(size=(1, 1, 20))
    return [
        np.array(means, float)[:, None, None] + prompts + noise * random.normal(size=(len(means), seeds, 20))
        for means in (utility, reward)
    ]


def judged(utility, reward, **options):
    means, paid = of_grid(np.asarray(utility, float)), None if reward is None else of_grid(np.asarray(reward, float))
    limits = FALL_SHARE * means.deviation, FALL_SHARE * paid.deviation if paid else 0.0
    return judge(means, paid, threshold=limits[0], reward_threshold=limits[1], **options)


@pytest.mark.parametrize(
    ("utility", "reward", "reason"),
    [
        ([4, 5, 2], [0, 1, 2], Reason.COLLAPSED),
        ([4, 5, 2], [0, 1, 1], Reason.COLLAPSED),
        ([4, 5, 2], [1, 1, -1], Reason.PROXY_FELL),
        ([4, 5, 4.8], [0, 1, 2], Reason.WITHIN_THRESHOLD),
        ([4, 5, 6], [0, 1, 2], Reason.BEST_AT_THE_END),
    ],
)
def test_cases(utility, reward, reason):
    fall = judged(*of_trajectory(utility, reward))
    assert fall.reason == reason
    assert fall.collapsed == (reason == Reason.COLLAPSED)
    assert fall.best == int(np.argmax(utility))
    assert fall.fall.mean == pytest.approx(max(utility) - utility[-1], abs=0.1)
    assert judged(of_trajectory(utility, reward)[0], None).reason == (
        reason if reason in (Reason.WITHIN_THRESHOLD, Reason.BEST_AT_THE_END) else Reason.NO_PROXY
    )


def test_the_interval_must_exclude_0():
    """A mean fall that one prompt makes is above the threshold, yet not shown."""
    utility = np.stack([np.linspace(-1, 1, 8)[None], np.array([[-40.0, 0, 0, 0, 0, 0, 0, 0]])])
    fall = judged(utility, np.stack([np.zeros((1, 8)), np.ones((1, 8))]))
    assert fall.fall.mean > fall.threshold
    assert fall.reason == Reason.NOT_CLEAR


def test_noise_alone_is_no_collapse():
    random = np.random.default_rng(3)
    found = [judged(*(random.normal(size=16) + random.normal(size=(2, 5, 1, 16)))) for _ in range(60)]
    assert np.mean([fall.collapsed for fall in found]) <= 0.1  # the best of five rows is a maximum, so not exactly 0
    assert np.mean([fall.corrected for fall in found]) <= 0.05


def test_small_drift_of_reward_is_not_a_fall():
    assert judged(*of_trajectory([5, 2], [1.0, 0.99], noise=0.5)).collapsed


def test_a_reward_that_gives_way_later_leaves_a_collapse_one():
    late = judged(*of_trajectory([1.0, 1.1, 1.0, -1.0, -2.5], [0.0, 0.05, 0.1, 0.1, -1.5], seeds=1, noise=0.2))
    assert (late.corrected, late.last, late.family) == (True, 3, 1)
    together, _ = of_trajectory([1.0, 1.1, 1.0, -1.0, -2.5], [0] * 5, seeds=1, noise=0.2)
    both = judged(together, together + 0.01)
    assert (both.collapsed, both.reason, both.last) == (False, Reason.PROXY_FELL, 4)
    assert both.low_corrected > 0


def test_a_fall_that_utility_recovered_from_is_none():
    """Row 1 is down while reward rises, but row 2 is the best of all; the fall from there is one of both."""
    fall = judge(Exact(np.array([1.0, -1, 2, -2])), Exact(np.array([0.0, 1, 2, -3])), threshold=0.5)
    assert (fall.best, fall.last, fall.reason) == (2, 3, Reason.PROXY_FELL)


def test_a_caller_may_ask_for_a_clear_excess_over_the_threshold():
    means = of_grid(of_trajectory([4, 3.3], [0, 1], seeds=1, noise=0.5)[0])
    options = {"threshold": 0.5, "reward_threshold": 0.0}
    assert fall_to(1, means, Exact(np.arange(2.0)), **options).collapsed
    assert fall_to(1, means, Exact(np.arange(2.0)), beyond=0.5, **options).reason == Reason.NOT_CLEAR


def test_allowing_for_one_choice_is_the_ordinary_interval():
    """Two rows, one run: nothing was chosen, however many sources of error there are."""
    random = np.random.default_rng(1)
    grid = random.normal(size=(2, 8, 1)) + random.normal(size=(2, 1, 30)) + random.normal(size=(2, 8, 30))
    means = of_grid(grid)
    low = means.contrast(np.array([1.0, -1.0])).low
    assert means.corrected_low(0, 1, family=1) == pytest.approx(low, abs=0.06 * abs(low - (means.means @ [1, -1])))


STORIES = {
    "rises": ([0, 1, 1, 2, 2, 3], [0, 1, 2, 3, 4, 5], False),
    "flat": ([0] * 6, [0, 1, 2, 3, 4, 5], False),
    "falls while the proxy rises": ([0, 1, 0, -1, -2, -3], [0, 1, 2, 3, 4, 5], True),
    "falls while the proxy stays": ([2, 2, 2, -1, -1, -1], [0, 1, 1, 2, 2, 2], True),
    "both fall": ([2, 2, 1, 0, -2, -3], [5, 5, 3, 1, -3, -5], False),
    "falls within the threshold": ([0, 0.2, 0.1, 0.1, 0, 0], [0, 1, 2, 3, 4, 5], False),
    "the proxy falls too, later": ([0, 2, 2, -1, -2, -3], [0, 1, 2, 3, 0, -4], True),
}
"""Means by row of utility and proxy reward in prompt-to-prompt standard deviations, and whether that is a collapse."""


@pytest.fixture(scope="module")
def series():
    """Return 200 series: story, utility and reward by row, seed and prompt."""
    made = []
    for number in range(200):
        random = np.random.default_rng(number)
        story = list(STORIES)[number % len(STORIES)]
        shape = 6, 1, 12
        prompts = random.normal(size=12)
        prompts = (prompts - prompts.mean()) / prompts.std(ddof=1)
        made.append(
            (story, *(np.array(means, float)[:, None, None] + prompts + 0.15 * random.normal(size=shape)
                      for means in STORIES[story][:2]))
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def directory(series, tmp_path_factory):
    """Return the series as the arms of four comparisons of ours."""
    out = tmp_path_factory.mktemp("series")
    for part in range(4):
        own = {f"a{number:03}": series[number] for number in range(50 * part, 50 * part + 50)}
        (out / str(part)).mkdir()
        (out / str(part) / "config.yaml").write_text(yaml.safe_dump({"arms": list(own), "seeds": [0], "rounds": 5}))
        for arm, (_, utility, reward) in own.items():
            folder = arm_directory(out / str(part), arm, 0)
            folder.mkdir(parents=True)
            rows = [
                records.HeldoutRow(row, f"p{p:02}", "?", "kind", "An answer.", 2, float(reward[row, 0, p]),
                                   float(utility[row, 0, p]), 0.1, 1.0, 1.0)
                for row in range(6) for p in range(12)
            ]  # fmt: skip
            append(folder / records.HELDOUT, rows)
            append(folder / records.ROUNDS, [_round(number) for number in range(1, 6)])
    return out


def _round(number):
    return records.RoundRow(number, *[0.0] * 12, empty=0, labels=4, labels_total=4 * number)


@pytest.fixture(scope="module")
def verdicts(series, directory):
    """Return, for each series, the fall that report and audit find, and the verdicts of monitor and games."""
    reports, audits = [], []
    for part in sorted(directory.iterdir()):
        reports += summarise(part).arms
        audits += audit(part).arms
    return list(zip(series, reports, audits, strict=True))


def test_report_and_audit_say_the_same(verdicts):
    for (story, _, _), told, found in verdicts:
        assert (told.collapse, told.to_last, told.seed_collapses) == (found.fall, found.to_last, found.seed_falls)
        assert (found.verdict == "collapsed") == told.collapse.corrected == STORIES[story][2], story


def test_monitor_and_games_agree_with_them(verdicts):
    for (story, utility, reward), told, _ in verdicts:
        means = utility.mean(axis=(1, 2)), reward.mean(axis=(1, 2))
        assert run_statistics(*means, drop_threshold=0.5)["collapsed"] == told.collapse.collapsed, story
        logs = [np.asarray(grid[:, 0, :10]).ravel() for grid in (utility, reward)]
        alarms = [
            check_fall(*(log[: 10 * row] for log in logs), window=10, alpha=0.05, threshold=0.5, proxy_threshold=0.5)
            for row in range(2, 7)
        ]
        assert any(fall is not None and fall.collapsed for fall in alarms) == told.collapse.collapsed, story


def test_reasons_are_those_of_the_story(verdicts):
    expected = {
        "rises": {Reason.BEST_AT_THE_END, Reason.WITHIN_THRESHOLD}, "both fall": {Reason.PROXY_FELL},
        "flat": {Reason.BEST_AT_THE_END, Reason.WITHIN_THRESHOLD},
        "falls within the threshold": {Reason.BEST_AT_THE_END, Reason.WITHIN_THRESHOLD},
    }  # fmt: skip
    for (story, _, _), told, _ in verdicts:
        assert told.collapse.reason in expected.get(story, {Reason.COLLAPSED}), story
        assert (told.to_last is not None) == (story == "the proxy falls too, later")
