from __future__ import annotations

import shutil
from dataclasses import asdict, replace

import pandas as pd
import pytest
import yaml

import foresighted as fpo
from foresighted.errors import ConfigError, DataError, RunError
from foresighted.prompts.load import read_prompts
from foresighted.settings import to_mapping
from foresighted.store.records import RECORD_FILES

pytestmark = pytest.mark.slow
OBJECTS = ("policy", "reward_model", "prompts", "labels", "dtype")


def shorter(prompt: str, first: str, second: str) -> float:
    """Prefer the shorter response."""
    return 0.5 if len(first) == len(second) else float(len(first) < len(second))


@pytest.fixture(scope="module")
def loaded(tiny):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    return {
        "policy": AutoModelForCausalLM.from_pretrained(tiny.policy),
        "tokenizer": AutoTokenizer.from_pretrained(tiny.policy),
        "reward_model": AutoModelForSequenceClassification.from_pretrained(tiny.reward_model),
        "reward_tokenizer": AutoTokenizer.from_pretrained(tiny.reward_model),
    }


@pytest.fixture(scope="module")
def rows(tiny):
    return [{**prompt._asdict(), "prompt": prompt.text, "split": split} for prompt, split in read_prompts(tiny.prompts)]


@pytest.fixture(scope="module")
def settings(tiny):
    return to_mapping(replace(tiny, rounds=2))


@pytest.fixture(scope="module")
def by_objects(settings, loaded, rows, tmp_path_factory):
    own = {name: value for name, value in settings.items() if name not in OBJECTS}
    out = tmp_path_factory.mktemp("objects") / "run"
    before = {name: p.clone() for name, p in loaded["policy"].named_parameters()}
    run = fpo.train(**loaded, prompts=pd.DataFrame(rows), labels=shorter, out=out, **own)
    assert all((p == before[name]).all() for name, p in loaded["policy"].named_parameters())  # copied, not changed
    return run, own


@pytest.fixture(scope="module")
def by_names(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("names") / "run"
    file = f"{__file__}:shorter"
    return fpo.train(out=out, progress=False, **{**settings, "labels": file})


def test_models_as_objects_do_what_their_names_do(by_objects, by_names):
    """A copy in memory lies at other addresses than a mapped file, which may change the last bit of a sum."""
    for name in ("candidates", "heldout", "rounds"):
        pd.testing.assert_frame_equal(by_objects[0].tables[name], by_names.tables[name], rtol=1e-3, atol=1e-4)


def test_prompts_and_labels_as_objects_leave_the_bytes_that_names_leave(by_names, settings, rows, tmp_path):
    given = {**settings, "prompts": pd.DataFrame(rows), "labels": shorter}
    run = fpo.train(out=tmp_path / "run", **given)
    for name in RECORD_FILES:
        assert (run.directory / name).read_bytes() == (by_names.directory / name).read_bytes(), name


def test_the_command_line_leaves_the_same_bytes(by_names, settings, tmp_path):
    from foresighted.cli.main import main

    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({**settings, "labels": f"{__file__}:shorter"}))
    assert main(["train", "--config", str(file), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    for name in (*RECORD_FILES, "config.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (by_names.directory / name).read_bytes(), name


def test_tables_are_the_records(by_names):
    assert list(by_names.rounds["round"]) == [1, 2]
    assert len(by_names.candidates) == 2 * 2 * 3
    assert set(by_names.heldout["round"]) == {0, 2}
    assert by_names.sentences


def test_fingerprints_stand_in_the_configuration(by_objects):
    config = yaml.safe_load((by_objects[0].directory / "config.yaml").read_text())
    assert config["policy"].startswith("object:LlamaForCausalLM:")
    assert config["reward_model"].startswith("object:DebertaV2ForSequenceClassification:")
    assert "shorter:" in config["labels"]
    assert (by_objects[0].directory / "prompts.jsonl").exists()


def test_a_run_with_objects_goes_on_with_the_same_ones_only(by_objects, loaded, rows, capsys, tmp_path):
    from foresighted.cli.main import main

    out = by_objects[0].write(tmp_path / "copy")
    with pytest.raises(RunError, match=r"policy: .*LlamaForCausalLM.*train\(policy="):
        fpo.train(out=out, resume=True, rounds=3)
    with pytest.raises(RunError, match=r"labels: .*shorter.*got.*<lambda>"):
        fpo.train(**loaded, labels=lambda p, a, b: 0.5, out=out, resume=True, rounds=3)
    with pytest.raises(RunError, match=r"prompts: .*give the same one"):
        fpo.train(**loaded, labels=shorter, prompts=rows[:-1], out=out, resume=True, rounds=3)
    assert main(["train", "--out", str(out), "--resume"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "LlamaForCausalLM" in told
    whole = by_objects[0].directory
    assert list(fpo.train(**loaded, labels=shorter, out=whole, resume=True, rounds=3).rounds["round"]) == [1, 2, 3]


def test_a_mended_label_function_goes_on_with_a_warning(by_objects, loaded, caplog):
    def mended(prompt: str, first: str, second: str) -> float:
        return 1.0

    mended.__module__, mended.__qualname__ = shorter.__module__, shorter.__qualname__
    out = by_objects[0].directory.parent / "mended"
    shutil.copytree(by_objects[0].directory, out)
    run = fpo.train(**loaded, labels=mended, out=out, resume=True, rounds=4)
    assert "labels: the source of" in caplog.text
    assert set(run.candidates[run.candidates["round"] == 4]["label"].dropna()) == {1.0}


def test_bad_input_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch, loaded):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="gama"):
        fpo.train(gama=1)
    with pytest.raises(ConfigError, match="tokenizer"):
        fpo.train(policy="embedded", tokenizer=loaded["tokenizer"])
    with pytest.raises(ConfigError, match="preset: got 'dmeo'"):
        fpo.train(preset="dmeo")
    with pytest.raises(ConfigError, match="out: needed with resume"):
        fpo.train(resume=True)
    for prompts in (3, {"prompt": ["Why?"]}, {"Why?"}):
        with pytest.raises(DataError, match=f"prompts: got {type(prompts).__name__}"):
            fpo.train(prompts=prompts)
    with pytest.raises(DataError, match=r"prompts: .*no prompt"):
        fpo.train(prompts=[])
    for name in ("out", "config", "start"):
        with pytest.raises(ConfigError, match=f"{name}: got 3, expected a path"):
            fpo.train(prompts=[{"prompt": "a", "split": "heldout"}, {"prompt": "b", "split": "train"}], **{name: 3})
    with pytest.raises(ConfigError, match="policy: got int"):
        fpo.train(policy=3)
    with pytest.raises(ConfigError, match="reward_tokenizer: got str"):
        fpo.train(reward_model=loaded["reward_model"], reward_tokenizer="x")
    with pytest.raises(ConfigError, match=r"preset: got \['demo'\]"):
        fpo.train(preset=["demo"])
    with pytest.raises(RunError, match="device: torch has no 'cuda:99' here"):
        fpo.train(prompts=[{"prompt": "a", "split": "heldout"}, {"prompt": "b", "split": "train"}], device="cuda:99")
    with pytest.raises(DataError, match="leaves no heldout prompt"):
        fpo.train(prompts=["Why?"])
    assert not list((tmp_path / "runs").glob("*"))


def test_a_run_shows_itself_and_its_text_is_escaped(by_names, tmp_path):
    run = fpo.Run.read(by_names.write(tmp_path / "copy"))
    assert run.rounds.equals(by_names.rounds)
    html = run._repr_html_()
    assert "data:image/png;base64," in html
    assert '<div style="overflow-x: auto"><table' in html  # a wide table scrolls
    for kind in (".png", ".svg", ".html"):
        assert run.plot().save(tmp_path / f"x{kind}").stat().st_size > 1000
    with pytest.raises(ConfigError, match="there are reward"):
        run.plot("rewrd")
    run.__dict__["tables"] = {"rounds": pd.DataFrame({"<b>": ["<script>alert(1)</script>"]})}
    assert "<script" not in run._repr_html_()
    assert "<b>" not in run._repr_html_().partition("<table")[2]


def test_progress_is_told(settings, tmp_path):
    heard = []
    fpo.train(**{**settings, "rounds": 1}, out=tmp_path / "x", progress=lambda *told: heard.append(told))
    assert heard[-1] == (settings["steering"], 1, 1)


@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_prompts_of_other_kinds(kind, rows):
    from datasets import Dataset

    from foresighted.api.objects import rows_of

    assert rows_of(Dataset.from_list(rows) if kind == "dataset" else rows) == rows_of(pd.DataFrame(rows))
    assert rows_of(["Why?"]) == [{"prompt": "Why?"}] == rows_of(text for text in ["Why?"])
    assert rows_of([{"Question": "Why?", "id": 1, "more": [2]}]) == [{"id": "1", "prompt": "Why?"}]


def test_settings_of_a_config_object_are_keywords(tiny):
    assert fpo.TrainConfig(**asdict(tiny)) == tiny
