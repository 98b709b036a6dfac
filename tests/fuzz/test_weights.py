"""Folders of models that were damaged in every way: refused in one line, or exactly what their files hold."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from foresighted.models.loading import load_plain_policy, reward_model
from foresighted.models.policy import Decoding

CPU = torch.device("cpu")
KINDS = ("policy", "reward model", "encoder", "adapter")
_BUFFER = "model.layers.0.self_attn.rotary_emb.inv_freq"


@pytest.fixture(scope="module")
def folders(tiny_llama, tiny_llama_reward, tiny_deberta, tokenizer, tmp_path_factory):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapter = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), lora).save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    return dict(zip(KINDS, (tiny_llama, tiny_llama_reward, tiny_deberta, adapter), strict=True))


def _file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.suffix == ".safetensors")


def _loaded(kind: str, folder: Path):
    """Return the tensors of a model that was loaded, by the names of its files."""
    if kind in ("policy", "adapter"):
        model = load_plain_policy(str(folder), CPU, Decoding(2)).model
    else:
        model = reward_model(str(folder)).body
    if kind == "adapter":
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model, save_embedding_layers=False)
    return model.state_dict()


def _is_what_is_stored(folder: Path):
    """Return whether tensors are those of a folder's file, all of them, but for buffers that nobody needs. A name may
    leave out the body's, as transformers reads it."""
    stored = load_file(_file(folder))
    stored.pop(_BUFFER, None)

    def right(loaded) -> bool:
        found = {}
        for name, tensor in stored.items():
            names = (name, f"model.{name}", f"deberta.{name}")
            found[next((own for own in names if own in loaded), name)] = tensor
        return loaded.keys() == found.keys() and all(
            torch.equal(own.nan_to_num(), found[name].to(own.dtype).nan_to_num()) for name, own in loaded.items()
        )

    return right


class _Damage:
    """Ways to change named tensors."""

    def dropped(self, tensors, name, draw):
        del tensors[name]

    def renamed(self, tensors, name, draw):
        tensors[draw(st.sampled_from([f"{name}s", name.replace("weight", "wait"), name[6:] or "x"]))] = tensors.pop(
            name
        )

    def reshaped(self, tensors, name, draw):
        shape = draw(st.lists(st.integers(0, 40), max_size=3))
        tensors[name] = torch.zeros(shape)

    def turned(self, tensors, name, draw):
        tensors[name] = tensors[name].flatten().reshape(tuple(reversed(tensors[name].shape)))

    def of_another_type(self, tensors, name, draw):
        dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool]))
        tensors[name] = tensors[name].to(dtype)

    def joined(self, tensors, name, draw):
        tensors[draw(st.sampled_from([_BUFFER, "lm.weight", f"{name}.more", "", "é\n"]))] = torch.zeros(3)

    def emptied(self, tensors, name, draw):
        tensors.clear()

    def not_finite(self, tensors, name, draw):
        tensors[name] = torch.full_like(tensors[name].float(), draw(st.sampled_from([torch.nan, torch.inf])))


@given(data=st.data())
def test_tensors_of_other_names_shapes_and_types(data, folders, tally, tmp_path_factory):
    kind = data.draw(st.sampled_from(KINDS))
    target = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(folders[kind], target)
    tensors = load_file(_file(target))
    for _ in range(data.draw(st.integers(0, 2))):
        if tensors:
            ways = [name for name in vars(_Damage) if not name.startswith("_")]
            name = data.draw(st.sampled_from(sorted(tensors)))
            getattr(_Damage(), data.draw(st.sampled_from(ways)))(tensors, name, data.draw)
    save_file(tensors, _file(target), metadata={"format": "pt"})
    tally("weights: tensors").call(_loaded, kind, target, right=_is_what_is_stored(target))


@given(data=st.data())
def test_bytes_of_a_weight_file(data, folders, tally, tmp_path_factory):
    kind = data.draw(st.sampled_from(KINDS))
    target = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(folders[kind], target)
    path = _file(target)
    whole = bytearray(path.read_bytes())
    head = 8 + int.from_bytes(whole[:8], "little")
    way = data.draw(st.sampled_from(["cut", "flip in head", "flip in length", "flip in data", "zip", "longer", "text"]))
    if way == "cut":
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif way.startswith("flip"):
        low, high = {"head": (8, head), "length": (0, 8), "data": (head, len(whole))}[way.split()[-1]]
        whole[data.draw(st.integers(low, high - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif way == "longer":
        whole += data.draw(st.binary(min_size=1, max_size=50))
    elif way == "text":
        whole = bytearray(data.draw(st.binary(max_size=200)))
    path.write_bytes(whole)
    if way == "zip":
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("data.pkl", b"cos\nsystem\n(S'false'\ntR.")
    tally("weights: bytes").call(_loaded, kind, target, right=lambda loaded: _is_what_is_stored(target)(loaded))


_NUMBERS = st.integers(-(2**40), 2**40) | st.integers(-3, 70) | st.floats()
_VALUES = st.none() | st.booleans() | _NUMBERS | st.text(max_size=9)
_JSON = st.recursive(
    _VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner), max_leaves=4
)


@given(data=st.data())
def test_values_of_the_files_beside_them(data, folders, tally, tmp_path_factory):
    kind = data.draw(st.sampled_from(KINDS))
    target = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(folders[kind], target)
    path = data.draw(st.sampled_from(sorted(path for path in target.iterdir() if path.suffix == ".json")))
    content = json.loads(path.read_text(encoding="utf-8"))
    where, key = content, data.draw(st.sampled_from(sorted(content)))
    if isinstance(content[key], dict) and content[key] and data.draw(st.booleans()):
        where, key = content[key], data.draw(st.sampled_from(sorted(content[key])))
    where[key] = data.draw(_JSON)
    path.write_text(json.dumps(content), encoding="utf-8")
    tally("weights: configuration").call(_loaded, kind, target, right=_is_what_is_stored(target))
