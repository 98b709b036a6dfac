from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMALL = ("--iterations", "12", "--dimension", "6", "--quiet")


def _refused(result, *words):
    code, _, err = result
    assert code == 2
    assert err.count("\n") == 1, err
    assert err.startswith("foresighted: ")
    for word in words:
        assert word in err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep over two settings with figures, by the program itself."""
    from foresighted.cli.main import main

    out = tmp_path_factory.mktemp("swept") / "out"
    sweeps = ["--sweep", "gamma=0.01:0.1:log2", "--sweep", "action_cost=0,0.1"]
    arms = ["--arms", "rlhf,relaxed", "--seeds", "0:3"]
    assert main(["simulate", "linear", "--out", str(out), *SMALL, *arms, *sweeps, "--plots"]) == 0
    return out


@pytest.mark.slow
def test_files_of_a_sweep(swept):
    summary = json.loads((swept / "summary.json").read_text())
    assert len(summary["cells"]) == 2 + 4
    cell = summary["cells"][-1]
    assert (cell["arm"], cell["gamma"], cell["action_cost"], cell["seeds"]) == ("relaxed", 0.1, 0.1, 3)
    for name in ("final_utility", "peak_utility", "drop", "area"):
        assert cell[name]["low"] <= cell[name]["mean"] <= cell[name]["high"]
    for name in ("collapsed", "dropped", "good"):
        assert 0 <= cell[name]["low"] <= cell[name]["share"] <= cell[name]["high"] <= 1
    assert pq.read_table(swept / "trajectories.parquet").num_rows == 6 * 3 * 13
    assert set(json.loads((swept / "environment.json").read_text())) >= {"foresighted", "jax", "python"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["utility", "noise", "phase", "pca", "heat_map_dropped", "heat_map_collapsed"])
def test_figures_are_drawn_in_three_formats(swept, name):
    marks = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for kind, mark in marks.items():
        content = (swept / "figures" / f"{name}.{kind}").read_bytes()
        assert content.startswith(mark)
        assert len(content) > 4000


@pytest.mark.slow
def test_config_runs_again_and_resume_plays_nothing(swept, foresighted, tmp_path, monkeypatch):
    code, out, _ = foresighted("simulate", "linear", "--config", swept / "config.yaml", "--out", tmp_path, "--dry-run")
    assert code == 0
    assert yaml.safe_load(out) == yaml.safe_load((swept / "config.yaml").read_text())

    def play(*_):
        raise AssertionError("played")

    monkeypatch.setattr("foresighted.games.run.play", play)
    code, out, _ = foresighted("simulate", "linear", "--config", swept / "config.yaml", "--out", swept, "--resume")
    assert code == 0
    assert "relaxed" in out
    _refused(foresighted("simulate", "linear", "--config", swept / "config.yaml", "--out", swept), "--resume")
    _refused(foresighted("simulate", "network", "--config", swept / "config.yaml", "--out", tmp_path), "'linear'")


@pytest.mark.slow
def test_divergence_is_reported_and_counted(foresighted, tmp_path):
    _refused(
        foresighted("simulate", "linear", "--out", tmp_path, *SMALL, "--arms", "rlhf", "--policy-step", "1e20"),
        "every run diverged",
    )
    cell = json.loads((tmp_path / "summary.json").read_text())["cells"][0]
    assert cell["diverged"]["count"] == cell["seeds"] == 16
    assert cell["final_utility"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["linear", "--seeds", "a:b"], ["seeds: got 'a:b', expected", "0:256"]),
        (["linear", "--sweep", "gama=1,2"], ["no setting 'gama'", "did you mean 'gamma'"]),
        (["linear", "--sweep", "gamma=1,2", "--sweep", "gamma=3"], ["names one twice"]),
        (["linear", "--dimension", "0"], ["dimension: got 0, must be at least 1"]),
        (["linear", "--dimension", "many"], ["dimension: got 'many', expected a whole number"]),
        (["linear", "--arms", "rlhf,proximl"], ["unknown arm 'proximl'", "did you mean 'proximal'"]),
        (["linear", "--arms", "relaxed:gama=1"], ["did you mean 'gamma'"]),
        (["linear", "--inner-steps", "3"], ["a flag of another command"]),
        (["linear", "--steering-label", "baseline"], ["is now called --steering-labels"]),
        (["linear", "--heat-map", "gamma,action_cost"], ["expected two of the swept settings"]),
        (["linear", "--record-every", "0"], ["record_every: got 0"]),
        (["linear", "--jobs", "0"], ["jobs: got 0"]),
        (["network", "--labels-per-round", "60"], ["buffer_size: got 50"]),
        (["custom", "--file", "nothing.py:GAME"], ["game: no file nothing.py"]),
        (
            ["custom", "--file", "docs/examples/bandit_game.py:BANDIT", "--set", "k=1"],
            ["k: unknown setting (did you mean 'kl'?)"],
        ),
        (["linear", "--config", "/no/such.yaml"], ["/no/such.yaml cannot be read"]),
    ],
)
def test_bad_input(foresighted, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(ROOT)
    _refused(foresighted("simulate", *arguments, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_an_out_of_another_kind(foresighted, tmp_path):
    (tmp_path / "config.yaml").write_text("rounds: 3\n")
    _refused(foresighted("simulate", "linear", "--out", tmp_path), "is not empty and holds no sweep")


def _documented() -> list[list[str]]:
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = re.sub(r"\\\n\s*(?:> )?", " ", page.read_text(encoding="utf-8"))
        found += [shlex.split(line)[2:] for line in re.findall(r"^\$ (foresighted simulate .+)$", text, re.MULTILINE)]
    return found


@pytest.mark.parametrize("words", _documented(), ids=" ".join)
def test_documented_commands_are_accepted(foresighted, monkeypatch, words, tmp_path):
    if "--help" in words:
        return
    monkeypatch.chdir(ROOT)
    if "--config" in words:
        pytest.skip("reads the file of an earlier command")
    code, _, err = foresighted("simulate", *words, "--dry-run", "--out", tmp_path / "out")
    assert (code, err) == (0, "")


def test_a_yes_or_no_setting_may_stand_alone(foresighted, tmp_path):
    arguments = ("--gradient", "finite-difference", "--seeds", "0", "--out", tmp_path / "x", "--dry-run")
    for given in (["--float64"], ["--float64", "true"]):
        code, out, _ = foresighted("simulate", "linear", *given, *arguments)
        assert code == 0
        assert "float64: true" in out
    code, _, err = foresighted("simulate", "linear", "--float64", "perhaps", *arguments)
    assert code == 2
    assert "float64: got 'perhaps', expected true or false" in err
