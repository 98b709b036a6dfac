"""Objects in place of names: what stands for them in config.yaml, and whether a resumed run gets the same ones.

A model is known by its class and a hash of its configuration, weights and vocabulary; a function or another labeller
by module, name and a hash of its source; prompts by a hash of their rows, which are also kept in the run directory.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from foresighted.alignment.given import PROMPTS, Given
from foresighted.errors import ConfigError, DataError, RunError
from foresighted.prompts import id_of, kind_of, split_of
from foresighted.settings import read_yaml
from foresighted.settings.typed import OBJECT
from foresighted.store.exchanges import prompt_of
from foresighted.store.rows import read_mappings

_log = logging.getLogger(__name__)
_DIGITS = 16


def separated(
    policy: Any, tokenizer: Any, reward_model: Any, reward_tokenizer: Any, prompts: Any, labels: Any
) -> tuple[Given, dict[str, Any]]:
    """Return the objects, and the settings that names and fingerprints make.

    Args:
        policy: a name, or a causal language model.
        tokenizer: of that model; None loads the one that belongs to it.
        reward_model: a name, or a sequence classifier with one label.
        reward_tokenizer: of that model, likewise.
        prompts: a name, or anything that `rows_of` reads.
        labels: a name, a function(prompt, first, second) -> [0, 1], or a `types.Labeller`.

    Raises:
        ConfigError: a tokenizer without its model, a model with an adapter, or an object of another kind.
    """
    values: dict[str, Any] = {}
    pairs = {}
    for name, model, reader, needs in (
        ("policy", policy, tokenizer, "tokenizer"),
        ("reward_model", reward_model, reward_tokenizer, "reward_tokenizer"),
    ):
        if _is_name(model) and reader is not None:
            raise ConfigError(f"{needs}: goes with a loaded model only; got the {name} {model!r}")
        if type(model).__module__.startswith("peft."):
            raise ConfigError(f"{name}: got a model with an adapter; give its base, or merge_and_unload() it first")
        if not _is_name(model) and not hasattr(model, "config"):
            raise ConfigError(f"{name}: got {type(model).__name__}, expected a name or a loaded model")
        if reader is not None and not callable(getattr(reader, "get_vocab", None)):
            raise ConfigError(f"{needs}: got {type(reader).__name__}, expected a loaded tokenizer")
        pairs[name] = None if _is_name(model) else (model, reader)
        values[name] = model if _is_name(model) else _model_name(model, reader)
    if pairs["policy"] is not None:
        values["dtype"] = str(policy.dtype).removeprefix("torch.")
    values["labels"] = f"{labels}/" if isinstance(labels, Path) else labels  # of a queue
    if not _is_name(labels):
        values["labels"] = _source_name(labels)
    rows = None if _is_name(prompts) else rows_of(prompts)
    values["prompts"] = prompts if rows is None else _rows_name(rows)
    return Given(**pairs, labels=_labeller(labels), prompts=rows), {k: v for k, v in values.items() if v is not None}


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str | Path)


def _labeller(labels: Any) -> Any:
    if _is_name(labels):
        return None
    from foresighted.labels.labellers import as_labeller

    return as_labeller("labels", labels)


def resumed(given: Given, values: dict[str, Any], out: Path) -> Given:
    """Return what a run that goes on is given: prompts that it kept are read again. A label function whose source was
    mended since keeps its place in `values`, with a warning: it is asked from here on.

    Raises:
        RunError: another object than the run began with.
    """
    path = out / "config.yaml"
    saved = read_yaml(path) if path.exists() else {}
    for name in ("policy", "reward_model", "labels", "prompts"):
        before = str(saved.get(name, ""))
        now = str(values.get(name, before))
        if name == "labels" and now != before and now.rpartition(":")[0] == before.rpartition(":")[0]:
            _log.warning("labels: the source of %s has changed since %s began; it labels from here on", now, out)
            values[name] = before
        elif before.startswith(OBJECT) and now != before:
            raise RunError(
                f"{name}: {out} began with {before.removeprefix(OBJECT)}, got"
                f" {str(values[name]).removeprefix(OBJECT)}; give the same one, or another out"
            )
    kept = out / PROMPTS
    if given.prompts is None and str(saved.get("prompts", "")).startswith(OBJECT) and kept.exists():
        rows = read_mappings(kept)
        if _rows_name(rows) != saved["prompts"]:
            raise RunError(f"prompts: {kept} is not what {out} began with; give the same prompts again")
        return Given(given.policy, given.reward_model, given.labels, rows)
    return given


def rows_of(prompts: Any) -> list[dict[str, Any]]:
    """Return prompts as rows of a prompt file.

    Args:
        prompts: texts, chat messages or mappings in a fixed order, a `datasets.Dataset`, or a pandas or polars frame,
            with the column `prompt` (or another name that a prompt file may give it) and, where there are any, `id`,
            `kind`, `split`.

    Raises:
        DataError: something else.
    """
    if callable(make := getattr(prompts, "to_dicts", None) or getattr(prompts, "to_list", None)):
        prompts = make()  # polars, datasets
    elif callable(make := getattr(prompts, "to_dict", None)):
        prompts = make("records")  # pandas
    if isinstance(prompts, Mapping | Set | bytes) or not isinstance(prompts, Iterable):
        raise DataError(f"prompts: got {type(prompts).__name__}, expected texts, mappings, a Dataset or a frame")
    return [{"prompt": row} if isinstance(row, str) else _row(n, row) for n, row in enumerate(prompts)]


def _row(number: int, row: Any) -> dict[str, Any]:
    where = f"prompts: row {number}"
    row = {"prompt": row} if isinstance(row, list) else row  # chat messages
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: got {type(row).__name__}, expected a text or a mapping with 'prompt'")
    read = {"id": id_of, "prompt": prompt_of, "kind": kind_of, "split": split_of}
    return {name: value for name, reader in read.items() if (value := reader(row, where)) is not None}


def _rows_name(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"{OBJECT}prompts:{_hash(json.dumps(rows, sort_keys=True))}"


def _source_name(labels: Any) -> str:
    named = labels if inspect.isroutine(labels) else type(labels)
    try:
        source = inspect.getsource(named)
    except (OSError, TypeError):  # typed into a bare interpreter
        code = getattr(named, "__code__", None)
        source = repr(code and (code.co_code, code.co_consts, code.co_names))
    return f"{OBJECT}{named.__module__}.{named.__qualname__}:{_hash(source)}"


def _model_name(model: Any, tokenizer: Any) -> str:
    from foresighted.models.fingerprint import fingerprint

    read = tokenizer and [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    told = json.dumps([model.config.to_json_string(), fingerprint(model), read])
    return f"{OBJECT}{type(model).__name__}:{_hash(told)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
