"""Every bad input: exit code 2, one line on stderr that names it, no traceback, nothing written or overwritten."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from foresighted.cli.main import main


def _refused(result, *words):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("foresighted: ")
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steering", "foo"], ["steering: got 'foo'", "rlhf, practical, relaxed, exact, unrolled, proximal"]),
        (["--gamma", "-1"], ["gamma: got -1.0, must be at least 0"]),
        (["--gamma", "nan"], ["gamma: got nan"]),
        (["--gamma", "much"], ["gamma: got 'much', expected a number"]),
        (["--candidates", "1"], ["candidates: got 1, must be at least 2"]),
        (["--gama", "1"], ["unrecognized arguments: --gama 1", "did you mean '--gamma'"]),
        (["--config", "/no/such.yaml"], ["/no/such.yaml cannot be read"]),
        (["--prompts", "/no/such.txt"], ["/no/such.txt cannot be read"]),
        (["--policy", "/no/model"], ["policy: no folder /no/model"]),
        (["--policy", ""], ["policy: got ''", "name of a model is empty"]),
        (["--reward-model", ""], ["reward_model: got ''", "name of a model is empty"]),
        (["--reward-model", "encoder:"], ["encoder: got ''", "name of a model is empty"]),
        (["--labels", "reward:"], ["labels: got ''", "name of a model is empty"]),
        (
            ["--reward-model", "embedded:relevance", "--reward-model-input", "response"],
            ["reward_model_input", "use pair"],
        ),
        (["--labels", "likelyhood"], ["labels: got 'likelyhood'"]),
        (["--quantization", "4bit"], ["quantization: 4bit needs"]),
        (["--optimizer", "paged_adamw_8bit"], ["needs bitsandbytes"]),
        (["--lora-targets", "nothing"], ["lora_targets: got nothing"]),
        (["--device", "warp"], ["device:", "'warp'", "use auto, cpu, cuda"]),
        (["--device", "meta"], ["device:", "'meta'", "use auto, cpu, cuda"]),
        (["--device", "cuda:99"], ["device:", "'cuda:99'"]),
        (["--gamma", "1e300"], ["gamma: got 1e+300, must lie within"]),
        (["--threads", "1" + 20 * "0"], ["threads: got 1", "at most 1024"]),
        (["--seed", str(2**70)], ["seed: got 1180", "must lie within"]),
        (["--report-to", "wandb"], ["report_to: wandb is not installed"]),
    ],
)
def test_train(foresighted, config_file, tmp_path, arguments, words):
    config = [] if "--config" in arguments else ["--config", config_file]
    _refused(foresighted("train", "--out", tmp_path / "run", *config, *arguments), *words)
    assert not (tmp_path / "run").exists()


def test_compare_refuses_unknown_arms_and_seeds(foresighted, config_file, tmp_path):
    base = ["compare", "--out", tmp_path / "c", "--config", config_file]
    _refused(foresighted(*base, "--arms", "rlhf,practicl"), "unknown arm 'practicl'", "did you mean 'practical'")
    _refused(foresighted(*base, "--arms", "rlhf:seed=1"), "sets 'seed=1'")
    _refused(foresighted(*base, "--seeds", "a:b"), "seeds: got 'a:b'")
    assert not (tmp_path / "c").exists()


def test_prompt_files(foresighted, config_file, tmp_path):
    path = tmp_path / "p.jsonl"
    base = ["train", "--out", tmp_path / "run", "--config", config_file, "--prompts", path]
    for text, words in [("", "has no prompt"), ('{"prompt": "a"}\n{"prom', "line 2: not a JSON object")]:
        path.write_text(text)
        _refused(foresighted(*base), words)
    assert not (tmp_path / "run").exists()


def test_model_folders(foresighted, config_file, tmp_path, tiny_llama, tiny_deberta):
    import torch
    from safetensors.torch import load_file, save_file

    base = ["train", "--config", config_file, "--out"]
    empty = tmp_path / "empty"
    shutil.copytree(tiny_llama, empty)
    (empty / "model.safetensors").unlink()
    _refused(
        foresighted(*base, tmp_path / "a", "--policy", empty), "policy:", "safetensors weights (no model.safetensors"
    )
    _refused(foresighted(*base, tmp_path / "b", "--reward-model", tiny_llama), "is a LlamaForCausalLM; give a sequence")
    _refused(foresighted(*base, tmp_path / "c", "--policy", tiny_deberta), "give a causal language model")
    two = tmp_path / "two"
    shutil.copytree(tiny_deberta, two)
    config = json.loads((two / "config.json").read_text())
    labels = {"id2label": {"0": "A", "1": "B"}, "label2id": {"A": 0, "B": 1}}
    (two / "config.json").write_text(json.dumps(config | labels))
    weights = load_file(two / "model.safetensors")
    heads = {name: torch.cat([t, t]) for name, t in weights.items() if name.startswith("classifier.")}
    save_file(weights | heads, two / "model.safetensors", metadata={"format": "pt"})
    _refused(foresighted(*base, tmp_path / "d", "--reward-model", two), "has 2 labels; a reward model has one")


def test_pickled_weights_are_not_read(foresighted, config_file, tmp_path, tiny_llama):
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_llama, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    out = tmp_path / "run"
    _refused(foresighted("train", "--config", config_file, "--out", out, "--policy", folder), "(no model.safetensors")


def test_directories(foresighted, config_file, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    _refused(foresighted("train", "--config", config_file, "--out", taken), "not empty and holds no run")
    assert [p.name for p in taken.iterdir()] == ["notes.txt"]
    file = tmp_path / "file"
    file.write_text("mine")
    _refused(foresighted("train", "--config", config_file, "--out", file), "out:")
    assert file.read_text() == "mine"
    _refused(foresighted("report", tmp_path / "nothing"), "cannot be read")


def test_missing_libraries_name_the_extra(foresighted, config_file, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "foresighted.alignment.run", None)
    code, _, err = foresighted("train", "--config", config_file, "--out", tmp_path / "run")
    assert code == 2
    assert "pip install 'foresighted[all]'" in err


@pytest.mark.parametrize("what", ["fifo", "/dev/zero"])
@pytest.mark.parametrize(
    "command",
    [
        "train --dry-run --out OUT --prompts FILE", "train --dry-run --out OUT --config FILE",
        "evaluate --judgements FILE", "evaluate --out OUT --policies a=FILE,b=b.jsonl", "audit FILE",
        "evaluate --out OUT --policies a=b.jsonl,b=b.jsonl --judge openai:m --base-url http://[::1]:9 --rubric FILE",
        "evaluate --out OUT --policies a=b.jsonl,b=b.jsonl --judge openai:m --base-url http://[::1]:9 --cache FILE",
    ],
)  # fmt: skip
def test_what_has_no_end_is_refused_by_name(command, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "b.jsonl").write_text('{"prompt": "Question?", "text": "answer"}\n')
    assert main(command.replace("FILE", what).replace("OUT", str(tmp_path / "out")).split()) == 2
    said = capsys.readouterr().err
    assert what in said
    assert ("FIFO" if what == "fifo" else "device") in said
    assert said.count("\n") == 1
