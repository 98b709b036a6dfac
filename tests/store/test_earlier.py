"""What 0.2 wrote is gone on with and read: `tests/data/0.2` says how it was made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from foresighted.auditing.result import read_audit
from foresighted.errors import DataError
from foresighted.judging.result import read_evaluation
from foresighted.store import records
from foresighted.store.environment import processor
from foresighted.store.rows import plain, read

EARLIER = Path(__file__).parents[1] / "data" / "0.2"


REDEFINED = ("overconfidence", "reward_model_accuracy")
"""Columns of a round that have another definition since 0.3."""


def _known(row):
    return {name: value for name, value in plain(row).items() if name not in REDEFINED}


def _close(row):
    return {n: pytest.approx(v, rel=1e-4, abs=1e-5) if isinstance(v, float) else v for n, v in row.items()}


def test_a_run_of_0_2_goes_on_to_the_same_bits(tiny, tmp_path):
    from foresighted.alignment.run import train

    out = tmp_path / "run"
    shutil.copytree(EARLIER / "half", out)
    config = out / "config.yaml"
    text = config.read_text()
    for word, path in (("PROMPTS", tiny.prompts), ("POLICY", tiny.policy), ("REWARD_MODEL", tiny.reward_model)):
        text = text.replace(f": {word}\n", f": {path}\n")
    config.write_text(text)
    train(replace(tiny, rounds=4, checkpoint_every=2, heldout_every=2), out, resume=True)
    here = json.loads((EARLIER / "half" / "environment.json").read_text())
    now = json.loads((out / "environment.json").read_text())
    exact = all(here[name] == now[name] for name in ("torch", "transformers", "processor")) and processor()
    kinds = {records.CANDIDATES: records.CandidateRow, records.HELDOUT: records.HeldoutRow}
    for name, kind in (kinds | {records.ROUNDS: records.RoundRow}).items():
        mine, theirs = (list(map(_known, read(place / name, kind))) for place in (out, EARLIER / "whole"))
        assert len(mine) == len(theirs)
        for row, earlier in zip(mine, theirs, strict=True):
            assert row == (earlier if exact else _close(earlier))
    if exact:
        for name in kinds:
            assert (out / name).read_bytes() == (EARLIER / "whole" / name).read_bytes()


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


@pytest.mark.parametrize(
    ("name", "reader", "words"),
    [("audit", read_audit, "write it again with foresighted audit"), ("evaluation", read_evaluation, "--resume")],
)
def test_results_of_0_2_say_how_to_write_them_again(name, reader, words):
    with pytest.raises(DataError, match=words):
        reader(EARLIER / name)
