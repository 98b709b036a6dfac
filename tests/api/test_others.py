"""The other calls of the front door, with names and with objects, and what they give back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest

import foresighted as fpo
from foresighted.api.arguments import plain
from foresighted.errors import ConfigError, DataError
from foresighted.settings import to_mapping
from foresighted.store.rows import read_mappings

pytestmark = pytest.mark.slow


def longer(prompt: str, first: str, second: str) -> float:
    """Prefer the longer response."""
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))


@pytest.fixture(scope="module")
def compared(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "c"
    settings = to_mapping(replace(tiny, rounds=2)) | {"labels": longer}
    heard = []
    arms = ["rlhf", "practical:gamma=0.3"]
    found = fpo.compare(arms=arms, seeds=range(1), out=out, progress=lambda *told: heard.append(told), **settings)
    return found, heard, settings


def test_a_comparison_with_objects_is_played_here(compared):
    found, heard, _ = compared
    assert list(found.arms["label"]) == ["rlhf", "practical:gamma=0.3"]
    assert set(found.tables["rounds"]["arm"]) == set(found.arms["label"])
    assert heard[-1] == ("practical:gamma=0.3, seed 0", 2, 2)
    assert json.loads((found.directory / "summary.json").read_text())["sentences"] == list(found.sentences)
    assert fpo.report(found) == found.directory / "report.html"


def test_an_arm_of_a_comparison_is_the_run_alone(compared, tmp_path):
    found, _, settings = compared
    alone = fpo.train(**{**settings, "steering": "rlhf", "threads": 1}, out=tmp_path / "run")
    arm = found.directory / "arms" / "rlhf" / "seed-0"
    beside, own = (read_mappings(folder / "candidates.jsonl") for folder in (arm, alone.directory))
    for one, other in zip(beside, own, strict=True):  # their batches differ in shape, so last digits may
        numbers = {name: pytest.approx(value, abs=1e-3) for name, value in other.items() if isinstance(value, float)}
        assert one == other | numbers


@pytest.mark.processes
def test_a_comparison_with_names_runs_in_any_thread(tiny, tmp_path):
    settings = to_mapping(replace(tiny, rounds=1))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(fpo.compare, arms=["rlhf"], seeds=range(1), out=tmp_path / "c", **settings).result()
    assert list(found.tables["rounds"]["round"]) == [1]


def test_compare_takes_names_of_models(tiny):
    with pytest.raises(ConfigError, match="policy: compare takes a name"):
        fpo.compare(policy=object())


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "s"
    swept = {"arms": ["rlhf", "practical:gamma=0.01"], "seeds": range(3), "iterations": 12, "dimension": 6}
    return fpo.simulate("linear", out=out, **swept)


def test_a_simulation_has_tables_and_figures(simulated, tmp_path):
    assert list(simulated.tables["cells"]["arm"]) == ["rlhf", "practical:gamma=0.01"]
    assert len(simulated.tables["runs"]) == 6
    assert len(simulated.sentences) == 2
    assert "data:image/png" in simulated._repr_html_()
    assert simulated.plot("phase").save(tmp_path / "x.svg").stat().st_size > 1000
    with pytest.raises(ConfigError, match="there are utility"):
        simulated.plot("utilty")
    again = fpo.Simulation.read(simulated.write(tmp_path / "copy"))
    assert again.tables["cells"].equals(simulated.tables["cells"])


def test_a_game_that_is_unknown_is_one_line():
    with pytest.raises(ConfigError, match=r"game: got 'netwrk'.*network"):
        fpo.simulate("netwrk")
    with pytest.raises(ConfigError, match="gama"):
        fpo.simulate("linear", gama=1)
    for name in ("jobs", "good_utility"):
        with pytest.raises(ConfigError, match=f"{name}: got 'a'"):
            fpo.simulate("linear", **{name: "a"})


def test_a_mapping_is_names_and_values(compared, tmp_path):
    assert plain({"gamma": [0.1, 1], "before": compared[0], "after": tmp_path}) == [
        "gamma=0.1,1",
        f"before={compared[0].directory}",
        f"after={tmp_path}",
    ]


@pytest.fixture
def log():
    rows = [
        {"round": t, "prompt": f"question {i}", "response": f"answer {i} of <b>{t}</b> words " + "so " * t,
         "reward": 0.1 * t + 0.01 * i, "utility": (3.0 - 0.6 * t if t > 2 else 3.0 + 0.1 * t) + 0.02 * (i % 5)}
        for t in range(8) for i in range(30)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_audit_of_a_frame_is_that_of_its_file(log, tmp_path):
    lines = [json.dumps(row) + "\n" for row in log.to_dict("records")]
    (tmp_path / "frame.jsonl").write_text("".join(lines))
    ours, files = fpo.audit(log), fpo.audit(tmp_path / "frame.jsonl", out=tmp_path / "out")
    assert ours.collapsed
    assert replace(ours.data, source=files.data.source) == replace(files.data, sentences=ours.data.sentences)
    assert ours.directory is None
    assert fpo.Audit.read(tmp_path / "out").tables["rounds"].equals(files.tables["rounds"])
    html = ours._repr_html_()
    assert "data:image/png" in html
    assert "<b>3</b>" not in html
    with pytest.raises(DataError, match="audit: got int"):
        fpo.audit(3)
    with pytest.raises(ConfigError, match="write"):
        fpo.report(ours)


def test_evaluation_of_a_table(tmp_path, foresighted_main):
    path = tmp_path / "t.csv"
    path.write_text("prompt_id,a_vs_b\n" + "".join(f"{i},{'a' if i % 3 else 'b'}\n" for i in range(30)))
    found = fpo.evaluate(judgements=path, out=tmp_path / "e")
    assert list(found.tables["pairs"]["counts_wins"] + found.tables["pairs"]["counts_losses"]) == [30]
    assert fpo.Evaluation.read(tmp_path / "e").data == found.data
    assert found.plot().save(tmp_path / "x.png").stat().st_size > 1000
    assert foresighted_main("evaluate", "--judgements", path, "--out", tmp_path / "f") == 0
    assert (tmp_path / "f" / "evaluation.json").read_bytes() == (tmp_path / "e" / "evaluation.json").read_bytes()
    with pytest.raises(ConfigError, match="judge: has no meaning"):
        fpo.evaluate(judgements=path, judge="likelihood")


@pytest.fixture
def foresighted_main():
    from foresighted.cli.main import main

    return lambda *arguments: main([str(one) for one in arguments])
