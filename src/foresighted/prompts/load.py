"""Read prompts, split them by a fixed rule, order them by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foresighted.errors import DataError
from foresighted.store.aliases import ALIASES, key_of
from foresighted.store.rows import numbered, read_lines
from foresighted.types import Prompt

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


def read_prompts(source: str | Sequence[Mapping[str, Any]]) -> list[tuple[Prompt, str | None]]:
    """Read prompts in order, each with the split that its file gives it, or None.

    Args:
        source: 'bundled', 'truthfulqa', a .jsonl or .txt file, or hub:DATASET[@CONFIGURATION]:SPLIT:COLUMN, or
            rows with the keys of a .jsonl file.

    Raises:
        DataError: unreadable, empty, a bad line (with its number) or a repeated id.
    """
    if isinstance(source, str):
        named = NAMED.get(source, source)
        rows = _hub(named) if named.startswith("hub:") else _file(source)
    else:
        rows = [(f"row {n}", row) for n, row in enumerate(source)]
    seen: set[str] = set()
    found = []
    for where, row in rows:
        prompt, split = _prompt(where, row)
        if prompt.id in seen:
            raise DataError(f"prompts: {where}: id {prompt.id!r} stands twice; make ids unique")
        seen.add(prompt.id)
        found.append((prompt, split))
    if not found:
        raise DataError(f"prompts: {_told(source)} has no prompt; give at least one a line")
    return found


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


def _file(source: str) -> list[tuple[str, Any]]:
    path = Path(str(files("foresighted.prompts") / "bundled.jsonl")) if source == "bundled" else Path(source)
    try:
        if path.suffix == ".jsonl":
            return [(f"{path}, line {n}", row) for n, row in numbered(path, ours=False)]
        return [(f"{path}, line {n}", {"prompt": line}) for n, line in read_lines(path)]
    except DataError as error:
        raise DataError(f"prompts: {error}") from None


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


def _prompt(where: str, row: Any) -> tuple[Prompt, str | None]:
    text = row.get(key_of("prompt", row))
    if not isinstance(text, str) or not text.strip():
        names = ", ".join(ALIASES["prompt"][1:])
        raise DataError(f'prompts: {where}: no text under "prompt" (or {names}); expected {{"prompt": "..."}}')
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(f"prompts: {where}: holds half of a surrogate pair, which is no text; mend the escape")
    split = row.get("split")
    if split not in (None, "train", "heldout"):
        raise DataError(f'prompts: {where}: split {split!r}; expected "train" or "heldout"')
    return Prompt(str(row.get("id", text_id(text))), text, str(row.get("kind", "unspecified"))), split


def order(count: int, *, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch visits `count` prompts: a permutation that depends on seed and epoch only."""
    return [int(i) for i in np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)]
