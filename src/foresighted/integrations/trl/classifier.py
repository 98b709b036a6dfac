"""The user's reward model: a sequence classifier with one label, and how a prompt and a response become its input."""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foresighted.errors import ModelError
from foresighted.influence import find_head
from foresighted.integrations.trl.config import FPOConfig
from foresighted.models.reward_model import RewardModel
from foresighted.texts import text_of
from foresighted.types import Text

_log = logging.getLogger(__name__)
_WANTED = "give a sequence classifier of transformers with one label, or the folder of one"


class Classifier(RewardModel):
    """A sequence classifier that reads TRL's prompts and responses; it learns from exactly the text it scores.

    Args:
        body: the classifier, in evaluation mode.
        head: its last linear layer.
        tokenizer: its tokenizer, with a padding token.
        config: what it reads, and what of it is trained.
    """

    def __init__(self, body: Any, head: nn.Linear, tokenizer: Any, config: FPOConfig) -> None:
        reads = config.reward_model_input
        if reads == "auto":
            reads = "text" if tokenizer.sep_token_id is None else "pair"
        tokenizer = copy.copy(tokenizer)
        if reads != "response":
            tokenizer.truncation_side = "left"  # what is cut off of a long text is its prompt, never the response
        super().__init__(body, head, tokenizer, pooled=False, train=config.reward_model_train, reads=reads)
        self._end = str(tokenizer.eos_token) if config.append_eos else ""
        longest = (
            getattr(body.config.get_text_config(), "max_position_embeddings", None) or config.reward_model_max_length
        )
        self._cut = False
        self._longest = min(config.reward_model_max_length, tokenizer.model_max_length, longest)

    def encode(self, prompts: Sequence[Text], responses: Sequence[Text]) -> dict[str, Tensor]:
        """Return (prompt, response) rows as the network's inputs, padded on the right, on its device."""
        talks = bool(responses) and isinstance(prompts[0], list) and self._reads != "response"
        both: tuple[list[str], ...]
        if talks and self.tokenizer.chat_template:
            both = ([self._chat_of(p, r) for p, r in zip(prompts, responses, strict=True)],)
        else:
            first, second = [text_of(p) for p in prompts], [text_of(r) + self._end for r in responses]
            if self._reads == "pair":
                both = (first, second)
            elif self._reads == "response":
                both = (second,)
            else:
                between = "\n" if talks else ""
                both = ([p + between + r for p, r in zip(first, second, strict=True)],)
        batch = self.tokenizer(
            *both,
            add_special_tokens=self._reads != "text" and not (talks and self.tokenizer.chat_template),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        if not self._cut and batch["input_ids"].shape[1] >= self._longest:
            self._cut = True
            _log.warning("a text has %d tokens or more: the beginning of its prompt is cut off", self._longest)
        return {name: tensor.to(self.head.weight.device) for name, tensor in batch.items()}

    def _chat_of(self, prompt: Text, response: Text) -> str:
        assert isinstance(prompt, list)
        answer = response if isinstance(response, list) else [{"role": "assistant", "content": response}]
        text: str = self.tokenizer.apply_chat_template(prompt + answer, tokenize=False)
        return text


def load_classifier(
    reward_model: Any, tokenizer: Any | None, config: FPOConfig, device: torch.device | None = None
) -> Classifier:
    """Return the reward model of a configuration.

    Args:
        reward_model: a sequence classifier with one label, or the folder or hub id of one.
        tokenizer: its tokenizer; None loads the one that belongs to it.
        config: what it reads, and what of it is trained.
        device: where a model that is loaded here goes; a model that is given stays where it is until training begins.

    Raises:
        ModelError: another kind of model, more than one label, a tokenizer that does not match, partitioned weights.
    """
    transformers = importlib.import_module("transformers")
    source = reward_model if isinstance(reward_model, str) else str(getattr(reward_model, "name_or_path", "") or "")
    if isinstance(reward_model, str):
        reward_model = _from_folder(transformers, source)
    if not isinstance(reward_model, nn.Module) or not hasattr(reward_model, "config"):
        raise ModelError(f"reward_model: got {type(reward_model).__name__}; {_WANTED}")
    name = source or type(reward_model).__name__
    _check_kind(type(reward_model).__name__, int(getattr(reward_model.config, "num_labels", 1)), name)
    if any(hasattr(p, "ds_id") or p.numel() == 0 or p.is_meta for p in reward_model.parameters()):
        raise ModelError(
            f"reward_model: {name} was partitioned as it was loaded (DeepSpeed ZeRO-3, or FSDP with"
            " cpu_ram_efficient_loading); load it before the trainer's arguments are made, or without that"
        )
    tokenizer = _tokenizer(transformers, tokenizer, source)
    _check_tokenizer(reward_model, tokenizer, name)
    if config.reward_model_train == "lora" and not any(".lora_" in n for n, _ in reward_model.named_parameters()):
        reward_model = _with_adapter(reward_model, config, find_head(reward_model, name)[0])
    _, head = find_head(reward_model, name)
    if reward_model.config.pad_token_id is None:
        reward_model.config.pad_token_id = tokenizer.pad_token_id
    reward_model.eval()
    if device is not None:
        reward_model.to(device)
    _train_only(reward_model, head, config.reward_model_train)
    return Classifier(reward_model, head, tokenizer, config)


def _from_folder(transformers: Any, source: str) -> Any:
    if transformers.integrations.is_deepspeed_zero3_enabled():
        raise ModelError(
            f"reward_model: DeepSpeed ZeRO-3 would partition {source} as it is loaded; make FPOReward before the"
            " trainer's arguments (GRPOConfig)"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        _check_kind((config.architectures or [""])[0], config.num_labels, source)
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"reward_model: {source} cannot be loaded ({' '.join(str(error).split())})") from None


def _check_kind(kind: str, labels: int, name: str) -> None:
    if kind.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForTokenClassification")):
        raise ModelError(f"reward_model: {name} is a {kind}; {_WANTED}")
    if labels != 1:
        raise ModelError(f"reward_model: {name} has {labels} labels; a reward model has one")


def _tokenizer(transformers: Any, tokenizer: Any | None, source: str) -> Any:
    if tokenizer is None:
        if not source:
            raise ModelError("tokenizer: the reward model does not say where it is from; give its tokenizer")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ModelError(f"tokenizer: none for {source} ({' '.join(str(error).split())}); give one") from None
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"tokenizer: that of {source} has neither a padding nor an end token; add one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_tokenizer(model: Any, tokenizer: Any, name: str) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"tokenizer: has {len(tokenizer)} tokens, the embedding of {name} has {rows}; give the reward model's own"
            " tokenizer, not the policy's"
        )
    own = model.config.pad_token_id
    if own is not None and own != tokenizer.pad_token_id:
        raise ModelError(
            f"tokenizer: pads with token {tokenizer.pad_token_id}, {name} expects {own}; give the reward model's own"
            " tokenizer, or set its config.pad_token_id"
        )


def _with_adapter(model: Any, config: FPOConfig, head: str) -> Any:
    from peft import LoraConfig, get_peft_model

    devices = {p.device for p in model.parameters()}
    cuda = [d for d in devices if d.type == "cuda"]
    with torch.random.fork_rng(devices=cuda):  # the trainer's own draws stay what they were
        torch.manual_seed(config.seed)
        lora = LoraConfig(
            r=config.reward_model_lora_rank,
            lora_alpha=config.reward_model_lora_alpha,
            target_modules="all-linear",
            exclude_modules=[head],
        )
        return get_peft_model(model, lora)


def _train_only(model: nn.Module, head: nn.Linear, train: str) -> None:
    own = {id(p) for p in head.parameters()}
    if train == "all":
        model.float()  # AdamW's steps are smaller than what half precision can hold
    head.float()
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(module.weight.dtype), *inputs[1:]))
    for name, parameter in model.named_parameters():
        wanted = train == "all" or id(parameter) in own or (train == "lora" and ".lora_" in name)
        if parameter.is_floating_point():
            parameter.requires_grad_(wanted)
