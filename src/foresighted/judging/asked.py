"""Which prompts are asked: of the bundled set, of a file, or those that files of answers hold."""

from __future__ import annotations

from collections.abc import Sequence

from foresighted.errors import ConfigError, DataError
from foresighted.judging.policies import Source, file_answers, trained_on
from foresighted.judging.settings import EvaluateConfig
from foresighted.prompts import load_prompts, read_prompts, text_id
from foresighted.types import Prompt

FROM_ANSWERS = "files of answers"


def prompts_for(config: EvaluateConfig, sources: Sequence[Source]) -> tuple[str, list[Prompt]]:
    """Return where prompts come from, in words, and the prompts.

    Raises:
        DataError: unreadable prompts, none left, or files of answers that hold no text of a prompt.
    """
    if config.prompts is None and all(source.kind == "file" for source in sources):
        prompts, name = _of_answers(sources), FROM_ANSWERS
    else:
        name = config.prompts or "bundled"
        split = _split(config, name, sources)
        whole = split == "all"
        prompts = [prompt for prompt, _ in read_prompts(name)] if whole else getattr(load_prompts(name), split)
        name = f"{name} ({split})" if split != "all" else name
    if not prompts:
        raise DataError(f"prompts: {name} has no prompt; give at least one a line")
    return name, prompts[: config.prompt_limit]


def _split(config: EvaluateConfig, name: str, sources: Sequence[Source]) -> str:
    if config.split != "auto":
        return config.split
    trained = {trained_on(source) for source in sources}
    return "heldout" if name == "bundled" or name in trained else "all"


def _of_answers(sources: Sequence[Source]) -> list[Prompt]:
    """Return the prompts that the files' own lines name, in order of appearance."""
    found: dict[str, Prompt] = {}
    for source in sources:
        for line in file_answers(source):
            text = line.get("prompt")
            if isinstance(text, str) and text.strip():
                name = str(line.get("prompt_id", text_id(text)))
                found.setdefault(name, Prompt(name, text, str(line.get("kind", "unspecified"))))
    if not found:
        raise ConfigError("prompts: the files of answers hold no text under 'prompt'; give --prompts FILE")
    return list(found.values())
