"""Weights: what is missing, left over, of another shape, no safetensors or another model's is refused by its name."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from foresighted.errors import ModelError
from foresighted.models.loading import load_plain_policy, load_policy, load_reward_model, reward_model
from foresighted.models.policy import Decoding
from foresighted.models.weights import check_sizes, stored

CPU = torch.device("cpu")
PROMPTS, RESPONSES = ["Why is the sky blue?", "Rain?"], ["Light scatters.", "Water that falls."]
_SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "Llama": {}, "Qwen2": {}, "Mistral": {}, "Gemma": {"head_dim": 8}, "Falcon": {}, "GPTNeoX": {},
    "GPT2": {"n_embd": 32, "n_layer": 1, "n_head": 4}, "Bloom": {"n_layer": 1, "n_head": 4},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "Bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
}  # fmt: skip


def _plain(folder, setting="policy"):
    return load_plain_policy(str(folder), CPU, Decoding(4), setting=setting)


@pytest.fixture
def changed(tmp_path):
    """A copy of a folder, with its tensors as a function makes them."""

    def change(folder, function=lambda tensors: tensors, file="model.safetensors"):
        target = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, target)
        tensors = function(load_file(target / file))
        save_file({name: t.contiguous() for name, t in tensors.items()}, target / file, metadata={"format": "pt"})
        return target

    return change


def _configured(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | settings).items() if v is not None}))
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_model_saves_is_read_back_whole(family, tied, tmp_path, tokenizer, caplog):
    """Tied weights are stored once, and that is no missing tensor."""
    config = getattr(transformers, f"{family}Config")(**_SMALL | FAMILIES[family], tie_word_embeddings=tied)
    name = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert _plain(tmp_path).model.config.model_type == config.model_type
    assert not caplog.records


def test_buffers_of_older_versions_are_no_alarm_and_other_heads_are_said(
    tiny_llama, tiny_llama_reward, changed, caplog
):
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.embeddings.position_ids": torch.ones(3),
    }
    _plain(changed(tiny_llama, lambda tensors: tensors | old))
    assert not caplog.records
    headed = changed(tiny_llama_reward, lambda tensors: tensors | {"lm_head.weight": torch.zeros(3, 32)})
    same = [reward_model(str(f)).features(PROMPTS, RESPONSES) for f in (headed, tiny_llama_reward)]
    assert torch.equal(*same)
    assert "lm_head.weight, which is not read" in caplog.text


def test_tensors_that_are_not_the_models_are_named(tiny_llama, tiny_llama_reward, changed, told, caplog):
    layer = "model.layers.1.mlp.up_proj.weight"
    cases = (
        (lambda t: {k: v for k, v in t.items() if k != layer}, ("missing", layer)),
        (lambda t: t | {"model.layers.7.mlp.up_proj.weight": torch.zeros(2)}, ("left over", "model.layers.7")),
        (lambda t: t | {layer: torch.zeros(5, 32)}, ("another shape", layer, "5 x 32 there, 48 x 32 here")),
        (lambda _: {"a": torch.zeros(2)}, ("missing", "lm_head.weight", "more", "left over: a")),
        (lambda t: {k.replace("norm", "gorm"): v for k, v in t.items()}, ("missing", "norm", "left over", "gorm")),
    )
    for function, said in cases:
        with pytest.raises(ModelError) as error:
            _plain(changed(tiny_llama, function), "judge")
        told(error, "judge:", *said, "or give another")
    for function, said in (
        (lambda t: {k: v for k, v in t.items() if k != "score.weight"}, ("missing: score.weight",)),
        (lambda t: {k.replace("score", "rank"): v for k, v in t.items()}, ("missing: score.weight", "rank.weight")),
        (lambda t: t | {"score.weight": torch.zeros(3, 32)}, ("has 3 labels",)),
    ):
        with pytest.raises(ModelError) as error:
            reward_model(str(changed(tiny_llama_reward, function)))
        told(error, "reward_model:", *said)
    assert "LOAD REPORT" not in caplog.text  # it was read


def test_a_head_of_one_row_is_a_reward_whatever_the_configuration_says(tiny_llama_reward, changed, told):
    labels = {"id2label": None, "label2id": None, "num_labels": None}
    unsaid = _configured(changed(tiny_llama_reward), **labels)
    assert transformers.AutoConfig.from_pretrained(unsaid).num_labels == 2
    same = [reward_model(str(f)).features(PROMPTS, RESPONSES) for f in (unsaid, tiny_llama_reward)]
    assert torch.equal(*same)
    two = changed(tiny_llama_reward, lambda t: t | {"score.weight": t["score.weight"].repeat(2, 1)})
    with pytest.raises(ModelError) as error:
        reward_model(str(two))
    told(error, "has 2 labels; a reward model has one")


@pytest.fixture
def pickled(tmp_path):
    path = tmp_path / "pickle"
    torch.save({"a": torch.zeros(2)}, path)
    return path


@pytest.mark.parametrize("name", ["evil.bin", "../evil.safetensors", "/evil.safetensors", "a/evil.safetensors", None])
def test_an_index_that_names_anything_but_safetensors_of_its_folder_is_refused(tiny_llama, changed, told, name):
    folder = changed(tiny_llama)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(ModelError) as error:
        _plain(folder)
    told(error, "policy:", index.name, repr(str(name)), "safetensors files of that folder")


def test_shards_are_read_and_a_lost_one_is_named(tiny_llama, tmp_path, told):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    transformers.AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert _plain(tmp_path).sample(PROMPTS, 1, [1, 2]).texts == _plain(tiny_llama).sample(PROMPTS, 1, [1, 2]).texts
    shards[-1].unlink()
    with pytest.raises(ModelError) as error:
        _plain(tmp_path)
    told(error, "policy:", "has no", shards[-1].name)


def test_no_pickle_is_opened_under_any_name(tiny_llama, changed, pickled, told, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: pytest.fail("a pickle was opened"))
    named = changed(tiny_llama)
    shutil.copy(pickled, named / "model.safetensors")
    alone = changed(tiny_llama)
    (alone / "model.safetensors").unlink()
    shutil.copy(pickled, alone / "pytorch_model.bin")
    led = _configured(changed(tiny_llama), transformers_weights="adapter_model.bin")
    shutil.copy(pickled, led / "adapter_model.bin")
    for folder, said in ((named, "no safetensors file"), (alone, "never opened"), (led, "names 'adapter_model.bin'")):
        with pytest.raises(ModelError) as error:
            _plain(folder)
        told(error, "policy:", said)


def test_truncated_weights_and_sizes_out_of_all_proportion(tiny_llama, changed, told):
    folder = changed(tiny_llama)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as error:
            _plain(folder)
        told(error, "policy:", "model.safetensors", "damaged")
    whole_shapes = stored("policy", str(tiny_llama))
    for name, size in (("num_hidden_layers", 10**9), ("vocab_size", 10**12), ("hidden_size", 10**9)):
        with pytest.raises(ModelError) as error:
            check_sizes("policy", str(_configured(changed(tiny_llama), **{name: size})), whole_shapes)
        told(error, name, str(size), "weights beside it")
    for settings in ({"hidden_size": -5}, {"num_attention_heads": 0}, {"hidden_act": "none such"}):
        with pytest.raises(ModelError, match=r"policy: .*has no usable config"):
            _plain(_configured(changed(tiny_llama), **settings))


@pytest.fixture
def policy_adapter(tiny, tiny_llama, tmp_path):
    """The folder of a LoRA adapter on the tiny Llama that does something."""
    policy = load_policy(tiny, CPU)
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "adapter"
    policy.model.save_pretrained(folder, save_embedding_layers=False)
    policy.tokenizer.save_pretrained(folder)
    return folder


def _adapter(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.slow
def test_an_adapter_whose_tensors_are_not_the_models_is_refused(policy_adapter, tiny, changed, told):
    file = "adapter_model.safetensors"
    cases = (
        (
            lambda t: {k.replace("q_proj", "w_proj"): v for k, v in t.items()},
            ("missing", "q_proj", "left over", "w_proj"),
        ),
        (lambda t: dict(list(t.items())[1:]), ("missing",)),
        (
            lambda t: t | {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(2)},
            ("left over",),
        ),
        (lambda t: {k: torch.zeros(3, 5) for k in t}, ("does not fit its base model",)),
        (lambda _: {}, ("the adapter is empty",)),
    )
    for function, said in cases:
        folder = str(changed(policy_adapter, function, file))
        with pytest.raises(ModelError) as error:
            _plain(folder, "policies")
        told(error, "policies:", *said)
        with pytest.raises(ModelError, match=r"^policy: "):
            load_policy(replace(tiny, policy=folder), CPU)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": "(("}, ("target_modules '(('", "no regular expression")),
        ({"rank_pattern": {"((": 3}}, ("rank_pattern", "no regular expression")),
        ({"target_modules": ["nothing"]}, ("does not fit its base model", "nothing")),
        ({"target_modules": ["q_proj"]}, ("left over", "k_proj")),
        ({"target_modules": "all-linear"}, ("missing", "down_proj")),
        ({"modules_to_save": ["lm_head"]}, ("missing", "lm_head")),
        ({"peft_type": "PROMPT_TUNING"}, ("type PROMPT_TUNING", "merge it")),
        ({"base_model_name_or_path": None}, ("names no base model",)),
        ({"base_model_name_or_path": "./nowhere"}, ("no folder ./nowhere",)),
    ],
)
def test_what_an_adapters_configuration_may_not_say(policy_adapter, settings, said, told):
    with pytest.raises(ModelError) as error:
        _plain(_adapter(policy_adapter, **settings))
    told(error, "policy:", *said)


def test_a_pattern_that_matches_without_end_is_stopped(policy_adapter, told, monkeypatch):
    monkeypatch.setattr("foresighted.models.bounded.SECONDS", 0.2)
    for name, pattern in (("target_modules", "(([a-z0-9_.])+.?)+!"), ("exclude_modules", "(.*.*)*x!")):
        folder = _adapter(policy_adapter, **{"target_modules": ["q_proj"], name: pattern})
        with pytest.raises(ModelError) as error:
            _plain(folder)
        told(error, name, pattern, "takes more than 0.2 seconds")


@pytest.mark.slow
def test_a_policy_goes_on_from_an_adapter_and_its_own_adapter_finds_the_way_back(policy_adapter, tiny, tmp_path):
    """Its initial policy is the base with the adapter; what it saves is an adapter on that."""
    before = _plain(policy_adapter).sample(PROMPTS, 1, [1, 2]).texts
    policy = load_policy(replace(tiny, policy=str(policy_adapter), max_new_tokens=4), CPU)
    policy.decoding = Decoding(4)
    assert policy.sample(PROMPTS, 1, [1, 2], frozen=True).texts == policy.sample(PROMPTS, 1, [1, 2]).texts == before
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    policy.model.save_pretrained(tmp_path / "second", save_embedding_layers=False)
    again = _plain(tmp_path / "second")
    assert again.sample(PROMPTS, 1, [1, 2]).texts == policy.sample(PROMPTS, 1, [1, 2]).texts
    assert again.sample(PROMPTS, 1, [1, 2], frozen=True).texts == before


def test_what_holds_a_model_and_an_adapter_is_neither(policy_adapter, tiny_llama, told):
    shutil.copy(tiny_llama / "config.json", policy_adapter)
    with pytest.raises(ModelError) as error:
        _plain(policy_adapter)
    told(error, "policy:", "config.json", "adapter_config.json")


@pytest.fixture
def reward_adapter(tiny_llama, tokenizer, tmp_path):
    """What RewardTrainer leaves with a peft_config: an adapter, and the head, on a causal language model."""
    from peft import LoraConfig, get_peft_model

    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
    body = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1)
    logging.getLogger("transformers.modeling_utils").setLevel(logging.NOTSET)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(body, lora).eval()
    model.save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    return tmp_path / "reward", model


@pytest.mark.parametrize("train", ["head", "lora", "all"])
def test_an_adapter_folder_of_a_reward_trainer_is_a_reward_model(reward_adapter, tiny, train):
    folder, own = reward_adapter
    model = load_reward_model(replace(tiny, reward_model=str(folder), reward_model_train=train), CPU)
    inputs = model.encode(PROMPTS, RESPONSES)
    own.config.pad_token_id = model.tokenizer.pad_token_id
    with torch.no_grad():
        torch.testing.assert_close(model.network(**inputs), own(**inputs).logits[:, 0])
    torch.testing.assert_close(model.rewards(model.features(PROMPTS, RESPONSES)), own(**inputs).logits[:, 0].detach())


def test_an_adapter_that_lacks_the_head_is_none(reward_adapter, changed, told):
    def headless(tensors):
        return {name: tensor for name, tensor in tensors.items() if "score" not in name}

    with pytest.raises(ModelError) as error:
        reward_model(str(changed(reward_adapter[0], headless, "adapter_model.safetensors")))
    told(error, "reward_model:", "missing: score.weight")


def test_a_tensor_beside_the_model_s_own_head_is_left_over(tiny_llama, tmp_path):
    """A head of another model is warned of; `lm_head` is the policy's own, so what stands there is wrong."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        tensors | {"lm_head.more\x1b[2J": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"left over: lm_head.more \[2J") as caught:
        _plain(folder)
    assert str(caught.value).isprintable()


def test_a_head_without_rows_is_of_another_shape(tiny_llama_reward, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_reward, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"score.weight": torch.tensor(0.5)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"of another shape: score\.weight"):
        reward_model(str(folder), device=CPU)
