"""Summaries of comparisons with known trajectories."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from foresighted.alignment.compared import headline
from foresighted.alignment.comparison import summarise
from foresighted.errors import ConfigError, DataError
from foresighted.store import records
from foresighted.store.directory import arm_directory
from foresighted.store.rows import read, to_line


@pytest.fixture(scope="module")
def settled(synthetic: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A falling baseline, a steady arm, and a steady arm that reads four times the labels."""
    arms = {
        "rlhf": synthetic.FALLING,
        "practical": synthetic.STEADY,
        "relaxed": {**synthetic.STEADY, "labels_a_round": 16},
    }
    return synthetic.write_comparison(tmp_path_factory.mktemp("settled") / "out", arms)


def test_settled_comparison(settled: Path) -> None:
    comparison = summarise(settled)
    rlhf, practical, relaxed = comparison.arms
    assert (comparison.last_round, comparison.prompts, comparison.missing) == (40, 12, ())
    assert [evaluated.round for evaluated in rlhf.evaluated] == [0, 10, 20, 30, 40]
    assert rlhf.finished
    assert rlhf.seeds == (0, 1, 2)
    assert rlhf.collapse is not None
    assert rlhf.collapse.collapsed
    assert rlhf.collapsed_share is not None
    assert (rlhf.collapsed_share.successes, rlhf.collapsed_share.total) == (3, 3)
    assert practical.collapsed_share is not None
    assert practical.collapsed_share.successes == 0
    assert rlhf.utility_difference is None
    assert practical.utility_difference is not None
    assert practical.utility_difference.low < 4 < practical.utility_difference.high
    assert set(relaxed.earlier_differences) == {"practical"}
    assert relaxed.earlier_differences["practical"].mean == pytest.approx(
        relaxed.utility_difference.mean - practical.utility_difference.mean
    )
    assert not rlhf.earlier_differences
    assert practical.reward_difference is not None
    assert practical.reward_difference.mean == pytest.approx(-0.2, abs=0.3)
    assert [(count.initial, count.later, count.total) for count in relaxed.labels] == [(8, 640, 648)] * 3
    assert rlhf.evaluated[0].gap is not None
    assert rlhf.evaluated[0].gap.mean == 0
    assert rlhf.evaluated[-1].gap is not None
    assert rlhf.evaluated[-1].gap.low > 0
    spread = rlhf.trained[0].columns["overconfidence"]
    assert (spread.mean, spread.lowest, spread.highest) == pytest.approx((0.211, 0.201, 0.221))
    assert "utility_reference" not in rlhf.trained[0].columns


def test_sentences_of_a_settled_comparison(settled: Path) -> None:
    text = " ".join(summarise(settled).sentences)
    assert "rlhf: 3 of 3 [44%, 100%]; practical: 0 of 3 [0%, 56%]" in text
    assert "rlhf: the mean over seeds of true utility fell by" in text
    assert "(a collapse; corrected for what was looked at, the fall is at least" in text
    assert "practical ended higher (" in text
    assert "Final true utility against practical, paired: relaxed shows no clear difference (" in text
    assert "rlhf: 168, practical: 168, relaxed: 648" in text
    assert "did not read the same number of labels" in text
    assert "3 seeds an arm and 12 held-out prompts" in text
    assert "3 seeds are few" in text
    assert "No collapse was seen" not in text


def test_sentences_do_not_know_the_wished_outcome(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    """The same records under swapped names give the same words under swapped names."""
    arms = {"rlhf": synthetic.STEADY, "practical": synthetic.FALLING}
    text = " ".join(summarise(synthetic.write_comparison(tmp_path / "out", arms)).sentences)
    assert "No collapse was seen in the baseline rlhf at this size (40 rounds)" in text
    assert "practical: 3 of 3" in text
    assert "practical ended lower (-" in text
    assert "Every arm read 168 labels a seed" in text


def test_the_headline_says_what_was_compared_and_how_many_collapsed(
    settled: Path, synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    assert headline(summarise(settled)) == (
        "3 arms of iterative RLHF to round 40, 3 seeds each, measured on 12 held-out prompts: rlhf collapsed in 3 of 3"
        " seeds, practical in 0 of 3, relaxed in 0 of 3."
    )
    arms = {"rlhf": synthetic.STEADY, "practical": synthetic.STEADY, "exact": synthetic.STEADY}
    partial = synthetic.write_comparison(
        tmp_path / "partial",
        arms,
        seeds=[0, 1],
        skip=[("exact", 0), ("exact", 1)],
        cut={("practical", 0): 20, ("practical", 1): 20},
    )
    assert headline(summarise(partial)) == (
        "2 of 3 arms of iterative RLHF to round 40 so far, 2 seeds each, measured on 12 held-out prompts: rlhf"
        " collapsed in 0 of 2 seeds, practical (to round 20) in 0 of 2."
    )
    one = synthetic.write_comparison(tmp_path / "one", {"rlhf": synthetic.NO_UTILITY}, seeds=[0])
    assert headline(summarise(one)) == (
        "1 arm of iterative RLHF to round 40, 1 seed, measured on 12 held-out prompts: no true utility was recorded, so"
        " nothing can be said about collapse."
    )


def test_no_collapse_and_no_difference(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    arms = {"rlhf": synthetic.FLAT, "practical": synthetic.FLAT}
    text = " ".join(summarise(synthetic.write_comparison(tmp_path / "out", arms)).sentences)
    assert "No collapse was seen in any arm or seed at this size (40 rounds)" in text
    assert "practical shows no clear difference" in text


def test_one_seed_is_said(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    arms = {"rlhf": synthetic.FALLING, "practical": synthetic.STEADY}
    comparison = summarise(synthetic.write_comparison(tmp_path / "out", arms, seeds=[4]))
    rlhf = comparison.arms[0]
    assert rlhf.collapse is not None
    assert rlhf.collapse.collapsed
    assert rlhf.collapse.fall.resampled == "prompts only"
    text = " ".join(comparison.sentences)
    assert "With one seed only prompts are resampled" in text
    assert "mean over seeds" not in text


def test_without_utility(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    arms = {"rlhf": synthetic.NO_UTILITY, "practical": synthetic.NO_UTILITY}
    comparison = summarise(synthetic.write_comparison(tmp_path / "out", arms))
    assert not comparison.utility_known
    assert all(arm.collapse is None and arm.final_utility is None and not arm.seed_collapses for arm in comparison.arms)
    text = " ".join(comparison.sentences)
    assert "only proxy reward is known" in text
    assert "Final proxy reward against rlhf" in text
    assert "Final true utility" not in text
    assert "collapsed by" not in text


def test_missing_and_unfinished_runs(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    """Seed 1 is left out of `practical`; `relaxed` has no finished seed; `exact` never started."""
    arms = dict.fromkeys(("rlhf", "practical", "relaxed", "exact"), synthetic.STEADY)
    skip = [("practical", 1), ("exact", 0), ("exact", 1)]
    cut = {("relaxed", 0): 20, ("relaxed", 1): 30}
    out = synthetic.write_comparison(tmp_path / "out", arms, seeds=[0, 1], skip=skip, cut=cut)
    comparison = summarise(out)
    rlhf, practical, relaxed = comparison.arms
    assert comparison.last_round == 40
    assert rlhf.seeds == (0, 1)
    assert practical.seeds == (0,)
    assert practical.utility_difference is not None
    assert practical.utility_difference.seeds == 1
    assert not relaxed.finished
    assert relaxed.last_round == 20
    assert [evaluated.round for evaluated in relaxed.evaluated] == [0, 10, 20]
    assert relaxed.utility_difference is None
    assert relaxed.labels[1].total == 8 + 4 * 20
    text = " ".join(comparison.sentences)
    assert "practical, seed 1 (nothing evaluated yet)" in text
    assert "relaxed, seed 1 (round 30 of 40)" in text
    assert "Not compared with rlhf, for want of a seed that reached the same round: relaxed" in text
    assert "1 to 2 seeds an arm" in text


def test_nothing_finished_stops_at_the_common_round(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    arms = {"rlhf": synthetic.FALLING, "practical": synthetic.STEADY}
    cut = {("rlhf", 0): 30, ("rlhf", 1): 20, ("practical", 0): 20, ("practical", 1): 20}
    comparison = summarise(synthetic.write_comparison(tmp_path / "out", arms, seeds=[0, 1], cut=cut))
    assert comparison.last_round == 20
    assert not comparison.any_finished
    assert all(arm.last_round == 20 for arm in comparison.arms)
    assert "No run is finished: everything here stops at round 20" in " ".join(comparison.sentences)


def test_missing_baseline(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    arms = {"rlhf": synthetic.FALLING, "practical": synthetic.STEADY}
    comparison = summarise(synthetic.write_comparison(tmp_path / "out", arms, seeds=[0], skip=[("rlhf", 0)]))
    assert [arm.label for arm in comparison.arms] == ["practical"]
    text = " ".join(comparison.sentences)
    assert "The baseline rlhf has no records yet" in text
    assert "No collapse was seen in the baseline" not in text


def test_torn_line_and_half_written_round(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0], cut={("rlhf", 0): 20})
    heldout = arm_directory(out, "rlhf", 0) / records.HELDOUT
    rows = read(heldout, records.HeldoutRow)
    half = to_line({**rows[0].__dict__, "round": 30}) + to_line({**rows[1].__dict__, "round": 30})[:40]
    with heldout.open("a") as file:
        file.write(half)
    assert summarise(out).last_round == 20


def test_single_run(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    synthetic.write_run(tmp_path / "run", seed=3, rounds=20, **synthetic.FALLING)
    comparison = summarise(tmp_path / "run")
    assert comparison.planned_arms == ("rlhf",)
    assert comparison.arms[0].seeds == (3,)
    assert comparison.arms[0].labels[0].total == 88
    assert not any("against" in sentence for sentence in comparison.sentences)


def test_nothing_to_read(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0], skip=[("rlhf", 0)])
    with pytest.raises(DataError, match="no held-out answers yet"):
        summarise(out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(DataError, match="neither a comparison"):
        summarise(tmp_path / "other")


@pytest.mark.parametrize("text", ["seed: x", "seed: null", "seed: true", "arms: [rlhf]\nseeds: [0, x]"])
def test_a_seed_that_is_none(synthetic: SimpleNamespace, tmp_path: Path, text: str) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0])
    (out / records.ROUNDS).touch()
    (out / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml: a seed is .*; expected a whole number"):
        summarise(out)


@pytest.mark.parametrize("name", [records.HELDOUT, records.ROUNDS])
def test_a_bad_value_in_the_records_is_named(synthetic: SimpleNamespace, tmp_path: Path, name: str) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": synthetic.STEADY}, seeds=[0], rounds=10)
    path = arm_directory(out, "rlhf", 0) / name
    lines = path.read_text().splitlines()
    row = json.loads(lines[1]) if len(lines) > 1 else json.loads(lines[0])
    for column, value in (("round", None), ("reward", [1]), ("tokens", "x"), ("reward", float("nan"))):
        path.write_text("\n".join([lines[0], json.dumps({**row, column: value}), *lines[2:]]) + "\n")
        with pytest.raises(DataError, match=rf"{name}, line 2: {column} is .*; expected "):
            summarise(out)


def test_different_prompts_are_refused(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = synthetic.write_comparison(
        tmp_path / "out", {"rlhf": synthetic.STEADY, "practical": synthetic.STEADY}, seeds=[0]
    )
    heldout = arm_directory(out, "practical", 0) / records.HELDOUT
    heldout.write_text(heldout.read_text().replace('"prompt_id": "p', '"prompt_id": "other'))
    with pytest.raises(DataError, match="no held-out prompt was answered in every run"):
        summarise(out)


def test_mapping_is_json(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    out = synthetic.write_comparison(tmp_path / "out", {"rlhf": {**synthetic.STEADY, "prompts": 1}}, seeds=[0])
    mapping = json.loads(json.dumps(summarise(out).to_mapping(), allow_nan=False))
    final = mapping["arms"][0]["final_utility"]
    assert final["low"] is None
    assert final["prompts"] == 1
    assert mapping["sentences"]
