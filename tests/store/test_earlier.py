"""What 0.2 wrote is gone on with and read: `tests/data/0.2` says how it was made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from foresighted.auditing.result import read_audit
from foresighted.errors import DataError, RunError
from foresighted.judging.result import read_evaluation
from foresighted.store import records
from foresighted.store.environment import processor
from foresighted.store.rows import plain, read

EARLIER = Path(__file__).parents[1] / "data" / "0.2"


REDEFINED = ("overconfidence", "reward_model_accuracy", "gamma_share")
"""Columns of a round that have another definition since 0.3."""
NEW = ("penalty_share", "win_predicted", "win_share", "kl")
"""Columns of `rounds.jsonl` that 0.2 did not write."""
LIKELIHOODS = ("policy_loss", "kl")
"""Columns whose last digits are others since 0.3, which makes likelihoods block by block."""


def _known(row):
    return {name: value for name, value in plain(row).items() if name not in (*REDEFINED, *NEW)}


def _of(row, names):
    return {name: row[name] for name in names if name in row}


def _close(row):
    return {n: pytest.approx(v, rel=1e-4, abs=1e-5) if isinstance(v, float) else v for n, v in row.items()}


@pytest.mark.slow
def test_a_run_of_0_2_goes_on_to_the_same_rows(tiny, deberta_of_0_2, tmp_path):
    from foresighted.alignment.run import train

    tiny, out = replace(tiny, reward_model=str(deberta_of_0_2), max_new_tokens=6), tmp_path / "run"
    shutil.copytree(EARLIER / "half", out)
    config = out / "config.yaml"
    text = config.read_text()
    for word, path in (("PROMPTS", tiny.prompts), ("POLICY", tiny.policy), ("REWARD_MODEL", tiny.reward_model)):
        text = text.replace(f": {word}\n", f": {path}\n")
    config.write_text(text)
    asked = replace(
        tiny, rounds=4, checkpoint_every=2, heldout_every=2, gamma=0.3, gamma_unit="raw", influence_chunk=64
    )
    train(asked, out, resume=True)
    here = json.loads((EARLIER / "half" / "environment.json").read_text())
    now = json.loads((out / "environment.json").read_text())
    exact = all(here[name] == now[name] for name in ("torch", "transformers", "processor")) and processor()
    kinds = {records.CANDIDATES: records.CandidateRow, records.HELDOUT: records.HeldoutRow}
    for name, kind in (kinds | {records.ROUNDS: records.RoundRow}).items():
        mine, theirs = (list(map(_known, read(place / name, kind))) for place in (out, EARLIER / "whole"))
        assert len(mine) == len(theirs)
        for row, earlier in zip(mine, theirs, strict=True):
            assert row == (earlier | _close(_of(earlier, LIKELIHOODS)) if exact else _close(earlier))
    if exact:
        whole = EARLIER / "whole"
        assert (out / records.CANDIDATES).read_bytes() == (whole / records.CANDIDATES).read_bytes()
        mine, theirs = (list(map(plain, read(place / records.HELDOUT, records.HeldoutRow))) for place in (out, whole))
        assert mine == [row | _close(_of(row, LIKELIHOODS)) for row in theirs]


def test_an_evaluation_of_0_2_goes_on_and_asks_nobody_again(tmp_path):
    from foresighted.judging.run import evaluate
    from foresighted.judging.settings import EvaluateConfig

    for name, texts in {"a": ["x", "yy"], "b": ["zz", "yy"]}.items():
        rows = [json.dumps({"prompt": f"Q{i}?", "text": text}) + "\n" for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    (tmp_path / "judge.py").write_text(
        "def longer(prompt, first, second):\n"
        "    return 0.5 + 0.4 * ((len(first) > len(second)) - (len(first) < len(second)))\n"
    )
    out = tmp_path / "evaluation"
    shutil.copytree(EARLIER / "evaluation", out)
    for path in out.iterdir():
        path.write_text(path.read_text().replace("PLACE", str(tmp_path)))
    before = json.loads((out / "evaluation.json").read_text())["pairs"][0]["counts"]
    judged = (out / "judgements.jsonl").read_bytes()
    policies, judge = (f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl"), f"{tmp_path}/judge.py:longer"
    config = EvaluateConfig(policies=policies, judge=judge, categories="kind")
    assert plain(evaluate(config, out, resume=True).pairs[0].counts) == before
    assert (out / "judgements.jsonl").read_bytes() == judged


def _comparison(out):
    shutil.copytree(EARLIER.parents[1] / "settings" / "files_of_0_2", out)
    (out / "compare.yaml").rename(out / "config.yaml")
    (out / "arms" / "rlhf" / "seed-0").mkdir(parents=True)
    (out / "arms" / "rlhf" / "seed-0" / "rounds.jsonl").write_text('{"round": 1}\n')
    return out


def test_a_comparison_of_0_2_goes_on_with_the_gamma_that_it_wrote(tmp_path):
    from foresighted.alignment.compare import compare
    from foresighted.api.arguments import configured
    from foresighted.settings import CompareConfig, to_yaml
    from foresighted.store.directory import Claim, check_claim

    out = _comparison(tmp_path / "comparison")
    config = configured(CompareConfig, {}, out=out, resume=True, config=None)
    assert config.train.gamma == 0.3
    assert config.arm("rlhf", 0).gamma == config.arm("practical", 0).gamma == 0.3
    assert check_claim(Claim("comparison", to_yaml(config)), out, resume=True)
    before = (out / "config.yaml").read_bytes()
    with pytest.raises(RunError, match=r"\(gamma was 0.3, now None\); give the same"):
        compare(replace(config, train=replace(config.train, gamma=None)), out, resume=True)
    assert (out / "config.yaml").read_bytes() == before


def test_a_sweep_of_0_2_over_a_setting_that_has_another_name_says_so(tmp_path):
    from foresighted.api.simulate import Simulation, requested, simulate

    out = tmp_path / "sweep"
    (out / "parts" / "00000").mkdir(parents=True)
    (out / "summary.json").write_text('{"cells": []}')
    text = (EARLIER.parents[1] / "settings" / "files_of_0_2" / "linear.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("- gamma=0.1,0.2", "- unroll_rate=0.1,0.2"))
    words = rf"over unroll_rate, which is now called unrolled_rate.*--config {out}/config.yaml and another --out"
    with pytest.raises(RunError, match=words):
        simulate("linear", out=out, resume=True)
    with pytest.raises(RunError, match=words):
        Simulation.read(out)
    again = requested("linear", {}, out=tmp_path / "new", config=out / "config.yaml")  # what the message says to do
    assert [sweep.name for sweep in again.sweeps] == ["unrolled_rate"]


@pytest.mark.parametrize(
    ("name", "reader", "words"),
    [
        ("audit", read_audit, "with foresighted audit"),
        ("evaluation", read_evaluation, "--resume or the same --judgements"),
    ],
)
def test_results_of_0_2_say_how_to_write_them_again(name, reader, words):
    with pytest.raises(DataError, match=f"of an earlier version of foresighted; write it again.*{words}"):
        reader(EARLIER / name)
