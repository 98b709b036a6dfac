"""What an evaluation will do, all read and checked before a model is loaded, and about what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from foresighted.errors import ConfigError, DataError
from foresighted.judging import pairs, policies
from foresighted.judging.cache import Cache
from foresighted.judging.capabilities import task_manager
from foresighted.judging.endpoint import Endpoint
from foresighted.judging.judges import LocalJudge, local_judge
from foresighted.judging.policies import Source
from foresighted.judging.rows import UNCATEGORISED, AnswerRow, key, read_rows
from foresighted.judging.rubric import Rubric, load_rubric
from foresighted.judging.settings import EvaluateConfig
from foresighted.prompts import load_prompts, read_prompts, text_id
from foresighted.store.directory import ANSWERS
from foresighted.types import Prompt


@dataclass(frozen=True)
class Plan:
    """Sources, prompts and rubric of an evaluation."""

    names: Mapping[str, str]
    """Policy to its source, in words."""
    sources: Sequence[Source]
    prompt_source: str
    prompts: Sequence[Prompt]
    rubric: Rubric
    judge: LocalJudge | None
    """A judge of the user's own, from its file: what is wrong with it shows before anything is generated."""

    def standing(self, before: Iterable[AnswerRow]) -> dict[tuple[object, ...], AnswerRow]:
        """Return the generated answers that still count: to a prompt that reads as it did. A file is read anew."""
        asked = {p.id: p.text for p in self.prompts}
        places = {(source.name, source.seed) for source in self.sources if source.kind != "file"}
        rows = (row for row in before if (row.policy, row.seed) in places)
        return {key(row): row for row in rows if asked.get(row.prompt_id) == row.prompt}

    def categories(self) -> dict[str, str]:
        """Return the category of each prompt by its kind, as the rubric names it."""
        kinds = {p.id: self.rubric.kinds.get(p.kind, p.kind) for p in self.prompts}
        return {name: UNCATEGORISED if kind == "unspecified" else kind for name, kind in kinds.items()}


def planned(config: EvaluateConfig) -> Plan:
    """Return what is to be done.

    Raises:
        ForesightedError: anything that can be seen without loading a model.
    """
    sources = policies.sources(config.named())
    if config.judge is not None and len({source.name for source in sources}) < 2:
        raise ConfigError("policies: a judge compares at least two; give NAME=MODEL,NAME=MODEL, or leave --judge off")
    rubric = load_rubric(config.rubric)
    if config.categories == "judge" and not rubric.categories:
        raise ConfigError(f"categories: the rubric {rubric.name} has no categories to ask for; use --categories kind")
    judge = None
    if config.uses_endpoint:
        Endpoint(config, rubric, Cache(None)).close()  # its key is asked for now, not after hours of answers
    elif "judge" in config.own_files:
        judge = local_judge(config)
    if config.capabilities:
        task_manager(config)
        if files := [source.name for source in sources if source.kind == "file"]:
            raise ConfigError(f"capabilities: {files[0]} is a file of answers; a capability check needs its model")
    return Plan(policies.describe(config.named()), sources, *prompts_for(config, sources), rubric, judge)


def prompts_for(config: EvaluateConfig, sources: Sequence[Source]) -> tuple[str, list[Prompt]]:
    """Return where prompts come from, in words, and the prompts: bundled, of a file, or those that answers hold.

    Raises:
        DataError: unreadable prompts, none left, or files of answers that hold no text of a prompt.
    """
    if config.prompts is None and all(source.kind == "file" for source in sources):
        name, prompts = "files of answers", _of_answers(sources)
    else:
        name, split = config.prompts or "bundled", config.split
        if split == "auto":
            trained = {policies.trained_on(source) for source in sources}
            split = "heldout" if name == "bundled" or name in trained else "all"
        whole = split == "all"
        prompts = [prompt for prompt, _ in read_prompts(name)] if whole else getattr(load_prompts(name), split)
        name = name if whole else f"{name} ({split})"
    if not prompts:
        raise DataError(f"prompts: {name} has no prompt; give at least one a line")
    return name, prompts[: config.prompt_limit]


def _of_answers(sources: Sequence[Source]) -> list[Prompt]:
    found: dict[str, Prompt] = {}
    for answer in (answer for source in sources for answer in policies.file_answers(source)):
        if answer.prompt is not None:
            name = answer.prompt_id or text_id(answer.prompt)
            found.setdefault(name, Prompt(name, answer.prompt, answer.kind or "unspecified"))
    if not found:
        raise ConfigError("prompts: the files of answers hold ids of prompts and no prompt; give --prompts FILE")
    return list(found.values())


class Estimate(NamedTuple):
    """What an evaluation would take, before anything is generated or sent."""

    answers: int
    pairs: int
    requests: int = 0
    tokens: int = 0
    """At most: answers of full length where there are none yet, and no two identical."""


def estimated(config: EvaluateConfig, out: Path) -> Estimate:
    """Check everything that can be checked without loading a model, and estimate; writes nothing.

    Raises:
        ForesightedError: as `run.evaluate`.
    """
    plan = planned(config)
    answers = list(plan.standing(read_rows(out / ANSWERS, AnswerRow)).values())
    known, fresh = {key(row) for row in answers}, 0
    for source in plan.sources:
        if source.kind == "file":
            answers += policies.answers_from_file(source, plan.prompts)
            continue
        guess = f"{source.name}@{source.seed} {'word ' * config.max_new_tokens}"
        todo = [p for p in plan.prompts if (source.name, source.seed, p.id) not in known]
        answers += [AnswerRow(source.name, source.seed, p.id, p.text, p.kind, guess) for p in todo]
        fresh += len(todo)
    if config.judge is None:
        return Estimate(fresh, 0)
    complete, _ = pairs.complete(answers, plan.names)
    every = pairs.every_pair(complete, list(plan.names), plan.categories())
    if not config.uses_endpoint:
        return Estimate(fresh, len(every))
    categories = [p.text for p in plan.prompts] if config.categories == "judge" else []
    with closing(Endpoint(config, plan.rubric, Cache(None))) as judge:
        tokens = pairs.estimate(judge, every) + sum(map(judge.estimate_category, categories))
    asked = sum(not pair.identical for pair in every)
    return Estimate(fresh, len(every), 2 * asked + len(categories), tokens)
