"""Judgements from a table: the published one where it is at hand, one of our own otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foresighted.errors import DataError, RunError
from foresighted.judging.result import read_evaluation, write_evaluation
from foresighted.judging.rows import JudgementRow, read_rows
from foresighted.judging.run import evaluate_table
from foresighted.judging.table import read_table
from foresighted.statistics.intervals import wilson_share
from foresighted.store.directory import ANSWERS, JUDGEMENTS

SHARED = Path(__file__).parents[3] / "shared" / "reference" / "pairwise_judgements.csv"
OWN = """prompt_id,category,base_vs_new,new_vs_other,words_base,words_new,same_base_new
1,Factual,new,tie,5,6,False
2,Factual,tie,other,4,4,True
3,Deceptive,base,new,7,9,False
4,Deceptive,new,,3,8,False
"""


@pytest.mark.skipif(not SHARED.is_file(), reason="the published judgements lie outside the repository")
def test_the_published_judgements(tmp_path):
    result = evaluate_table(SHARED, baseline=None, seed=0, out=tmp_path / "out")
    pairs = {f"{pair.first} over {pair.second}": pair for pair in result.pairs}
    expected = {
        "relaxed over baseline": (188, 485, 144, 0.018, 0.054),
        "practical over baseline": (140, 542, 135, 0.81, 0.81),
        "relaxed over practical": (167, 512, 138, 0.11, 0.22),
    }
    assert pairs.keys() == expected.keys()
    for name, (wins, ties, losses, p, holm) in expected.items():
        pair = pairs[name]
        assert (pair.counts.wins, pair.counts.ties, pair.counts.losses) == (wins, ties, losses)
        assert float(f"{pair.p:.2g}") == p
        assert float(f"{pair.holm:.2g}") == holm
        assert pair.bias is None
    assert pairs["practical over baseline"].identical == 433
    assert {group.name for group in pairs["relaxed over baseline"].categories} == {
        "Standard - Factual", "Adversarial - Deceptive", "Adversarial - Sycophancy/Safety",
    }  # fmt: skip
    said = " ".join(result.sentences)
    assert (
        "relaxed over baseline: 188:144 (485 ties), p = .018, .054 after Holm's correction for 3 comparisons." in said
    )
    assert "A hint that relaxed wins more often, not a finding" in said
    assert "practical over baseline: 140:135 (542 ties), p = .81" in said
    assert "relaxed over practical: 167:138 (512 ties), p = .11" in said
    assert "One training seed a policy" in said
    assert "position bias is not known" in said
    assert read_evaluation(tmp_path / "out") == result
    assert len(read_rows(tmp_path / "out" / JUDGEMENTS, JudgementRow)) == 3 * 817


def _judged(tmp_path, *winners: str, seeds: int = 1):
    lines = [f"{seed},{i},{name}" for seed in range(seeds) for i, name in enumerate(winners)]
    path = _table(tmp_path, "seed,prompt_id,a_vs_b\n" + "\n".join(lines))
    return evaluate_table(path, baseline=None, seed=0, out=None)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("winner", "count"), [("b", 12), ("a", 3), ("tie", 20), ("a", 1)])
def test_scores_that_are_all_the_same_prove_nothing_beyond_wilson(tmp_path, winner, count, seeds):
    result = _judged(tmp_path, *count * [winner], seeds=seeds)
    rate = result.pairs[0].win_rate
    unseen = wilson_share(0, count).high  # prompts that may be otherwise, and then go either way
    centre = {"b": 1.0, "a": 0.0, "tie": 0.5}[winner]
    expected = (max(0.0, (1 - unseen) * centre), min(1.0, (1 - unseen) * centre + unseen))
    if count * seeds == 1:
        expected = (0.0, 1.0)  # one judgement says nothing of its spread
    assert (rate.mean, rate.low, rate.high) == pytest.approx((centre, *expected))
    rating = result.policies[1].rating
    assert (rating.low, rating.high) == (None, None)
    assert read_back(tmp_path, result) == result


def test_wilson_at_the_end_is_what_it_always_was(tmp_path):
    rate = _judged(tmp_path, *12 * ["b"]).pairs[0].win_rate
    share = wilson_share(12, 12)
    assert (rate.low, rate.high) == pytest.approx((share.low, share.high))


def read_back(tmp_path, result):
    write_evaluation(tmp_path, result)
    return read_evaluation(tmp_path)


def test_a_table_does_not_take_the_place_of_an_evaluation(tmp_path):
    path, out = _table(tmp_path), tmp_path / "out"
    evaluate_table(path, baseline=None, seed=0, out=out)
    assert evaluate_table(path, baseline="new", seed=0, out=out).baseline == "new"  # its own result may go
    (out / ANSWERS).write_text("{}\n")
    with pytest.raises(RunError, match="holds an evaluation, and the result of a table"):
        evaluate_table(path, baseline=None, seed=0, out=out)
    (out / ANSWERS).unlink()
    (out / "config.yaml").write_text("policies: [a=x]\n")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(RunError, match="holds an evaluation, and the result of a table"):
        evaluate_table(path, baseline=None, seed=0, out=out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def _table(tmp_path, text: str = OWN) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


def test_a_table_of_ones_own(tmp_path):
    table = read_table(_table(tmp_path))
    assert table.policies == ("base", "new", "other")
    assert [(r.first, r.second, r.result) for r in table.rows if r.prompt_id == "3"] == [
        ("new", "base", "loss"),
        ("other", "new", "loss"),
    ]
    assert len(table.rows) == 7  # an empty cell was not judged
    assert table.rows[0].first_words == 6
    result = evaluate_table(_table(tmp_path), baseline="new", seed=0, out=None)
    assert result.baseline == "new"
    assert [(p.first, p.second, p.counts.wins, p.counts.losses) for p in result.pairs] == [
        ("base", "new", 1, 2),
        ("other", "new", 1, 1),
    ]
    assert any("no outcome whatever could have shown a difference" in s for s in result.sentences)


def test_training_seeds_are_clusters(tmp_path):
    lines = [f"{seed},{p},{'a' if p % 3 else 'b'}" for seed in range(5) for p in range(12)]
    result = evaluate_table(
        _table(tmp_path, "seed,prompt_id,b_vs_a\n" + "\n".join(lines)), baseline=None, seed=0, out=None
    )
    pair = result.pairs[0]
    assert pair.seeds == (0, 1, 2, 3, 4)
    assert pair.prompts == 12
    assert pair.p is not None
    assert pair.p > 0.3  # 8 of 12 prompts, not 40 of 60
    assert len(pair.by_seed) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no judgement"),
        ("prompt_id,a-vs-b\n1,a\n", "no column A_vs_B"),
        ("prompt_id,a_vs_a\n1,a\n", "does not name two different policies"),
        ("prompt_id,a_vs_tie\n1,a\n", "does not name two different policies"),
        ("prompt_id,rlhf_vs_fpo\n1,rlhf\n2,fpp\n", "line 3: rlhf_vs_fpo is 'fpp' (did you mean 'fpo'?)"),
        ("prompt_id,a_vs_b\n1,a\n1,b\n", "line 3: prompt_id '1' stands twice"),
        ("prompt_id,a_vs_b,words_a\n1,a,many\n", "line 2: words_a is 'many'; expected a whole number"),
        ("seed,a_vs_b\nx,a\n", "line 2: seed is 'x'"),
        ("seed,a_vs_b\n-1,a\n", "line 2: seed is '-1'; expected a whole number, 0 or more"),
        ("a_vs_b,words_a\na,3\nb,-12\n", "line 3: words_a is '-12'; expected a whole number, 0 or more"),
        ("prompt_id,a_vs_b\n", "holds no judgement"),
        ("prompt_id,a_vs_b\n1,\n2,\n", "has no verdict in 2 lines"),
        ("a_vs_b,b_vs_a\na,b\n", "t.csv: a_vs_b and b_vs_a name one pair"),
        ("a_vs_b,a_vs_b\na,b\n", "line 1: the column 'a_vs_b' stands twice"),
        ("prompt_id,a_vs_b,category\n1,a,x\n2,b\n", "line 3: has 2 fields, the header has 3"),
        ("prompt_id,a_vs_b\n1,a\n2,b,x,y\n", "line 3: has 4 fields, the header has 2"),
        ('a_vs_b\n"a\n', "not CSV that can be read"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, text, words):
    with pytest.raises(DataError) as caught:
        read_table(_table(tmp_path, text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_tables(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"a_vs_b\n\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_table(tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"no policy 'nwe'.*did you mean 'new'"):
        read_table(_table(tmp_path), baseline="nwe")


def test_the_result_file_is_checked_when_read(tmp_path):
    result = evaluate_table(_table(tmp_path), baseline=None, seed=0, out=None)
    write_evaluation(tmp_path, result)
    path = tmp_path / "evaluation.json"
    assert read_evaluation(path) == result
    whole = path.read_text()
    path.write_text(whole.replace('"wins": 2', '"wins": "two"', 1))
    with pytest.raises(DataError, match=r"pairs\[0\].counts.wins is 'two'"):
        read_evaluation(path)
    path.write_text(whole.replace('"holm"', '"hulm"', 1))
    with pytest.raises(DataError, match=r"pairs\[0\] lacks holm"):
        read_evaluation(path)
    path.write_text(whole[:100])
    with pytest.raises(DataError, match="not JSON"):
        read_evaluation(path)


ARENA = [
    {"question_id": "q1", "model_a": "new", "model_b": "base", "winner": "model_a", "turn": 1},
    {"question_id": "q2", "model_a": "base", "model_b": "new", "winner": "model_b", "turn": 1},
    {"question_id": "q2", "model_a": "base", "model_b": "new", "winner": "tie (bothbad)", "turn": 2},
    {"question_id": "q3", "model_a": "base", "model_b": "new", "winner": "base", "turn": 1},
]
MARKED = [
    {"id": 1, "model_a": "base", "model_b": "new", "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
    {"id": 2, "model_a": "base", "model_b": "new", "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
    {"id": 3, "model_a": "new", "model_b": "base", "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
    {"id": 4, "model_a": "new", "model_b": "base", "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1},
]
ALPACA = [
    {"instruction": f"Q{n}", "generator_1": "base", "generator_2": "new", "output_1": "a", "preference": value}
    for n, value in enumerate((2.0, 1.9, 1.2, 1.5, None))
]


def _json(tmp_path, rows, name="t.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name == "t.json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
@pytest.mark.parametrize("rows", [ARENA, MARKED, ALPACA])
def test_a_line_a_judgement(tmp_path, rows, name):
    table = read_table(_json(tmp_path, rows, name), baseline="base")
    assert table.policies == ("base", "new")
    assert [row.result for row in table.rows] in (["win", "win", "tie", "loss"], ["win", "win", "loss", "tie"])
    assert all((row.first, row.second) == ("new", "base") for row in table.rows)
    if rows is ARENA:
        assert [row.prompt_id for row in table.rows] == ["q1", "q2", "q2, turn 2", "q3"]


def test_both_orders_of_mt_bench_are_kept(tmp_path):
    games = [("model_1", "model_1"), ("model_1", "model_2"), ("tie", "tie"), ("model_2", "error")]
    rows = [
        {"question_id": n, "model_1": "new", "model_2": "base", "g1_winner": one, "g2_winner": two}
        for n, (one, two) in enumerate(games)
    ]
    table = read_table(_json(tmp_path, rows), baseline="base")
    assert [row.result for row in table.rows] == ["win", "position_bias", "tie", "failure"]
    assert (table.rows[1].forward, table.rows[1].backward) == ("new", "base")
    assert evaluate_table(_json(tmp_path, rows), baseline="base", seed=0, out=None).pairs[0].counts.failed == 1


def test_names_that_hold_vs_and_winners_in_another_case(tmp_path):
    table = read_table(_table(tmp_path, "prompt_id;a_vs_b_vs_Mine\n0;mine\n1;a_vs_b\n2;Tie\n3;tie (bothbad)\n"))
    assert table.policies == ("a_vs_b", "Mine")
    assert [row.result for row in table.rows] == ["win", "loss", "tie", "tie"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"model_a": "a", "model_b": "b", "winner": "c"}, "row 1: winner is 'c'"),
        ({"model_a": "a", "model_b": "a", "winner": "a"}, "expected two different policies"),
        ({"generator_1": "a", "generator_2": "b", "preference": 3}, "preference is '3'; expected 0, or from 1 to 2"),
        ({"instruction": "a", "output_1": "b"}, "no column A_vs_B; it has 'instruction', 'output_1'"),
    ],
)
def test_bad_lines_of_judgements(tmp_path, row, words):
    with pytest.raises(DataError) as caught:
        read_table(_json(tmp_path, [row]))
    assert words in str(caught.value)
