"""From transformers and PEFT to weights and tokenizers in this process: what every kind of model needs to be loaded.

Weights are safetensors only, remote code is off. The name of a setting begins each error.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os.path import exists
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from foresighted.errors import ModelError, RunError, nearest, one_line
from foresighted.models import embedded, weights
from foresighted.settings import TrainConfig

_SAFE = {"trust_remote_code": False}
_LONGEST = 200
"""Letters of a hub id, which has two parts of 96 at most."""
_NO_WEIGHTS = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE",
    "XLORA",
)  # fmt: skip
"""Kinds of PEFT that put tokens before the prompt, or mix adapters, and so are no change of weights."""
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
    """Return what `kind.from_pretrained` makes of a folder or hub id.

    Raises:
        ModelError: nothing there, or nothing that can be used.
    """
    weights.check_named(setting, source)
    folder = weights.folder_of(source)
    if folder is None and (source.startswith((".", "/", "~")) or len(source) > _LONGEST or exists(source)):
        raise ModelError(f"{setting}: no folder {source[:_LONGEST]}; give a model folder or a hub id")
    hub: dict[str, Any] = {}
    try:
        if folder is None:
            validate_repo_id(source)
            hub = weights.of_hub()
            if hub and kind.__name__.startswith("AutoModel"):
                hub["adapter_kwargs"] = dict(hub)  # it looks for one, and asks for that by these
        return kind.from_pretrained(source if folder is None else str(folder), **_SAFE, **hub, **kwargs)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(f"{setting}: {source} does not fit into memory ({one_line(error)[:160]})") from None
    except BaseException as error:  # what reads a model's files raises anything, and tokenizers panic
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        reason = one_line(error)[:300]
        if source in (embedded.POLICY_HUB_ID, embedded.ENCODER_HUB_ID):
            reason = embedded.how_to_get(source)
        elif folder is not None:
            wanted = "tokenizer" if kind.__name__ == "AutoTokenizer" else "config or safetensors weights"
            reason = f"the folder has no usable {wanted} ({reason})"
        else:
            told = "the hub does not answer, and it is not on this machine" if hub else reason
            reason = f"neither a folder nor reachable on the hub ({told}){nearest(source, _named(setting))}"
        raise ModelError(f"{setting}: {source}: {reason}") from None


def _named(setting: str) -> tuple[str, ...]:
    """Return the names of models that are neither a folder nor on the hub."""
    return ("embedded", "embedded:relevance") if setting == "reward_model" else ("embedded",)


def architectures(setting: str, source: str) -> list[str]:
    """Return the classes that a model's configuration names."""
    found = load(setting, importlib.import_module("transformers").AutoConfig, source).architectures
    return [str(name) for name in found] if isinstance(found, list) else []


def load_model(
    setting: str,
    kind: Any,
    source: str,
    *,
    exempt: Callable[[Any, Mapping[str, Any]], Collection[str]] = lambda _model, _report: (),
    **kwargs: Any,
) -> Any:
    """Return a model of transformers with all its weights, read from safetensors, and none of another model.

    Args:
        setting: what it was given for; errors begin with it.
        kind: whose `from_pretrained` makes it.
        source: a folder or hub id.
        exempt: from the model and transformers' report to names of tensors or modules that may be missing or left over.
        kwargs: of `from_pretrained`.

    Raises:
        ModelError: nothing that can be used; tensors that are missing, left over or of another shape, by name.
    """
    weights.stored(setting, source)
    with weights.report_is_read():
        model, report = load(
            setting,
            kind,
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
    modules = dict(model.named_modules())
    weights.check_report(setting, source, report, modules, exempt=exempt(model, report))
    return model


def base_of(setting: str, source: str) -> str | None:
    """Return the base model of the folder or hub id of a PEFT adapter; None for any other source.

    Raises:
        ModelError: a folder that is both, an adapter without safetensors, or one that names no base.
    """
    path = weights.find(source, weights.ADAPTER_CONFIG)
    if path is None:
        return None
    if weights.find(source, "config.json") is not None:
        raise ModelError(
            f"{setting}: {source} holds a model (config.json) and an adapter ({weights.ADAPTER_CONFIG}); give a folder"
            " with one of them"
        )
    if weights.find(source, weights.ADAPTER) is None:
        raise ModelError(f"{setting}: {source} has no {weights.ADAPTER}; nothing else is read")
    base = weights.read_object(setting, path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{setting}: {path} names no base model (base_model_name_or_path)")
    if weights.find(base, weights.ADAPTER_CONFIG) == path:
        raise ModelError(f"{setting}: {path} names itself as its base model (base_model_name_or_path)")
    return base


def with_trained_adapter(setting: str, source: str, model: Any) -> Any:
    """Return a base model with the adapter of a folder or hub id, in eval mode; the model is changed.

    Raises:
        ModelError: an adapter whose tensors are not all in the model, by name, or of a kind that is no change of
            weights.
    """
    from peft import PeftModel, get_peft_model_state_dict

    settings = weights.read_object(setting, weights.existing(setting, source, weights.ADAPTER_CONFIG))
    saved, folder = weights.adapter_shapes(setting, source), weights.existing(setting, source, weights.ADAPTER).parent
    if (kind := str(settings.get("peft_type"))) in _NO_WEIGHTS:
        raise ModelError(f"{setting}: {source} is an adapter of type {kind}, which is not read; give LoRA, or merge it")
    weights.check_patterns(setting, source, settings, [name for name, _ in model.named_modules()])
    base = name_of(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of missing tensors: they are counted below
            model = PeftModel.from_pretrained(model, str(folder), torch_device="cpu").eval()
        adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    except KeyError as error:  # of a module that the adapter says it saves
        raise ModelError(f"{setting}: {source} is no adapter for its base model (missing: {error})") from None
    except Exception as error:  # PEFT raises many kinds
        raise ModelError(f"{setting}: {source} does not fit its base model {base} ({one_line(error)[:300]})") from None
    weights.check_adapter(setting, source, saved, model, adapter)
    return model


def tokenizer_of(setting: str, source: Any, tokenizer: Any = None, *, pad: int | None = None) -> Any:
    """Return a tokenizer that can pad: the one given, or that of a name or of where a model says it is from.

    Args:
        setting: what the model was given for; errors begin with it.
        source: its name, or the model. An adapter without a tokenizer of its own has its base's.
        tokenizer: the one given.
        pad: token that the model itself takes as padding, where the tokenizer names none; else it is the end token.

    Raises:
        ModelError: none, or one without a padding and an end token.
    """
    if tokenizer is None:
        where = source if isinstance(source, str) else _origin(source)
        if not where:
            raise ModelError(f"tokenizer: the {setting.replace('_', ' ')} does not say where it is from; give its own")
        if weights.find(where, "tokenizer_config.json") is None:
            where = base_of(setting, where) or where
        tokenizer = load(setting, importlib.import_module("transformers").AutoTokenizer, where)
    if not isinstance(most := tokenizer.model_max_length, int | float) or not most > 0:
        raise ModelError(f"{setting}: the tokenizer of {name_of(source)} has model_max_length {most!r:.40}; mend it")
    if tokenizer.pad_token_id is None:
        if pad is not None and 0 <= pad < len(tokenizer):
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
        elif tokenizer.eos_token_id is None:
            raise ModelError(
                f"{setting}: the tokenizer of {name_of(source)} has neither a padding nor an end token; add one"
            )
        else:
            tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def assembled(
    setting: str, source: str, whole: Callable[[str, tuple[str, ...]], Any], *, merge: bool, above: tuple[str, ...] = ()
) -> Any:
    """Return the model of a name: whole, or a base with the adapter that the name is.

    Args:
        setting: what it was given for; errors begin with it.
        source: a folder or hub id, of a model or of an adapter (whose base may have been made by another one).
        whole: loads a base, told the adapters that go on it.
        merge: make one model of base and adapter.
        above: adapters that go on it.

    Raises:
        ModelError: what `base_of` and `with_trained_adapter` refuse, and an adapter that cannot be merged.
    """
    base = base_of(setting, source)
    if base is None:
        return whole(source, above)
    if source in above:
        raise ModelError(f"{setting}: the adapter {source} is its own base model (base_model_name_or_path)")
    below = assembled(setting, base, whole, merge=True, above=(*above, source))
    model = with_trained_adapter(setting, source, below)
    if not merge:
        return model
    try:
        model = model.merge_and_unload()
    except Exception as error:  # kinds without merging, quantised weights
        raise ModelError(f"{setting}: {source} cannot be merged into its base ({one_line(error)[:160]})") from None
    model.name_or_path = source
    return model


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
        ModelError: targets that the model does not have, or not in the blocks that are to get one, or fewer blocks.
    """
    from peft import LoraConfig, get_peft_model

    blocks = [] if lora.last is None else _blocks(model, lora.last)
    settings = LoraConfig(
        layers_to_transform=None if lora.last is None else list(range(len(blocks)))[-lora.last :],
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(lora, blocks),
        exclude_modules=[exclude] if exclude else None,
        task_type=task,
    )
    try:
        with seeded(seed):
            adapted = get_peft_model(model, settings).eval()
    except ValueError as error:
        raise ModelError(f"lora_targets: got {','.join(lora.targets)}, no such module in the model ({error})") from None
    _check_targets(adapted, blocks[-lora.last :] if lora.last else [model], lora)
    return adapted


def _targets(lora: Lora, blocks: Iterable[nn.Module]) -> str | list[str]:
    """Return the targets as PEFT takes them, whose own `all-linear` knows no blocks."""
    if lora.targets != ("all-linear",) or lora.last is None:
        return "all-linear" if lora.targets == ("all-linear",) else list(lora.targets)
    parts = (part for block in blocks for part in block.named_modules())
    return sorted({name.rsplit(".", 1)[-1] for name, module in parts if isinstance(module, (nn.Linear, Conv1D))})


def _check_targets(adapted: Any, parts: Iterable[nn.Module], lora: Lora) -> None:
    """Refuse what PEFT passes over: a target without an adapter, or an adapter outside of the parts that are to learn.

    Models differ in what they call the usual targets, so some of these may be absent.
    """
    within = {id(module) for part in parts for module in part.modules()}
    stray = [
        name
        for name in adapted.targeted_module_names
        if id(adapted.get_submodule(f"base_model.model.{name}")) not in within
    ]
    if lora.targets not in (("all-linear",), TrainConfig.lora_targets):
        names = [f".{name}" for name in adapted.targeted_module_names]
        stray += [target for target in lora.targets if not any(name.endswith(f".{target}") for name in names)]
    if stray:
        where = "the model" if lora.last is None else f"its last {lora.last} blocks (lora_layers)"
        raise ModelError(f"lora_targets: got {','.join(lora.targets)}, no {', '.join(stray)} in {where}; leave it out")


def _blocks(model: Any, count: int) -> list[nn.Module]:
    """Return the blocks of a model, so many at least."""
    blocks = find_blocks(model)
    if blocks is None:
        raise ModelError(f"lora_layers: a {kind_of(model)} has no list of blocks to count from its end; use all")
    if count > len(blocks):
        raise ModelError(f"lora_layers: got last:{count}, {name_of(model)} has {len(blocks)} blocks")
    return list(blocks)


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
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    name = str(folder)
    if not any((folder / file).exists() for file in (weights.ADAPTER, weights.WHOLE, weights.INDEX)):
        raise RunError(
            f"{folder}: holds no safetensors that one process can load; start again with"
            f" resume_from_checkpoint={name!r}"
        )
    try:
        if (folder / weights.ADAPTER).exists():
            shapes = weights.adapter_shapes(name, name)
            own = get_peft_model_state_dict(model, save_embedding_layers=False)
            weights.check_adapter(name, name, shapes, model, own)
            set_peft_model_state_dict(model, load_file(folder / weights.ADAPTER))
            return
        shapes = weights.stored(name, name)
        tensors = {
            key: value for file in weights.file_names(name, name) for key, value in load_file(folder / file).items()
        }
        tied = set(getattr(model, "all_tied_weights_keys", None) or getattr(model, "_tied_weights_keys", None) or ())
        missing = model.state_dict().keys() - tensors.keys() - tied
        left = tensors.keys() - model.state_dict().keys()
        weights.refuse(name, "its weights are not those of the model", missing, left, [])
        model.load_state_dict(tensors, strict=False)
    except (ModelError, RuntimeError) as error:  # of another shape
        raise RunError(str(error) if isinstance(error, ModelError) else f"{folder}: {one_line(error)[:300]}") from None
