"""Whose answers: from `NAME=MODEL` to texts. A model is loaded, answers every prompt, and is let go."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from foresighted.alignment.given import PROMPTS
from foresighted.errors import ConfigError, DataError, RunError
from foresighted.inputs import shown
from foresighted.judging.rows import AnswerRow
from foresighted.judging.settings import EvaluateConfig, Named
from foresighted.prompts import kind_of as kind_of_prompt
from foresighted.settings import TrainConfig, from_mapping, read_yaml
from foresighted.settings.typed import OBJECT
from foresighted.store.aliases import key_of, not_there
from foresighted.store.directory import CONFIG, kind_of
from foresighted.store.exchanges import has_prompt, name_of, prompt_of, response_of, whole_of
from foresighted.store.foreign import Row, rows_of
from foresighted.store.formats import named_as_rows
from foresighted.types import Prompt

if TYPE_CHECKING:
    import torch

    from foresighted.models.policy import Decoding, Policy

_log = logging.getLogger(__name__)


class Source(NamedTuple):
    """Where the answers of one policy and training seed come from."""

    name: str
    seed: int
    kind: Literal["file", "run", "model"]
    place: str


def sources(named: Sequence[Named]) -> list[Source]:
    """Return one source a policy and seed; an arm's directory gives all its seeds.

    Raises:
        ConfigError: a path that is not there, or a directory that is none of what a policy can be.
    """
    found: list[Source] = []
    for one in named:
        path = Path(expanduser(one.source))
        _check_path(one, path)
        folders = {file.parent.name.removeprefix("seed-"): str(file.parent) for file in path.glob(f"seed-*/{CONFIG}")}
        runs = sorted((int(text), folder) for text, folder in folders.items() if text.isdecimal())
        if runs and not (path / CONFIG).exists():
            if one.seed is not None:
                raise ConfigError(f"policies: {one.name}@{one.seed}={path} holds several seeds; leave @{one.seed} off")
            found += [Source(one.name, seed, "run", folder) for seed, folder in runs]
        else:
            found.append(_source(one, path))
    return found


def _check_path(one: Named, path: Path) -> None:
    """Refuse a name that no path has, or that lies behind a closed folder; one that is not there may be on the hub."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # a ValueError of a null byte
        told = getattr(error, "strerror", None) or error
        raise ConfigError(f"policies: {one.name}: {shown(one.source)} cannot be opened ({told})") from None


def _source(one: Named, path: Path) -> Source:
    seed = one.seed or 0
    if path.exists() and not path.is_dir():  # the reader says of a FIFO what it is
        return Source(one.name, seed, "file", str(path))
    if kind_of(path) == "run":
        return Source(one.name, seed, "run", str(path))
    if path.is_dir() and not any((path / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise ConfigError(
            f"policies: {one.name}={path} is none of a model folder (config.json), a PEFT adapter"
            " (adapter_config.json), a run of foresighted train and an arm of foresighted compare (seed-0, ...)"
        )
    if not path.exists() and (one.source.startswith((".", "/", "~")) or named_as_rows(path)):
        raise ConfigError(f"policies: {one.name}: no file or folder {one.source}")
    return Source(one.name, seed, "model", one.source)


def trained_on(source: Source) -> str | None:
    """Return the prompt source that a run was trained on; None for anything else."""
    if source.kind != "run":
        return None
    prompts = str(read_yaml(Path(source.place) / CONFIG).get("prompts", TrainConfig().prompts))
    return str(Path(source.place) / PROMPTS) if prompts.startswith(OBJECT) else prompts


class Answer(NamedTuple):
    """One row of a file of answers."""

    where: str
    """File and line, for messages."""
    prompt_id: str | None
    prompt: str | None
    kind: str | None
    text: str
    seed: int
    tokens: int | None


def file_answers(source: Source) -> list[Answer]:
    """Return the rows of a file of answers, as `store.foreign.rows_of` reads files.

    Raises:
        DataError: unreadable, or a row without an answer, or that says neither by `prompt_id` nor by a prompt what was
            asked, with its place.
    """
    try:
        found = [_answer(row, source.seed) for row in rows_of(Path(source.place))]
    except DataError as error:
        raise DataError(f"policies: {error}") from None
    if not found:
        raise DataError(f"policies: {source.place} has no answer")
    return found


def _answer(row: Row, seed: int) -> Answer:
    where, values = row.where, row.values
    text = response_of(values, where)
    prompt = prompt_of(values, where) if has_prompt(values) else None
    key = key_of("prompt_id", values) or ("id" if prompt is None else None)
    name = name_of(values.get(key), key, where) if key else None
    if prompt is None and name is None:
        raise DataError(f"{where}: neither prompt_id nor prompt says what was asked: {not_there('prompt', values)}")
    own = whole_of(values.get("seed"), "seed", where)
    tokens = values.get("tokens")
    counted = whole_of(tokens, "tokens", where) if isinstance(tokens, int | float | str) else None
    return Answer(where, name, prompt, kind_of_prompt(values, where), text, seed if own is None else own, counted)


def answers_from_file(source: Source, prompts: Sequence[Prompt]) -> list[AnswerRow]:
    """Return the answers of a file to the prompts that were asked, found by `prompt_id`, else by the prompt's text.

    Raises:
        DataError: as `file_answers`, or two answers of one seed to one prompt.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    by_text = {prompt.text: prompt for prompt in prompts}
    rows: dict[tuple[int, str], AnswerRow] = {}
    for answer in file_answers(source):
        prompt = by_id.get(answer.prompt_id or "") if answer.prompt_id else None
        if prompt is None and answer.prompt is not None:
            prompt = by_text.get(answer.prompt)
        if prompt is None:
            continue
        if answer.prompt is not None and answer.prompt.strip() != prompt.text.strip():
            raise DataError(
                f"policies: {answer.where}: answers {answer.prompt[:40]!r}, but among the prompts {prompt.id!r} is"
                f" {prompt.text[:40]!r}; are they of one set?"
            )
        key = (answer.seed, prompt.id)
        if key in rows:
            raise DataError(f"policies: {answer.where}: prompt {prompt.id!r} is answered twice; keep one answer a seed")
        rows[key] = AnswerRow(source.name, answer.seed, prompt.id, prompt.text, prompt.kind, answer.text, answer.tokens)
    return list(rows.values())


def generate(
    config: EvaluateConfig, source: Source, prompts: Sequence[Prompt], *, policy: Policy
) -> Iterator[list[AnswerRow]]:
    """Yield answers, a batch of prompts at a time: greedy, or with noise that is a function of seed and prompt.

    Args:
        config: length, temperature and batch.
        source: whose name and seed the rows carry.
        prompts: to answer.
        policy: as `load` gives it.
    """
    from foresighted.models import noise

    for start in range(0, len(prompts), config.batch):
        batch = prompts[start : start + config.batch]
        keys = [noise.key(config.seed, "evaluate", prompt.id) for prompt in batch]
        answers = policy.sample([prompt.text for prompt in batch], 1, keys)
        yield [
            AnswerRow(source.name, source.seed, prompt.id, prompt.text, prompt.kind, text, tokens)
            for prompt, text, tokens in zip(batch, answers.texts, answers.lengths(), strict=True)
        ]


def load(config: EvaluateConfig, source: Source) -> Policy:
    """Load the policy of a source.

    Raises:
        ModelError: weights that are absent, of the wrong kind or not safetensors.
        RunError: a run without a whole checkpoint.
    """
    return _of_run(config, Path(source.place)) if source.kind == "run" else plain_policy(config, source.place)


def with_shared_system_prompt(config: EvaluateConfig, found: Sequence[Source]) -> EvaluateConfig:
    """Return the configuration with the system prompt that the runs were trained with, if they agree in one.

    A run and its base are then asked in the same way. Runs that differ keep their own, with a warning.
    """
    runs = [read_yaml(Path(source.place) / CONFIG).get("system_prompt") for source in found if source.kind == "run"]
    own = list(dict.fromkeys(runs))
    if config.system_prompt is not None or not own:
        return config
    if len(own) > 1:
        _log.warning("the runs were trained with different system prompts and keep them; --system-prompt gives one")
        return config
    return replace(config, system_prompt=own[0] if own[0] is None else str(own[0]))


def free(policy: Policy) -> None:
    """Let a policy's weights go, before the next one is loaded."""
    policy.model = None
    gc.collect()


def find_device(config: EvaluateConfig) -> torch.device:
    """Return the device of an evaluation, with the threads that were asked for.

    Raises:
        RunError: a device that torch does not know.
    """
    import torch

    from foresighted.alignment.players import find_device as of_run

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return of_run(TrainConfig(device=config.device))


def plain_policy(config: EvaluateConfig, source: str, *, setting: str = "policies") -> Policy:
    """Load a causal language model, or an adapter on its base, that nothing trains.

    Raises:
        ModelError: weights that are absent, of the wrong kind or not safetensors.
    """
    from foresighted.models.loading import load_plain_policy

    return load_plain_policy(
        source, find_device(config), _decoding(config), setting=setting, dtype=config.dtype,
        system_prompt=config.system_prompt,
    )  # fmt: skip  # one argument a line says no more


def _decoding(config: EvaluateConfig) -> Decoding:
    from foresighted.models.policy import Decoding

    return Decoding(config.max_new_tokens, min_new_tokens=1, temperature=config.temperature)


def _of_run(config: EvaluateConfig, out: Path) -> Policy:
    from foresighted.alignment import checkpoint
    from foresighted.models.loading import load_policy
    from foresighted.store.tensors import read_tensors

    trained = from_mapping(TrainConfig, read_yaml(out / CONFIG))
    if trained.policy.startswith(OBJECT):
        raise RunError(f"policies: {out} was trained from a Python object; give {out / 'policy'}, its last weights")
    folder = checkpoint.newest(out)
    if folder is None:
        raise RunError(f"policies: {out} has no whole checkpoint; wait for its first, or go on with train --resume")
    if config.system_prompt is not None:
        trained = replace(trained, system_prompt=config.system_prompt)
    policy = load_policy(trained, find_device(config))
    policy.decoding = _decoding(config)
    told = f"policies: {folder} has other parameters than {out / CONFIG} says; was that file changed?"
    read_tensors(folder / "policy.safetensors", policy.trainable(), told)
    return policy


def describe(named: Sequence[Named]) -> Mapping[str, str]:
    """Return name to source, several seeds of a policy with commas."""
    names = dict.fromkeys(one.name for one in named)
    return {name: ", ".join(one.source for one in named if one.name == name) for name in names}
