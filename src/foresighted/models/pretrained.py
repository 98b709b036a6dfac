"""From transformers and PEFT to weights and tokenizers in this process: what every kind of model needs to be loaded.

Weights are safetensors only, remote code is off. The name of a setting begins each error.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils.logging import disable_progress_bar

from foresighted.errors import ModelError, RunError
from foresighted.models import embedded

_SAFE = {"trust_remote_code": False}
disable_progress_bar()  # a bar for every file of a two-second load says nothing


class Lora(NamedTuple):
    """An adapter that is put on a model."""

    rank: int
    alpha: int
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    last: int | None = None
    """Only the last so many blocks get one; None: all."""


def load(setting: str, kind: Any, source: str, **kwargs: Any) -> Any:
    """Return what `kind.from_pretrained` makes of a folder or hub id; weights where `dtype` is among the arguments.

    Raises:
        ModelError: nothing there, or nothing that can be used.
    """
    if source.startswith((".", "/", "~")) and not Path(expanduser(source)).is_dir():
        raise ModelError(f"{setting}: no folder {source}; give a model folder or a hub id")
    if "dtype" in kwargs:
        kwargs["use_safetensors"] = True  # nothing is unpickled
    try:
        return kind.from_pretrained(
            expanduser(source) if Path(expanduser(source)).is_dir() else source, **_SAFE, **kwargs
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


def tokenizer_of(setting: str, source: Any, tokenizer: Any = None) -> Any:
    """Return a tokenizer that can pad: the one given, or that of a name or of where a model says it is from.

    Raises:
        ModelError: none, or one without a padding and an end token.
    """
    if tokenizer is None:
        where = source if isinstance(source, str) else _origin(source)
        if not where:
            raise ModelError(f"tokenizer: the {setting.replace('_', ' ')} does not say where it is from; give its own")
        tokenizer = load(setting, importlib.import_module("transformers").AutoTokenizer, where)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"{setting}: the tokenizer of {name_of(source)} has neither a padding nor an end token; add one"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def kind_of(model: Any) -> str:
    """Return the class of a model, beneath its adapter."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).__name__


def name_of(source: Any) -> str:
    """Return the name of a source, or where a model that was given says it is from, or its class."""
    return source if isinstance(source, str) else _origin(source) or type(source).__name__


def _origin(model: Any) -> str:
    return str(getattr(model, "name_or_path", "") or "")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of its own; other draws stay what they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def with_adapter(model: Any, lora: Lora, seed: int, *, task: str | None = None, exclude: str | None = None) -> Any:
    """Return a model, which is changed, with a fresh adapter from a seed, in eval mode; a module `exclude` gets none.

    Raises:
        ModelError: targets that the model does not have, or fewer blocks than are to get one.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        layers_to_transform=None if lora.last is None else _last_blocks(model, lora.last),
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.targets == ("all-linear",) else list(lora.targets),
        exclude_modules=[exclude] if exclude else None,
        task_type=task,
    )
    try:
        with seeded(seed):
            return get_peft_model(model, settings).eval()
    except ValueError as error:
        raise ModelError(f"lora_targets: got {','.join(lora.targets)}, no such module in the model ({error})") from None


def _last_blocks(model: Any, count: int) -> list[int]:
    blocks = find_blocks(model)
    if blocks is None:
        raise ModelError(f"lora_layers: a {kind_of(model)} has no list of blocks to count from its end; use all")
    if count > len(blocks):
        raise ModelError(f"lora_layers: got last:{count}, {name_of(model)} has {len(blocks)} blocks")
    return list(range(len(blocks) - count, len(blocks)))


def find_blocks(model: nn.Module) -> nn.ModuleList | None:
    """Return the blocks of a transformer in order; None where they are not one list of one kind, as long as its
    configuration says."""
    config = getattr(model, "config", None)
    depth = getattr(config.get_text_config(), "num_hidden_layers", 0) if config is not None else 0
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    return lists[0] if depth and len(lists) == 1 and len({*map(type, lists[0])}) == 1 else None


def trained_adapter(model: nn.Module) -> bool:
    """Return whether a LoRA adapter already changes its model: a fresh one has a B of zeros."""
    return any(".lora_B." in name and bool(p.any()) for name, p in model.named_parameters())


def load_weights(model: Any, folder: Path) -> None:
    """Put the weights of a trainer's checkpoint into its model, adapter or whole.

    Raises:
        RunError: no safetensors that one process can load, or those of another model.
    """
    from safetensors.torch import load_file

    adapter = folder / "adapter_model.safetensors"
    if adapter.exists():
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(adapter))
        return
    index = folder / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else []
    files = [folder / name for name in names or ["model.safetensors"]]
    if not all(path.exists() for path in files):
        raise RunError(
            f"{folder}: holds no safetensors that one process can load; start again with"
            f" resume_from_checkpoint={str(folder)!r}"
        )
    weights = {key: value for path in files for key, value in load_file(path).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or getattr(model, "_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise RunError(f"{folder}: its weights are not those of the model ({len(missing)} missing)")
