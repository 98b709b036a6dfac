"""A rehearsal played in this process on tiny models: with a utility and without one, stopped, and gone on with."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

import foresighted as fpo
from foresighted.errors import ConfigError, DataError, RunError
from foresighted.models.embedded import ENCODER_HUB_ID, encoder_source
from foresighted.reporting.write import read_page
from foresighted.settings import to_mapping
from foresighted.store.directory import kind_of

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "rehearse_mine.py"
ARMS = ["rlhf:kl_coefficient=0", "practical"]


def longer(prompts: list[str], first: list[str], second: list[str]) -> list[float]:
    """Prefer the longer response."""
    return [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


class Length:
    """A judge with a utility: the length of a response."""

    def utility(self, prompts, responses):
        return [len(text) / 10 for text in responses]

    def __call__(self, prompts, first, second):
        return longer(prompts, first, second)


@pytest.fixture(scope="module")
def settings(tiny):
    made = to_mapping(replace(tiny, rounds=2, heldout_every=1, initial_pairs=0, kl_coefficient=0.1, kl_unit="share"))
    return made | {"minutes": None, "seeds": [0], "gamma": 1.0, "gamma_unit": "share"}


@pytest.fixture(scope="module")
def known(settings, tmp_path_factory):
    heard = []
    out = tmp_path_factory.mktemp("known") / "r"
    found = fpo.rehearse(
        **{**settings, "labels": Length()}, arms=[*ARMS, "labels"], out=out, progress=lambda *told: heard.append(told)
    )
    return found, heard


def test_a_rehearsal_says_three_sentences_and_what_follows(known):
    found, heard = known
    assert heard[-1] == ("3 loops", 6, 6)
    assert len(found.sentences) == 3
    assert "Against the ceiling" in found.sentences[2]
    assert list(found.arms["label"]) == [*ARMS, "labels"]
    assert found.ended is None
    assert found.command.startswith("foresighted train")
    assert "FPOConfig(" in found.lines
    summary = json.loads((found.directory / "summary.json").read_text())
    assert summary["sentences"] == list(found.sentences)
    assert summary["roles"]["labels"] == "ceiling"


def test_its_page_is_that_of_its_directory(known):
    found, _ = known
    page = read_page(found.directory)
    assert (page.opening.sentence, *page.opening.more) == found.sentences
    assert [section.id for section in page.sections][:2] == ["summary", "follows"]
    assert found.command in page.sections[1].code
    assert [arm for arm, _ in page.opening.words.arms] == [*ARMS, "labels"]
    assert page.opening.words.moments[-1].round == 2
    assert fpo.report(found) == found.directory / "report.html"
    assert "foresighted train" in (found.directory / "report.html").read_text()
    assert found.plot("utility").save(found.directory / "x.svg").stat().st_size > 1000


def test_a_directory_is_read_and_copied_as_a_rehearsal(known, tmp_path):
    found, _ = known
    assert kind_of(found.directory) == "rehearsal"
    assert fpo.Rehearsal.read(found.write(tmp_path / "copy")).sentences == found.sentences
    assert fpo.audit(found.directory).tables["arms"] is not None


@pytest.fixture(scope="module")
def unknown(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("unknown") / "r"
    return fpo.rehearse(**{**settings, "labels": longer}, arms=ARMS, out=out, progress=False)


def test_without_a_utility_answers_are_judged_in_both_orders(unknown, settings):
    found = unknown
    wins = found.tables["win_rates"]
    assert list(wins["round"]) == [1, 2, 2]
    assert wins["first"].between(0, 1).all()
    assert wins["baseline"].notna().tolist() == [False, False, True]
    assert "no utility" in found.sentences[2]
    rows = [json.loads(line) for line in (found.directory / "judgements.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 4
    decided = [row for row in rows if row["result"] in ("win", "loss")]
    assert all(row["forward"] == row["backward"] for row in decided)
    page = read_page(found.directory)
    assert [chart.name for chart in page.opening.charts] == ["wins", "reward"]
    assert page.sections[0].tables[0].head[2] == "won against the first policy"


def test_going_on_asks_no_verdict_twice(unknown, settings):
    path = unknown.directory / "judgements.jsonl"
    before = path.read_bytes()
    with pytest.raises(RunError, match="go on with --resume"):
        fpo.rehearse(**{**settings, "labels": longer}, arms=ARMS, out=unknown.directory)
    again = fpo.rehearse(out=unknown.directory, labels=longer, resume=True, progress=False)
    assert path.read_bytes() == before
    assert again.sentences == unknown.sentences
    with pytest.raises(RunError, match="labels"):
        fpo.rehearse(out=unknown.directory, resume=True)


def test_an_interrupt_leaves_what_was_played(settings, tmp_path, monkeypatch):
    from foresighted.alignment import compare
    from foresighted.errors import Stopped

    whole = compare.compare

    def stopped(config, out, **more):
        whole(replace(config, train=replace(config.train, rounds=1)), out, **more)
        raise Stopped(1)

    monkeypatch.setattr(compare, "compare", stopped)
    found = fpo.rehearse(**{**settings, "labels": Length()}, arms=ARMS, out=tmp_path / "r", progress=False)
    assert found.ended.round == 1
    assert len(found.sentences) == 3
    monkeypatch.undo()
    again = fpo.rehearse(out=tmp_path / "r", labels=Length(), resume=True, progress=False)
    assert again.ended is None
    assert set(again.tables["rounds"]["round"]) == {1, 2}


def test_a_loop_that_fails_is_named_and_the_others_are_reported(settings, tmp_path, monkeypatch, caplog):
    from foresighted.alignment import compare

    whole = compare.compare

    def failing(config, out, **more):
        whole(replace(config, arms=config.arms[:1]), out, **more)
        raise RunError("arm practical, seed 0: reward nan")

    monkeypatch.setattr(compare, "compare", failing)
    found = fpo.rehearse(**{**settings, "labels": Length()}, arms=ARMS, out=tmp_path / "r", progress=False)
    assert isinstance(found.ended, RunError)
    assert "arm practical, seed 0: reward nan" in caplog.text
    assert list(found.arms["label"]) == ARMS[:1]


@pytest.mark.skipif(encoder_source() == ENCODER_HUB_ID, reason="needs the wheel of the embedded encoder")
def test_the_example_makes_a_reward_model_and_rehearses(settings, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("rehearse_mine", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    small = {name: value for name, value in settings.items() if name not in ("reward_model", "labels")}
    small = {name: value for name, value in small.items() if not name.startswith("initial_")} | {"rounds": 1}
    example.main(str(tmp_path / "rm"), str(tmp_path / "r"), **small, arms=ARMS, progress=False)
    said = capsys.readouterr().out
    assert "no utility" in said
    assert f"--reward-model {tmp_path / 'rm'}" in said
    assert (tmp_path / "r" / "report.html").exists()


def test_bad_input_is_one_line_and_writes_nothing(settings, tmp_path, told):
    out = {"out": tmp_path / "r"}
    with pytest.raises(DataError) as caught:
        fpo.rehearse(**{**settings, "prompts_per_round": 8}, **out)
    told(caught, "prompts:", "has 7 to train on", "a round asks 8", "lower prompts_per_round to 7")
    with pytest.raises(ConfigError) as caught:
        fpo.rehearse(policy=object())
    told(caught, "policy: rehearse takes a name")
    with pytest.raises(ConfigError) as caught:
        fpo.rehearse(**{**settings, "labels": str(tmp_path / "no.py:judge")}, **out)
    told(caught, "labels:", "no.py")
    with pytest.raises(ConfigError) as caught:
        fpo.rehearse(**{**settings, "minute": 3}, **out)
    told(caught, "minute: unknown setting (did you mean 'minutes'?)")
    assert not (tmp_path / "r").exists()
