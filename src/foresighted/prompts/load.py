"""Read prompts, split them by a fixed rule, order them by seed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foresighted.errors import DataError
from foresighted.store.aliases import key_of
from foresighted.store.exchanges import later_turns, name_of, prompt_of
from foresighted.store.foreign import rows_of
from foresighted.texts import text_of
from foresighted.types import Prompt, Text

_log = logging.getLogger(__name__)

HELDOUT_SHARE = 5
"""One prompt in five is held out: those whose id hashes to 0 modulo this."""


class PromptSet(NamedTuple):
    """Prompts to train on and prompts that training never sees."""

    train: list[Prompt]
    heldout: list[Prompt]


NAMED = {"truthfulqa": "hub:truthfulqa/truthful_qa@generation:validation:question"}
"""Sets of the hub that have a short name here."""


def text_id(text: str) -> str:
    """Return the id of a prompt that has none of its own: the first 12 hex digits of its text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def prompt_id(prompt: Text) -> str:
    """Return the id of a prompt: the first 12 hex digits of its text's SHA-256, as prompt files without ids have."""
    return text_id(text_of(prompt))


def read_prompts(source: str | Sequence[Mapping[str, Any]]) -> list[tuple[Prompt, str | None]]:
    """Read prompts in order, each with the split that its file gives it, or None.

    A prompt that stands there again with the same id, or without one, is read once; how many were is a warning.

    Args:
        source: 'bundled', 'truthfulqa', a file of rows as `store.foreign.rows_of` reads them (or of one prompt a line,
            in a .txt), hub:DATASET[@CONFIGURATION]:SPLIT:COLUMN, or rows. A row's prompt is found by
            `store.exchanges.prompt_of`; it may have an `id`, a `kind` and a `split`.

    Raises:
        DataError: unreadable, empty, a bad row (with its place), or two prompts with one id.
    """
    rows: Iterable[tuple[str, Mapping[str, Any]]]
    if isinstance(source, str):
        named = NAMED.get(source, source)
        rows = _hub(named) if named.startswith("hub:") else _file(source)
    else:
        rows = [(f"row {n}", row) for n, row in enumerate(source)]
    seen: dict[str, tuple[str, Prompt, str | None]] = {}
    repeats = turns = 0
    try:
        for where, row in rows:
            made = (where, *_prompt(where, row))
            if (before := seen.setdefault(made[1].id, made)) is not made:
                _check_repeat(*made, *before)
                repeats += 1
            turns += later_turns(row)
    except DataError as error:
        raise DataError(f"prompts: {error}") from None
    if not seen:
        raise DataError(f"prompts: {_told(source)} has no prompt; give at least one a line")
    if repeats:
        _log.warning("prompts: %d of %s stand there before, and are read once", repeats, _told(source))
    if turns:
        _log.warning("prompts: %d of %s have later turns, which are left out", turns, _told(source))
    return [(prompt, split) for _, prompt, split in seen.values()]


def _check_repeat(
    where: str, prompt: Prompt, split: str | None, earlier: str, before: Prompt, before_split: str | None
) -> None:
    if prompt.text != before.text:
        raise DataError(f"{where}: id {prompt.id!r} stands twice, with another prompt on {earlier}; make ids unique")
    if split != before_split:
        raise DataError(f"{where}: the prompt of {earlier} again, in split {split!r} not {before_split!r}; keep one")


def load_prompts(source: str | Sequence[Mapping[str, Any]], *, limit: int | None = None) -> PromptSet:
    """Read prompts and split them.

    A prompt with a `split` of its own ("train" or "heldout") stays there; any other is held out if the SHA-256 of its
    id is divisible by 5, so that adding prompts never moves one across.

    Args:
        source: as `read_prompts` takes it.
        limit: keep only the first training prompts.

    Raises:
        DataError: what `read_prompts` refuses, or one side of the split empty.
    """
    sides = PromptSet([], [])
    for prompt, split in read_prompts(source):
        held = split == "heldout" or (split is None and held_out(prompt.id))
        (sides.heldout if held else sides.train).append(prompt)
    for name, side in zip(PromptSet._fields, sides, strict=True):
        if not side:
            raise DataError(
                f"prompts: {_told(source)} leaves no {name} prompt ({len(sides.train) + len(sides.heldout)} in all);"
                f' add prompts or give some the key "split": "{name}"'
            )
    return PromptSet(sides.train[:limit], sides.heldout)


def _told(source: str | Sequence[Mapping[str, Any]]) -> str:
    return source if isinstance(source, str) else "what was given"


def held_out(prompt_id: str) -> bool:
    """Return whether the fixed rule holds a prompt out of training."""
    return int(hashlib.sha256(prompt_id.encode()).hexdigest(), 16) % HELDOUT_SHARE == 0


def _file(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    path = Path(str(files("foresighted.prompts") / "bundled.jsonl")) if source == "bundled" else Path(source)
    return ((row.where, row.values) for row in rows_of(path, lines="prompt"))


def _hub(source: str) -> list[tuple[str, Any]]:
    parts = source.split(":")
    if len(parts) != 4:
        raise DataError(f"prompts: got {source!r}; expected hub:DATASET:SPLIT:COLUMN or hub:DATASET@CONFIGURATION:...")
    _, dataset, split, column = parts
    name, _, configuration = dataset.partition("@")
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"prompts: {source} needs the datasets library (pip install 'foresighted[hub]')") from None
    try:
        data = load_dataset(name, configuration or None, split=split)
        texts = data[column]
    except Exception as error:  # the library raises many kinds, all of them the user's to mend
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"prompts: {source} cannot be read ({reason}); or give a .jsonl file") from None
    return [(f"{source}, row {n}", {"prompt": text, "id": f"{n}"}) for n, text in enumerate(texts)]


def _prompt(where: str, row: Mapping[str, Any]) -> tuple[Prompt, str | None]:
    text = prompt_of(row, where)
    return Prompt(id_of(row, where) or text_id(text), text, kind_of(row, where) or "unspecified"), split_of(row, where)


def split_of(row: Mapping[str, Any], where: str) -> str | None:
    """Return the split that a row asks for, None where it asks for none; raises `DataError` where there is no such."""
    split = name_of(row.get("split"), "split", where)
    if split not in (None, "train", "heldout"):
        raise DataError(f'{where}: split {split!r}; expected "train" or "heldout"')
    return split


def id_of(row: Mapping[str, Any], where: str) -> str | None:
    """Return the id that a row gives its prompt, None where it gives none; raises `DataError` where it is no name."""
    keys = ("id", key_of("prompt_id", row))
    return next((name for key in keys if key and (name := name_of(row.get(key), key, where)) is not None), None)


def kind_of(row: Mapping[str, Any], where: str) -> str | None:
    """Return the kind of a row's prompt, None where it has none: a list of topics, say, is none."""
    key = key_of("kind", row)
    value = row[key] if key else None
    return name_of(value, str(key), where) if isinstance(value, str | int | float) else None


INITIAL_EPOCH = 2**32
"""The order of the reward model's first pairs: one of its own, that no epoch of training uses."""


def order(count: int, *, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch visits `count` prompts: a permutation that depends on seed and epoch only."""
    return [int(i) for i in np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)]
