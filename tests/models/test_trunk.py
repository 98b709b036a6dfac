"""Passes that start from the states of sampling against full passes of the same model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from foresighted.alignment.update import loss_of
from foresighted.errors import ModelError
from foresighted.models import noise
from foresighted.models.policy import Decoding, Policy
from foresighted.models.pretrained import Lora, with_adapter
from foresighted.models.trunk import find_trunk

PROMPTS = ["Why is the sky blue?", "Rain?", "Can fish sleep at night, or do they swim all the time?"]
LAYERS = 3


def _model(kind: str, words: int):
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    torch.manual_seed(0)
    common = {"vocab_size": words, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.3}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    if kind == "gpt2":
        quiet = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = GPT2Config(**common, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=128, **quiet)
    else:
        config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](
            **common, **sizes, num_key_value_heads=2, max_position_embeddings=128
        )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def pair(request, tokenizer):
    """A policy whose last layer alone learns, in float32 and float64, each beside one that knows no trunk."""
    targets = ("c_attn",) if request.param == "gpt2" else ("q_proj", "v_proj")
    base = _model(request.param, len(tokenizer))
    warnings.filterwarnings("ignore", "fan_in_fan_out")  # PEFT sets it right for GPT-2, and says so
    body = with_adapter(base, Lora(4, 8, 0.0, targets, last=1), 0, task="CAUSAL_LM")
    for name, parameter in body.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    made = {}
    for dtype in (torch.float32, torch.float64):
        ours = Policy(copy.deepcopy(body).to(dtype), tokenizer, None, Decoding(6, 2, 1.0, 0.9))
        plain = Policy(ours.model, tokenizer, None, ours.decoding)
        plain._trunk = None
        assert ours._trunk is not None
        assert ours._trunk.first == LAYERS - 1
        made[dtype] = ours, plain
    return made


def _sampled(policy: Policy):
    keys = [noise.key("test", p, i) for p in PROMPTS for i in range(3)]
    return [p for p in PROMPTS for _ in range(3)], policy.sample(PROMPTS, 3, keys)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("frozen", [False, True])
def test_log_likelihoods_are_those_of_a_full_pass(pair, dtype, near, frozen):
    ours, plain = pair[dtype]
    prompts, rollout = _sampled(ours)
    found = ours.log_likelihood(prompts, rollout, frozen=frozen)
    expected = plain.log_likelihood(prompts, rollout, frozen=frozen)
    torch.testing.assert_close(found, expected, rtol=near, atol=near)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_the_gradient_is_that_of_a_full_pass(pair, dtype, near):
    gradients = []
    for policy in pair[dtype]:
        prompts, rollout = _sampled(pair[dtype][0])
        loss_of(policy.token_log_p(prompts, rollout, share=False), rollout).backward()
        own = policy.trainable()
        gradients.append({name: p.grad.clone() for name, p in own.items()})
        policy.model.zero_grad()
    largest = max(float(g.abs().max()) for g in gradients[1].values())
    assert largest > 0
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=near, atol=near * largest)


def test_the_blocks_below_are_not_computed_again(pair):
    ours, plain = pair[torch.float64]
    prompts, rollout = _sampled(ours)
    ours.log_likelihood(prompts, rollout)  # a policy's first is held against a full pass, whichever test comes first
    blocks = next(m for m in ours.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == LAYERS)
    attention = next(module for name, module in blocks[0].named_children() if "attn" in name)
    calls = []
    hook = attention.register_forward_hook(lambda *_: calls.append(1))
    ours.log_likelihood(prompts, rollout)
    assert not calls
    written = ours.encode_responses(["nobody wrote this", *rollout.texts[1:]])
    found = ours.log_likelihood(prompts, written, frozen=True)
    assert calls  # of the one that was not sampled
    hook.remove()
    torch.testing.assert_close(found, plain.log_likelihood(prompts, written, frozen=True), rtol=1e-10, atol=1e-10)


def test_what_the_frozen_policy_said_is_not_asked_again(pair):
    ours, plain = pair[torch.float64]
    prompts, rollout = _sampled(ours)
    first = ours.log_likelihood(prompts, rollout, frozen=True)
    head = ours.model.get_output_embeddings()
    calls = []
    hook = head.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(ours.log_likelihood(prompts, rollout, frozen=True), first, rtol=1e-12, atol=1e-12)
    shorter = rollout._replace(tokens=rollout.tokens[:, :2], mask=rollout.mask[:, :2])
    found = ours.log_likelihood(prompts, shorter, frozen=True)  # an oracle reads them without their end token
    hook.remove()
    assert not calls
    expected = plain.log_likelihood(prompts, shorter, frozen=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_other_words_are_read_in_full(pair):
    ours, plain = pair[torch.float64]
    _sampled(ours)
    prompts, rollout = ["Who invented the telephone?"], ours.encode_responses(["somebody did"])
    torch.testing.assert_close(
        ours.log_likelihood(prompts, rollout), plain.log_likelihood(prompts, rollout), rtol=1e-10, atol=1e-10
    )


def test_a_model_that_learns_everywhere_has_no_trunk(tiny_llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert find_trunk(model) is None
    assert find_trunk(model.requires_grad_(False)) is None
    model.model.layers[1].requires_grad_(True)
    found = find_trunk(model)
    assert found is not None
    assert (found.first, found.noisy) == (1, False)
    model.model.embed_tokens.requires_grad_(True)  # below everything
    assert find_trunk(model) is None


def test_more_layers_than_there_are_and_models_without_a_list_are_refused(tokenizer):
    model = _model("llama", len(tokenizer))
    with pytest.raises(ModelError, match=rf"lora_layers: got last:{LAYERS + 1}, .* {LAYERS} blocks"):
        with_adapter(model, Lora(4, 8, 0.0, ("q_proj",), last=LAYERS + 1), 0, task="CAUSAL_LM")
    model.model.layers = torch.nn.ModuleList(list(model.model.layers)[:1])  # not as many as its configuration says
    with pytest.raises(ModelError, match=r"lora_layers: .* use all"):
        with_adapter(model, Lora(4, 8, 0.0, ("q_proj",), last=1), 0, task="CAUSAL_LM")


def test_a_model_whose_blocks_hand_on_more_takes_the_plain_path(tokenizer, caplog):
    """The last block adds what entered the first: passing over the first would lose it."""
    model = with_adapter(_model("llama", len(tokenizer)), Lora(4, 8, 0.0, ("q_proj",), last=1), 0, task="CAUSAL_LM")
    blocks = model.get_base_model().model.layers
    held = {}

    def keep(_module, _args, kwargs):
        held["x"] = kwargs["hidden_states"]

    blocks[0].self_attn.register_forward_pre_hook(keep, with_kwargs=True)
    blocks[-1].register_forward_hook(lambda _m, _a, output: output + held["x"])
    policy = Policy(model, tokenizer, None, Decoding(6, 2, 1.0, 0.9))
    assert policy._trunk is not None
    prompts, rollout = _sampled(policy)
    found = policy.log_likelihood(prompts, rollout)
    assert policy._trunk is None
    assert "every pass is a full one" in caplog.text
    torch.testing.assert_close(found, policy.log_likelihood(prompts, rollout))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_all_linear_is_every_linear_layer_of_the_last_blocks(kind, tokenizer):
    warnings.filterwarnings("ignore", "fan_in_fan_out")
    model = with_adapter(_model(kind, len(tokenizer)), Lora(4, 8, last=1), 0, task="CAUSAL_LM")
    names = model.targeted_module_names
    assert len(names) == {"llama": 7, "gpt2": 4}[kind]
    assert all(f".{LAYERS - 1}." in name for name in names)


@pytest.mark.parametrize(
    ("targets", "last", "named"),
    [
        (("q_proj", "zork"), None, "no zork in the model"),
        (("all-linear", "q_proj"), None, "no all-linear in the model"),
        (("q_proj", "embed_tokens"), 1, "no embed_tokens in its last 1 blocks"),
        (("lm_head",), 1, "no lm_head in its last 1 blocks"),
    ],
)
def test_a_target_that_would_get_no_adapter_is_refused_by_name(targets, last, named, tokenizer):
    with pytest.raises(ModelError, match=named):
        with_adapter(_model("llama", len(tokenizer)), Lora(4, 8, 0.0, targets, last), 0, task="CAUSAL_LM")
