"""Models that are given instead of named, what is refused, and how weights without a name are known again."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from foresighted.errors import ModelError
from foresighted.models import weights
from foresighted.models.fingerprint import fingerprint, quick_fingerprint
from foresighted.models.loading import load_gold_reward, load_plain_policy, load_policy, load_reward_model
from foresighted.models.policy import Decoding

CPU = torch.device("cpu")
PROMPTS = ["Why is the sky blue?", "Rain?"]


@pytest.mark.parametrize("train", ["lora", "all"])
def test_a_policy_that_is_given_is_the_one_of_its_folder(tiny, tiny_llama, train, caplog):
    from transformers import AutoModelForCausalLM

    config = replace(tiny, policy_train=train)
    given = load_policy(config, CPU, model=AutoModelForCausalLM.from_pretrained(tiny_llama))
    named = load_policy(config, CPU)
    assert given.sample(PROMPTS, 2, [1, 2, 3, 4]).texts == named.sample(PROMPTS, 2, [1, 2, 3, 4]).texts
    assert fingerprint(given.model) == fingerprint(named.model)  # the adapter is the seed's
    assert ("lora_rank, lora_alpha have no effect" in caplog.text) == (train == "all")
    assert given.trainable().keys() == named.trainable().keys()


def test_an_adapter_of_ones_own_is_taken_while_it_is_fresh(tiny, tiny_llama, tokenizer):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def adapted(**settings):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama)
        return get_peft_model(model, LoraConfig(r=3, task_type="CAUSAL_LM", **settings))

    policy = load_policy(tiny, CPU, model=adapted(), tokenizer=tokenizer)
    assert {p.shape[0] for name, p in policy.trainable().items() if "lora_A" in name} == {3}
    with pytest.raises(ModelError, match=r"policy: its adapter was trained before.*merge"):
        load_policy(tiny, CPU, model=adapted(init_lora_weights=False), tokenizer=tokenizer)


def test_an_adapter_is_put_on_its_base(tiny, tiny_llama, tmp_path):
    policy = load_policy(tiny, CPU)
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    policy.model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = load_plain_policy(str(tmp_path), CPU, policy.decoding)
    for frozen in (False, True):
        texts = policy.sample(PROMPTS, 1, [1, 2], frozen=frozen).texts
        assert texts == again.sample(PROMPTS, 1, [1, 2], frozen=frozen).texts
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"judge: .* has no adapter_model.safetensors; nothing else is read"):
        load_plain_policy(str(tmp_path), CPU, policy.decoding, setting="judge")


def test_a_reward_model_that_is_given_to_the_loop(tiny, tiny_deberta):
    from transformers import AutoModelForSequenceClassification

    config = replace(tiny, reward_model_train="lora")
    given = load_reward_model(config, CPU, model=AutoModelForSequenceClassification.from_pretrained(tiny_deberta))
    named = load_reward_model(config, CPU)
    assert torch.equal(given.features(PROMPTS, PROMPTS), named.features(PROMPTS, PROMPTS))
    assert fingerprint(given.network) == fingerprint(named.network)


def test_what_is_refused(tiny, tiny_llama, tiny_deberta):
    decoding = Decoding(4)
    for source, said in (
        (str(tiny_deberta), "policies: .* is a DebertaV2ForSequenceClassification; give a causal language model"),
        ("./nowhere", "policies: no folder ./nowhere; give a model folder or a hub id"),
    ):
        with pytest.raises(ModelError, match=said):
            load_plain_policy(source, CPU, decoding, setting="policies")
    for name, said in (
        (str(tiny_llama), "is a LlamaForCausalLM; give a sequence classifier"),
        ("encoder:./nowhere", "encoder: no folder ./nowhere"),
    ):
        with pytest.raises(ModelError, match=said):
            load_reward_model(replace(tiny, reward_model=name), CPU)
    with pytest.raises(ModelError, match="labels: reward:embedded has no trained head"):
        load_gold_reward("embedded", CPU)
    with pytest.raises(ModelError, match="lora_targets: got nothing_like_it, no such module"):
        load_policy(replace(tiny, lora_targets=("nothing_like_it",)), CPU)


@pytest.mark.parametrize("name", ["x" * 300, f"{'x' * 300}/y", "embedded:relevanc", "no one/x"])
def test_a_name_that_is_none_is_refused_by_setting_and_asks_nobody(tiny, name, monkeypatch):
    monkeypatch.setattr(weights, "_answers", lambda minute: True)
    monkeypatch.setattr(weights, "cached_file", lambda *_, **__: None)
    near = "did you mean 'embedded:relevance'" if name.startswith("embedded") else ""
    with pytest.raises(ModelError, match=f"^reward_model: .*{near}"):
        load_reward_model(replace(tiny, reward_model=name), CPU)
    with pytest.raises(ModelError, match=r"^policy: "):
        load_policy(replace(tiny, policy=name), CPU)


def test_a_hub_that_does_not_answer_is_asked_once(tiny, monkeypatch):
    asked = []

    def silent(method, url, *, max_retries=5, **_):
        asked.extend([url] * (1 + max_retries))
        raise ConnectionError(url)

    monkeypatch.setattr("huggingface_hub.utils.http_backoff", silent)
    monkeypatch.setattr("huggingface_hub.file_download.http_backoff", silent, raising=False)
    weights._answers.cache_clear()
    try:
        for name in ("nobody-at-all/x", "encoder:nobody-at-all/x"):
            with pytest.raises(ModelError, match="the hub does not answer, and it is not on this machine"):
                load_reward_model(replace(tiny, reward_model=name), CPU)
    finally:
        weights._answers.cache_clear()
    assert len(asked) == 2


def test_a_fingerprint_knows_names_shapes_types_and_bits():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    same, other, turned, half = (copy.deepcopy(plain) for _ in range(4))
    with torch.no_grad():
        other[0].weight[0, 0] = torch.nextafter(other[0].weight[0, 0], torch.tensor(9.0))
        turned[0].weight.data = turned[0].weight.data.flip(0)  # the same sum of bits
    prints = [fingerprint(module) for module in (plain, other, turned, half.bfloat16(), nn.Sequential(plain))]
    assert len(set(prints)) == 5
    assert fingerprint(same) == prints[0]
    quick = [quick_fingerprint(dict(module.named_parameters())) for module in (plain, same, other)]
    assert quick[0] == quick[1] != quick[2]
