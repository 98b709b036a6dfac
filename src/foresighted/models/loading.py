"""From names in the configuration to models: embedded wheels, folders and hub ids, with clear errors for each."""

from __future__ import annotations

import importlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from foresighted.errors import ModelError
from foresighted.influence import find_head
from foresighted.models import embedded
from foresighted.models.policy import Policy, frozen_copy
from foresighted.models.reward_model import RewardModel
from foresighted.settings import TrainConfig

_SAFE = {"trust_remote_code": False}
disable_progress_bar()  # a bar for every file of a two-second load says nothing


def load_policy(config: TrainConfig, device: torch.device) -> Policy:
    """Load the policy of a configuration, adapter freshly initialised from the seed.

    Raises:
        ModelError: weights absent or of the wrong kind, or a quantisation that this machine cannot do.
    """
    source = embedded.policy_source() if config.policy == "embedded" else config.policy
    auto = importlib.import_module("transformers")
    kwargs: dict[str, Any] = {"dtype": getattr(torch, config.dtype), **_quantization(config, device)}
    architectures = _architectures("policy", source)
    if architectures and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise ModelError(f"policy: {source} is a {architectures[0]}; give a causal language model")
    model = _load("policy", auto.AutoModelForCausalLM, source, **kwargs)
    tokenizer = _tokenizer("policy", source)
    if config.quantization == "none":
        model = model.to(device)
    model.eval()
    if config.policy_train == "all":
        reference = frozen_copy(model)
        return Policy(model.requires_grad_(True), tokenizer, reference, config)
    return Policy(_with_adapter(model, config, "CAUSAL_LM", config.lora_dropout), tokenizer, None, config)


def _with_adapter(model: Any, config: TrainConfig, task: str | None, dropout: float, exclude: str | None = None) -> Any:
    from peft import LoraConfig, get_peft_model

    targets: Any = config.lora_targets if task else "all-linear"
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=dropout,
        target_modules="all-linear" if targets in (("all-linear",), "all-linear") else list(targets),
        exclude_modules=[exclude] if exclude else None,
        task_type=task,
    )
    torch.manual_seed(config.seed)
    try:
        return get_peft_model(model, lora).eval()
    except ValueError as error:
        raise ModelError(
            f"lora_targets: got {','.join(config.lora_targets)}, no such module in the model ({error})"
        ) from None


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


def load_reward_model(config: TrainConfig, device: torch.device, source: str | None = None) -> RewardModel:
    """Load the reward model of a configuration (or another one, `source`, with the same settings: a gold reward).

    Raises:
        ModelError: weights absent, a causal LM, or more than one label.
    """
    source = config.reward_model if source is None else source
    auto = importlib.import_module("transformers")
    torch.manual_seed(config.seed)
    if source == "embedded" or source.startswith("encoder:"):
        folder = embedded.encoder_source() if source == "embedded" else source.removeprefix("encoder:")
        body, tokenizer = load_encoder(folder, device)
        head = torch.nn.Linear(body.config.hidden_size, 1)
        torch.nn.init.zeros_(head.weight)  # before the first fit, no response is better than another
        torch.nn.init.zeros_(head.bias)
        name = None
    else:
        folder = source
        _refuse_other_kinds(folder)
        body = _load("reward_model", auto.AutoModelForSequenceClassification, folder, dtype=torch.float32)
        name, head = find_head(body, folder)
        tokenizer = _tokenizer("reward_model", folder)
    if body.config.pad_token_id is None:
        body.config.pad_token_id = tokenizer.pad_token_id
    body.to(device).eval().requires_grad_(config.reward_model_train == "all")
    if config.reward_model_train == "lora":
        body = _with_adapter(body, config, None, 0.0, exclude=name)
    head.to(device).requires_grad_(True)
    return RewardModel(
        body, head, tokenizer, pooled=name is None, train=config.reward_model_train, reads=config.reward_model_input,
        feature_scale=config.feature_scale,
    )  # fmt: skip


def load_gold_reward(config: TrainConfig, device: torch.device, source: str) -> RewardModel:
    """Load a frozen reward model that labels: it reads prompt and response, whatever the trained one reads.

    Raises:
        ModelError: as `load_reward_model`, or a source whose head would be untrained.
    """
    if source == "embedded" or source.startswith("encoder:"):
        raise ModelError(f"labels: reward:{source} has no trained head; give a sequence classifier with one label")
    gold = replace(config, reward_model_input="pair", reward_model_train="head")
    return load_reward_model(gold, device, source)


def load_encoder(source: str, device: torch.device) -> tuple[Any, Any]:
    """Return an encoder and its tokenizer, in float32 and eval mode.

    Raises:
        ModelError: weights absent.
    """
    encoder = _load("encoder", importlib.import_module("transformers").AutoModel, source, dtype=torch.float32)
    return encoder.to(device).eval(), _tokenizer("encoder", source)


def _architectures(setting: str, source: str) -> list[str]:
    auto = importlib.import_module("transformers")
    return list(_load(setting, auto.AutoConfig, source).architectures or [])


def _refuse_other_kinds(source: str) -> None:
    config = _load("reward_model", importlib.import_module("transformers").AutoConfig, source)
    kind = (config.architectures or ["model without a named architecture"])[0]
    if not kind.endswith("ForSequenceClassification"):
        raise ModelError(
            f"reward_model: {source} is a {kind}; give a sequence classifier with one label, or encoder:{source}"
            " to put a linear head on an encoder"
        )
    if config.num_labels != 1:
        raise ModelError(f"reward_model: {source} has {config.num_labels} labels; a reward model has one")


def _load(setting: str, kind: Any, source: str, **kwargs: Any) -> Any:
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise ModelError(f"{setting}: no folder {source}; give a model folder or a hub id")
    if "dtype" in kwargs:
        kwargs["use_safetensors"] = True  # nothing is unpickled
    try:
        return kind.from_pretrained(
            str(Path(source).expanduser()) if Path(source).is_dir() else source, **_SAFE, **kwargs
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if source in (embedded.POLICY_HUB_ID, embedded.ENCODER_HUB_ID):
            reason = embedded.how_to_get(source)
        elif Path(source).is_dir():
            reason = f"the folder has no usable config or safetensors weights ({reason})"
        else:
            reason = f"neither a folder nor reachable on the hub ({reason})"
        raise ModelError(f"{setting}: {source}: {reason}") from None


def _tokenizer(setting: str, source: str) -> Any:
    tokenizer = _load(setting, importlib.import_module("transformers").AutoTokenizer, source)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{setting}: the tokenizer of {source} has neither a padding nor an end token; add one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
