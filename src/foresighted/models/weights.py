"""Weights as they lie in files, and whether all of them went where they belong.

Safetensors only: an index, a configuration or a name that leads elsewhere is refused before anything is opened.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from os.path import expanduser
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers.utils.hub import cached_file

from foresighted.errors import ModelError, one_line
from foresighted.models.bounded import bounded
from foresighted.texts import printable

_log = logging.getLogger(__name__)
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_BUFFERS = re.compile(r"(^|\.)(position_ids|inv_freq|masked_bias|attn\.bias|attention\.bias|token_type_ids)$")
"""What older versions of transformers saved and nobody needs: computed anew in every model."""
_OTHER_HEADS = re.compile(r"(^|\.)(lm_head|v_head|value_head|score|classifier|cls|lm_predictions|mask_predictions)\.")
"""Heads of other tasks, which a model may carry along."""
_ASKED_AGAIN = 60.0
"""Seconds for which it is known whether the hub answers."""
_ABSENT = "_raise_exceptions_for_{}"
_QUIET = dict.fromkeys(map(_ABSENT.format, ("gated_repo", "missing_entries", "connection_errors")), False)


def folder_of(source: str) -> Path | None:
    """Return the folder that a source is; None where it is none."""
    try:
        folder = Path(expanduser(source))
        return folder if source and folder.is_dir() else None
    except OSError:  # a name that is too long for one, or lies behind a closed folder
        return None


def of_hub() -> dict[str, Any]:
    """Return the keywords with which transformers is to ask for files of the hub: where nobody answers, those that lie
    on this machine alone, for it would ask six times for each file, 23 seconds long."""
    return {} if _answers(int(time.monotonic() // _ASKED_AGAIN)) else {"local_files_only": True}


@lru_cache(maxsize=1)
def _answers(_minute: int) -> bool:
    """Return whether the hub says anything at all, through whatever proxy its client takes; asked twice at most."""
    from huggingface_hub import constants
    from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined]

    logger = logging.getLogger("huggingface_hub.utils._http")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        http_backoff(
            "HEAD", constants.ENDPOINT, max_retries=1, retry_on_status_codes=(), timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except Exception:  # of the client, whichever it is built on
        return False
    finally:
        logger.setLevel(level)
    return True


def find(source: str, name: str) -> Path | None:
    """Return a file of a folder or hub id on this machine; None where it has none, or where there is no such source."""
    if (folder := folder_of(source)) is not None:
        return folder / name if (folder / name).is_file() else None
    try:
        found = cached_file(source, name, **_QUIET, **of_hub())
    except (OSError, ValueError):  # the model's own loading tells why
        return None
    return None if found is None else Path(found)


def existing(setting: str, source: str, name: str) -> Path:
    """Return a file that a source must have; raises a `ModelError` where it has none."""
    if (path := find(source, name)) is None:
        raise ModelError(f"{setting}: {source} has no {name}")
    return path


def check_named(setting: str, source: str) -> None:
    """Refuse an empty name, as of an unset variable: as a path it is the working directory."""
    if not source.strip():
        raise ModelError(f"{setting}: got {source!r}, the name of a model is empty; give a model folder or a hub id")


def stored(setting: str, source: str) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a model, read from the heads of its files.

    Raises:
        ModelError: a file that is not safetensors, or lies elsewhere, or is not there.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name in file_names(setting, source):
        shapes |= shapes_of(setting, existing(setting, source, name))
    return shapes


def file_names(setting: str, source: str) -> list[str]:
    """Return the names of a model's weight files, each a plain name of a safetensors file."""
    check_named(setting, source)
    config = find(source, "config.json")
    first = None if config is None else read_object(setting, config).get("transformers_weights")
    if first is None:
        first = WHOLE if find(source, WHOLE) is not None else INDEX
    names, where = [first], f"{source}/config.json"
    if isinstance(first, str) and first.endswith(".index.json"):
        index = find(source, _plain_name(setting, where, first, ".index.json"))
        if index is None and folder_of(source) is None:
            return []  # of the hub, which may not be reachable, or convert it
        if index is None:
            raise ModelError(
                f"{setting}: {source}: the folder has no usable config or safetensors weights (no {WHOLE}, no {first});"
                " others are never opened, so save the model anew with save_pretrained"
            )
        weights = read_object(setting, index).get("weight_map")
        if not isinstance(weights, dict) or not weights:
            raise ModelError(f"{setting}: {index} has no weight_map")
        names, where = list(dict.fromkeys(map(str, weights.values()))), str(index)
    return [_plain_name(setting, where, name, ".safetensors") for name in names]


def _plain_name(setting: str, where: str, name: Any, ending: str) -> str:
    if not isinstance(name, str) or not name.endswith(ending) or re.search(r"[/\\\x00]|^\.\.", name):
        raise ModelError(f"{setting}: {where} names {str(name)[:80]!r}; weights are safetensors files of that folder")
    return name


def shapes_of(setting: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a safetensors file; raises a `ModelError` where it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library's own kinds are no OSError
        raise ModelError(f"{setting}: {path} is damaged, or no safetensors file ({one_line(error)[:160]})") from None


def check_sizes(setting: str, source: str, stored: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a configuration of another size than what is stored: nothing that large is made to find that out.

    Raises:
        ModelError: names the size.
    """
    path = find(source, "config.json")
    if path is None or not stored:
        return
    config = read_object(setting, path)
    numbers = sum(map(math.prod, stored.values()))
    most = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), max(numbers, 10_000))
    most["num_hidden_layers"] = max(len(stored), 1_000)
    for name, limit in most.items():
        size = config.get(name)
        if isinstance(size, int) and size > limit:
            raise ModelError(
                f"{setting}: {path}: {name} is {size}, and the weights beside it are {numbers} numbers in {len(stored)}"
                " tensors; give the configuration of these weights"
            )


def adapter_shapes(setting: str, source: str) -> dict[str, tuple[int, ...]]:
    """Return name and shape of an adapter's tensors; raises a `ModelError` where there are none."""
    path = existing(setting, source, ADAPTER)
    if not (found := shapes_of(setting, path)):
        raise ModelError(f"{setting}: {path} holds no tensors: the adapter is empty")
    return found


def read_object(setting: str, path: Path) -> dict[str, Any]:
    """Return what a JSON file of a model holds; raises a `ModelError` where it is no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{setting}: {path} cannot be read ({one_line(error)[:160]})") from None
    if not isinstance(found, dict):
        raise ModelError(f"{setting}: {path} is no JSON object")
    return found


@contextmanager
def report_is_read() -> Iterator[None]:
    """Keep transformers' table of missing tensors out of the log while a model is loaded: `check_report` tells."""

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    transformers = logging.getLogger("transformers.modeling_utils")
    transformers.addFilter(other)
    try:
        yield
    finally:
        transformers.removeFilter(other)


def check_report(
    setting: str, source: str, report: Mapping[str, Any], modules: Collection[str], *, exempt: Collection[str] = ()
) -> None:
    """Refuse a model that its files do not make up.

    Args:
        setting: what the model was given for; errors begin with it.
        source: its name.
        report: what transformers says of loading it: missing_keys, unexpected_keys, mismatched_keys.
        modules: names of the model's own modules: a head that it has itself is not that of another model.
        exempt: names of tensors, or of modules, that may be missing or left over.

    Raises:
        ModelError: names what is missing, left over or of another shape.
    """
    missing = [name for name in report["missing_keys"] if not _within(name, exempt) and not _BUFFERS.search(name)]
    others = [name for name in report["unexpected_keys"] if not _BUFFERS.search(name) and not _within(name, exempt)]
    heads = [n for n in others if (found := _OTHER_HEADS.search(n)) and n[: found.end() - 1] not in modules]
    left = [name for name in others if name not in heads]
    shapes = [f"{name} ({_by(there)} there, {_by(here)} here)" for name, there, here in report["mismatched_keys"]]
    refuse(setting, f"{source} does not hold the model that its config.json names", missing, left, shapes)
    if heads and not exempt:
        _log.warning("%s: %s also holds %s, which is not read", setting, source, some(heads))


def check_adapter(
    setting: str, source: str, saved: Mapping[str, tuple[int, ...]], model: nn.Module, adapter: Collection[str]
) -> None:
    """Refuse an adapter whose tensors are not those of the model that it was put on; arguments as `check_report`.

    Args:
        setting: see there.
        source: see there.
        saved: what its file holds.
        model: with the adapter.
        adapter: names of the adapter's tensors in the model, as PEFT saves them.
    """
    own = set(adapter) | model.state_dict().keys()  # an embedding may be saved along
    missing, left = [n for n in adapter if n not in saved], [n for n in saved if n not in own]
    refuse(setting, f"{source} is no adapter for its base model", missing, left, [])


def refuse(setting: str, told: str, missing: Iterable[str], left: Iterable[str], shapes: Iterable[str]) -> None:
    """Raise a `ModelError` that names tensors, if there are any."""
    kinds = {"missing": sorted(missing), "left over": sorted(left), "of another shape": sorted(shapes)}
    if found := "; ".join(f"{kind}: {some(names)}" for kind, names in kinds.items() if names):
        raise ModelError(f"{setting}: {told} ({found}); save it anew and whole, or give another")


def some(names: Collection[str]) -> str:
    """Return the first names as they can be printed, and how many more there are."""
    first = [" ".join(printable(name).split()) for name in sorted(names)[:3]]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")


def check_patterns(setting: str, source: str, settings: Mapping[str, Any], modules: Collection[str]) -> None:
    """Refuse an adapter whose patterns of module names are none, or match without end.

    Args:
        setting: see `check_report`.
        source: see there.
        settings: its adapter_config.json.
        modules: names of the base model's modules.
    """
    patterns = {name: settings.get(name) for name in ("target_modules", "exclude_modules")}
    found = [(name, text) for name, text in patterns.items() if isinstance(text, str) and text != "all-linear"]
    for name in ("rank_pattern", "alpha_pattern"):
        keys = settings.get(name)
        found += [(name, rf"(.*\.)?({key})$") for key in (keys if isinstance(keys, dict) else ())]
    for name, text in found:
        told = f"{setting}: {source}/{ADAPTER_CONFIG}: {name} {text[:80]!r}"
        try:
            with bounded(f"{told}: matching", "name the modules instead"):
                pattern = re.compile(text)
                for module in modules:
                    pattern.fullmatch(module)
        except (re.error, RecursionError, OverflowError) as error:
            raise ModelError(f"{told} is no regular expression ({error})") from None


def _within(name: str, places: Collection[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"
