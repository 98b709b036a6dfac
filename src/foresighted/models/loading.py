"""Policies and reward models from names or objects: embedded wheels, folders, hub ids, loaded models."""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Collection, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from foresighted.errors import ModelError
from foresighted.influence import find_head
from foresighted.models import embedded, weights
from foresighted.models.policy import Decoding, Policy
from foresighted.models.pretrained import (
    Lora,
    architectures,
    assembled,
    kind_of,
    load_model,
    name_of,
    seeded,
    tokenizer_of,
    trained_adapter,
    with_adapter,
)
from foresighted.models.probe import accepted, check_reading, longest_input
from foresighted.models.reader import Layout, Reader, ReaderOfBoth
from foresighted.models.reward_model import RewardModel
from foresighted.settings import TrainConfig

_log = logging.getLogger(__name__)
RELEVANCE = "embedded:relevance"
"""The embedded encoder under a head that begins as relevance: a judge that knows something and has a blind spot, since
an echo of the prompt is relevant."""
RELEVANCE_WEIGHT = 8.0
_LORA = Lora(16, 32)
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_CLASSIFIER = "give a sequence classifier of transformers with one label, or the folder of one"


def load_policy(config: TrainConfig, device: torch.device, *, model: Any = None, tokenizer: Any = None) -> Policy:
    """Load the policy of a configuration, adapter freshly initialised from the seed.

    Args:
        config: what to load, and what of it is trained.
        device: where it goes.
        model: a causal language model in place of the configuration's name; it is changed (an adapter, its device).
        tokenizer: its tokenizer; None loads the one that belongs to it.

    Raises:
        ModelError: weights absent or of the wrong kind, an adapter that was trained before, or a quantisation that
            this machine cannot do.
    """
    source = config.policy if model is None else model
    kwargs = {"dtype": getattr(torch, config.dtype), **_quantization(config, device)}
    body, words = _causal_lm("policy", source, tokenizer, device, merge=True, **kwargs)
    decoding = Decoding(config.max_new_tokens, config.min_new_tokens, config.temperature, config.top_p)
    if config.unused:
        _log.warning("policy_train all has no adapter: %s have no effect", ", ".join(config.unused))
    if config.policy_train == "all":
        reference = copy.deepcopy(body).requires_grad_(False)
        body.requires_grad_(True)
    else:
        reference = None
        lora = Lora(config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_targets, config.last_blocks)
        if not hasattr(body, "disable_adapter"):
            body = with_adapter(body, lora, config.seed, task="CAUSAL_LM")
        elif trained_adapter(body):
            raise ModelError(
                "policy: its adapter was trained before, so the base model is not the initial policy; merge it first"
                " (model.merge_and_unload())"
            )
    return Policy(body, words, reference, decoding, system_prompt=config.system_prompt)


def load_plain_policy(
    source: str, device: torch.device, decoding: Decoding, *, setting: str = "policy", dtype: str = "float32",
    system_prompt: str | None = None,
) -> Policy:  # fmt: skip  # one argument a line says no more
    """Load a causal language model that nothing trains; it is its own frozen reference.

    Args:
        source: `embedded`, a folder or a hub id, or the folder of a PEFT adapter, which is put on its base model.
        device: where it goes.
        decoding: how it samples.
        setting: what it was given for; error messages begin with it.
        dtype: of its weights.
        system_prompt: as `Policy` takes it.

    Raises:
        ModelError: weights absent, of the wrong kind or not safetensors.
    """
    body, words = _causal_lm(setting, source, None, device, dtype=getattr(torch, dtype))
    return Policy(body, words, None, decoding, system_prompt=system_prompt, setting=setting)


def _causal_lm(
    setting: str, source: Any, tokenizer: Any, device: torch.device, *, merge: bool = False, **kwargs: Any
) -> tuple[Any, Any]:
    """Return a causal language model on its device, in eval mode, and its tokenizer."""
    transformers = importlib.import_module("transformers")

    def fits(name: str, kinds: list[str]) -> None:
        if kinds and not any(kind.endswith(_CAUSAL) for kind in kinds):
            raise ModelError(f"{setting}: {name} is a {kinds[0]}; give a causal language model")

    def whole(name: str, above: tuple[str, ...]) -> Any:
        fits(name, architectures(setting, name))
        if above and "quantization_config" in kwargs:
            raise ModelError(f"quantization: {above[0]} is an adapter; merge it into its base model first, or use none")
        return load_model(setting, transformers.AutoModelForCausalLM, name, **kwargs)

    if isinstance(source, str):
        source = embedded.policy_source() if source == "embedded" else source
        model = assembled(setting, source, whole, merge=merge)
    else:
        fits(name_of(source), [kind_of(source)])
        model = source
    tokenizer = tokenizer_of(setting, source, tokenizer)
    rows = model.get_input_embeddings().num_embeddings
    if not 0 <= tokenizer.pad_token_id < rows:
        raise ModelError(
            f"tokenizer: pads with token {tokenizer.pad_token_id}, the embedding of {name_of(source)} has {rows}; give"
            " the model's own tokenizer, or one that pads with its end token"
        )
    if not (getattr(model, "hf_quantizer", None) or hasattr(model, "hf_device_map")):
        model = model.to(device)
    return model.eval(), tokenizer


def _quantization(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    if config.quantization == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization: {config.quantization} needs bitsandbytes (pip install 'foresighted[quantization]');"
            " or use --quantization none"
        )
    if device.type not in ("cuda", "xpu"):
        raise ModelError(
            f"quantization: {config.quantization} needs a GPU that bitsandbytes supports, this device is {device};"
            " use --quantization none"
        )
    from transformers import BitsAndBytesConfig

    compute = getattr(torch, config.dtype)
    four = config.quantization == "4bit"
    quantization = BitsAndBytesConfig(
        load_in_4bit=four, load_in_8bit=not four, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


def load_reward_model(
    config: TrainConfig, device: torch.device, *, model: Any = None, tokenizer: Any = None
) -> RewardModel:
    """Load the reward model of a configuration, or prepare `model` in its place; raises as `reward_model`."""
    return reward_model(
        config.reward_model if model is None else model, tokenizer, device=device, train=config.reward_model_train,
        layout="chat" if config.reward_model_input == "pair" else config.reward_model_input,
        max_length=config.reward_model_max_length, lora=Lora(config.lora_rank, config.lora_alpha), seed=config.seed,
        feature_scale=config.feature_scale,
    )  # fmt: skip  # one argument a line says no more


def load_gold_reward(
    source: str, device: torch.device, *, setting: str = "labels", max_length: int | None = None
) -> RewardModel:
    """Load a frozen reward model that labels or judges: it reads prompt and response, whatever the trained one reads.

    Raises:
        ModelError: as `reward_model`, or a source whose head would be untrained.
    """
    if _is_encoder(source):
        raise ModelError(f"{setting}: reward:{source} has no trained head; give a sequence classifier with one label")
    try:
        return reward_model(source, device=device, layout="chat", max_length=max_length)
    except ModelError as error:
        raise ModelError(str(error).replace("reward_model:", f"{setting}:", 1)) from None


def reward_model(
    source: Any,
    tokenizer: Any = None,
    *,
    device: torch.device | None = None,
    train: Literal["head", "lora", "all"] = "head",
    layout: Layout = "auto",
    append_eos: bool = False,
    max_length: int | None = None,
    lora: Lora = _LORA,
    seed: int = 0,
    feature_scale: float = 1.0,
    device_map: str | None = None,
) -> RewardModel:
    """Return a reward model in eval mode, what is trained of it in float32, once it was seen to read as it should.

    Args:
        source: a sequence classifier with one label, or the folder or hub id of one, or of an adapter on one;
            `embedded` or `encoder:FOLDER` for a linear head of zeros on an encoder, `embedded:relevance` for one that
            begins as 8 cos(e(x), e(y)). A model that is given is changed (an adapter, its device).
        tokenizer: its tokenizer; None loads the one that belongs to it.
        device: where it goes; None leaves it where it is.
        train: what requires gradients.
        layout: what it reads, and as what.
        append_eos: end each text that goes through no chat template with the end token.
        max_length: most tokens it reads, where model and tokenizer take as many; None: as many as they take.
        lora: the adapter that `train="lora"` puts on a model without one.
        seed: of that adapter.
        feature_scale: length of an encoder's pooled states.
        device_map: how Accelerate spreads a sequence classifier that is named over devices, `auto` say, in place of
            `device`.

    Raises:
        ModelError: weights absent, left over or partitioned, another kind of model, more than one label, a tokenizer
            that does not match, or a model that reads a text differently alone, padded or through its head.
    """
    pooled, name, relevance = _is_encoder(source), None, False
    with seeded(seed):
        if pooled:
            body, folder, head = _encoder(source, feature_scale)
            relevance, source = source == RELEVANCE, folder
        else:
            body = _classifier(source, {} if device_map is None else {"device_map": device_map})
            name, head = find_head(body, name_of(source))
    tokenizer = tokenizer_of("reward_model", source, tokenizer, pad=body.config.get_text_config().pad_token_id)
    _verify(body, tokenizer, source)
    body.eval()
    if device is not None and not hasattr(body, "hf_device_map"):
        body.to(device)
        head.to(device)
    if train == "lora" and not any(".lora_" in own for own, _ in body.named_parameters()):
        body = with_adapter(body, lora, seed, exclude=name)
    _train_only(body, head, train)
    longest = longest_input(body, tokenizer, max_length)
    if relevance:
        reader: Reader = ReaderOfBoth(tokenizer, longest=longest, inputs=accepted(body))
    else:
        reader = Reader(tokenizer, layout=layout, longest=longest, append_eos=append_eos, inputs=accepted(body))
    model = RewardModel(body, head, reader, pooled=pooled, train=train, feature_scale=feature_scale)
    check_reading(model, name_of(source))
    return model


def _is_encoder(source: Any) -> bool:
    return isinstance(source, str) and (source in ("embedded", RELEVANCE) or source.startswith("encoder:"))


def _encoder(source: str, scale: float) -> tuple[Any, str, nn.Linear]:
    """Return an encoder, its folder and a head: of zeros, so that no response is better than another before the first
    fit, or over [e(y), sqrt(D) e(x) * e(y)] with r = 8 cos(e(x), e(y))."""
    folder = source.removeprefix("encoder:") if source.startswith("encoder:") else embedded.encoder_source()

    def unused(model: Any, report: Mapping[str, Any]) -> Collection[str]:
        """Its pooler, and heads: what stands beside the encoder, where its tensors are named as part of a model."""
        prefix = f"{model.base_model_prefix}."
        inside = any(name.startswith(prefix) for name in weights.stored("encoder", folder))
        beside = [name for name in report["unexpected_keys"] if inside and not name.startswith(prefix)]
        return ["pooler", f"{prefix}pooler", *beside]

    kind = importlib.import_module("transformers").AutoModel
    body = load_model("encoder", kind, folder, exempt=unused, dtype=torch.float32)
    width = body.config.hidden_size
    head = nn.Linear(2 * width if source == RELEVANCE else width, 1)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    if source == RELEVANCE:
        with torch.no_grad():
            head.weight[:, width:] = RELEVANCE_WEIGHT / (scale * width**0.5)
    return body, folder, head


def _classifier(source: Any, placed: Mapping[str, Any]) -> Any:
    """Return a sequence classifier with one label, from its name or as it is given."""
    if isinstance(source, str):
        return assembled("reward_model", source, partial(_whole_classifier, placed=placed), merge=False)
    if not isinstance(source, nn.Module) or not hasattr(source, "config"):
        raise ModelError(f"reward_model: got {type(source).__name__}; {_CLASSIFIER}")
    if (kind := kind_of(source)).endswith((*_CAUSAL, "ForMaskedLM", "ForTokenClassification")):
        raise ModelError(f"reward_model: {name_of(source)} is a {kind}; {_CLASSIFIER}")
    if (labels := int(getattr(source.config, "num_labels", 1))) != 1:
        raise ModelError(f"reward_model: {name_of(source)} has {labels} labels; a reward model has one")
    return source


def _whole_classifier(source: str, above: tuple[str, ...], *, placed: Mapping[str, Any]) -> Any:
    """Load a classifier with one label; its head may come from an adapter that goes on it."""
    transformers = importlib.import_module("transformers")
    if transformers.integrations.is_deepspeed_zero3_enabled():
        raise ModelError(
            f"reward_model: DeepSpeed ZeRO-3 would partition {source} as it is loaded; make FPOReward before the"
            " trainer's arguments (GRPOConfig)"
        )
    kind = (architectures("reward_model", source) or ["model without a named architecture"])[0]
    if not (kind.endswith("ForSequenceClassification") or (above and kind.endswith(_CAUSAL))):
        raise ModelError(f"reward_model: {source} is a {kind}; {_CLASSIFIER}, or encoder:{source} for an encoder")
    if not above and (labels := _labels_of(source)) != 1:
        raise ModelError(f"reward_model: {source} has {labels} labels; a reward model has one")
    brought = [name for adapter in above for name in weights.adapter_shapes("reward_model", adapter)]

    def from_adapter(model: Any, report: Mapping[str, Any]) -> Collection[str]:
        head, _ = find_head(model, source)
        for name, there, _ in report["mismatched_keys"]:
            if name == f"{head}.weight" and len(there) == 2 and there[0] != 1:
                raise ModelError(f"reward_model: {source} has {there[0]} labels; a reward model has one")
        top = head.partition(".")[0]  # of a head of several layers
        return [top, "lm_head"] if any(f".{top}." in name for name in brought) else []

    return load_model(
        "reward_model", transformers.AutoModelForSequenceClassification, source, exempt=from_adapter, num_labels=1,
        dtype=torch.float32, **placed,
    )  # fmt: skip


def _labels_of(source: str) -> int:
    """Return the number of labels that a model's configuration states; 1 where it states none: the head will tell."""
    path = weights.find(source, "config.json")
    stated = {} if path is None else weights.read_object("reward_model", path)
    names, number = stated.get("id2label"), stated.get("num_labels", 1)
    return len(names) if isinstance(names, dict) else number if isinstance(number, int) else 1


def _verify(model: Any, tokenizer: Any, source: Any) -> None:
    """Check that model and tokenizer belong together and that the weights are all here; set the model's padding token.

    Raises:
        ModelError: names what does not fit, and what to give.
    """
    name = name_of(source)
    if any(hasattr(p, "ds_id") or p.numel() == 0 or p.is_meta for p in model.parameters()):
        raise ModelError(
            f"reward_model: {name} was partitioned as it was loaded (DeepSpeed ZeRO-3, or FSDP with"
            " cpu_ram_efficient_loading); load it before the trainer's arguments are made, or without that"
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"tokenizer: has {len(tokenizer)} tokens, the embedding of {name} has {rows}; give the reward model's own"
            " tokenizer, not the policy's"
        )
    own = model.config.get_text_config().pad_token_id
    by_adapter = isinstance(source, str) and hasattr(model, "peft_config")  # its base may have padded otherwise
    if own is None or not 0 <= own < rows or by_adapter:
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    elif own != tokenizer.pad_token_id:
        raise ModelError(
            f"tokenizer: pads with token {tokenizer.pad_token_id}, {name} expects {own}; give the reward model's own"
            " tokenizer, or set its config.pad_token_id"
        )


def _train_only(body: Any, head: nn.Linear, train: str) -> None:
    own = {id(p) for p in head.parameters()}
    if train == "all":
        body.float()  # AdamW's steps are smaller than what half precision can hold
    head.float()
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(module.weight.dtype), *inputs[1:]))
    head.requires_grad_(True)
    for name, parameter in body.named_parameters():
        wanted = train == "all" or id(parameter) in own or (train == "lora" and ".lora_" in name)
        if parameter.is_floating_point():
            parameter.requires_grad_(wanted)
