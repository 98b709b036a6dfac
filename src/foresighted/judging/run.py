"""A whole evaluation: answers, judgements, capabilities, result; a killed one goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.judging import capabilities as harness
from foresighted.judging import judging, policies, rubric
from foresighted.judging.asked import prompts_for
from foresighted.judging.cache import Cache
from foresighted.judging.directory import claim, claim_for_table
from foresighted.judging.endpoint import Endpoint
from foresighted.judging.judges import Judge, LocalJudge, check_local, local_judge
from foresighted.judging.judging import Pair
from foresighted.judging.policies import Source
from foresighted.judging.result import Evaluation, JudgeResult, read_evaluation, write_evaluation
from foresighted.judging.rows import (
    CAPABILITIES,
    TRANSIENT,
    AnswerRow,
    JudgementRow,
    key,
    read_rows,
)
from foresighted.judging.settings import EvaluateConfig, cache_file
from foresighted.judging.summary import LEVEL, summarise
from foresighted.judging.table import UNCATEGORISED, read_table
from foresighted.store.directory import ANSWERS, JUDGEMENTS
from foresighted.store.files import drop_torn_line
from foresighted.store.rows import append, write
from foresighted.types import Prompt

if TYPE_CHECKING:
    from foresighted.models.policy import Policy

Progress = Callable[[str, int, int], None]
"""Called with a name, how much of it is done, and of how much."""


def _silent(_name: str, _done: int, _total: int) -> None:
    pass


def evaluate(config: EvaluateConfig, out: Path, *, resume: bool = False, on_progress: Progress = _silent) -> Evaluation:
    """Answer, judge and report in a directory.

    Args:
        config: what to do.
        out: the directory.
        resume: go on with what is there (an empty directory starts anew).
        on_progress: told of answers, judgements and capabilities as they come.

    Returns:
        What `OUT/evaluation.json` then holds.

    Raises:
        ForesightedError: bad input; nothing that was in `out` before is changed.
    """
    plan = _plan(config)
    with claim(config, out, resume=resume):
        return _evaluate(config, plan, out, on_progress)


def _evaluate(config: EvaluateConfig, plan: Plan, out: Path, on_progress: Progress) -> Evaluation:
    for name in (ANSWERS, JUDGEMENTS, CAPABILITIES):
        drop_torn_line(out / name)
    answers, measured = _answers(config, plan, out, on_progress)
    answers, missing = judging.complete(answers)
    if not answers:
        raise DataError(
            "policies: no prompt was answered by all of them; do the files answer the prompts that were asked?"
        )
    judge, judgements = None, list[JudgementRow]()
    if config.judge is not None:
        judge, judgements = _judged(config, plan, answers, out, on_progress)
    names = policies.describe(config.named())
    capabilities = harness.capabilities(measured, next(iter(names)), seed=config.seed, level=LEVEL) if measured else ()
    result = summarise(
        names, answers, judgements, judge=judge, capabilities=capabilities, prompt_source=plan.prompt_source,
        missing=missing, seed=config.seed,
    )  # fmt: skip
    write_evaluation(out, result)
    _refuse_all_failed(result, out)
    return result


def evaluate_table(path: Path, *, baseline: str | None, seed: int, out: Path | None) -> Evaluation:
    """Report on judgements that were made elsewhere (`table.read_table`).

    Args:
        path: the CSV file.
        baseline: policy that comes first; default, the first that appears.
        seed: of the bootstrap.
        out: where to write `judgements.jsonl` and `evaluation.json`; None writes nothing.

    Raises:
        DataError: as `read_table`.
        RunError: `out` holds anything but an earlier result of a table.
    """
    table = read_table(path, baseline=baseline)
    result = summarise(
        dict.fromkeys(table.policies, str(path)), [], table.rows, judge=None, prompt_source=str(path), ordered=False,
        seed=seed,
    )  # fmt: skip
    if out is not None:
        with claim_for_table({"judgements": str(path), "baseline": baseline, "seed": seed}, out):
            write(out / JUDGEMENTS, table.rows)
            write_evaluation(out, result)
    return result


@dataclass(frozen=True)
class Plan:
    """What is to be done: sources, prompts and rubric, all read and checked."""

    sources: list[Source]
    prompt_source: str
    prompts: list[Prompt]
    rubric: rubric.Rubric
    judge: LocalJudge | None
    """A judge of the user's own, from its file: what is wrong with it shows before anything is generated."""


def _plan(config: EvaluateConfig) -> Plan:
    sources = policies.sources(config.named())
    if config.judge is not None and len({source.name for source in sources}) < 2:
        raise ConfigError("policies: a judge compares at least two; give NAME=MODEL,NAME=MODEL, or leave --judge off")
    own = rubric.load_rubric(config.rubric)
    if config.categories == "judge" and not own.categories:
        raise ConfigError(f"categories: the rubric {own.name} has no categories to ask for; use --categories kind")
    judge = None
    if config.uses_endpoint:
        Endpoint(config, own, Cache(None)).close()  # its key is asked for now, not after hours of answers
    elif config.judge is not None:
        check_local(config.judge)
        judge = local_judge(config) if "judge" in config.own_files else None
    if config.capabilities:
        harness.check(config)
        if files := [source.name for source in sources if source.kind == "file"]:
            raise ConfigError(f"capabilities: {files[0]} is a file of answers; a capability check needs its model")
    source, prompts = prompts_for(config, sources)
    return Plan(sources, source, prompts, own, judge)


@dataclass(frozen=True)
class Estimate:
    """What an evaluation would take, before anything is generated or sent."""

    answers: int
    pairs: int
    requests: int
    tokens: int
    """At most: answers of full length where there are none yet, and no two identical."""


def plan(config: EvaluateConfig, out: Path) -> Estimate:
    """Check everything that can be checked without loading a model, and estimate; writes nothing.

    Raises:
        ForesightedError: as `evaluate`.
    """
    todo = _plan(config)
    have = _still_true(read_rows(out / ANSWERS, AnswerRow) if (out / ANSWERS).exists() else [], todo)
    guess = "word " * config.max_new_tokens
    answers = []
    for source in todo.sources:
        known = policies.answers_from_file(source, todo.prompts) if source.kind == "file" else []
        fresh = [
            have.get((source.name, source.seed, p.id))
            or AnswerRow(source.name, source.seed, p.id, p.text, p.kind, f"{source.name}@{source.seed} {guess}")
            for p in todo.prompts
        ]
        answers += known or fresh
    generated = [row for row in answers if key(row) not in have]
    files = {source.name for source in todo.sources if source.kind == "file"}
    count = sum(row.policy not in files for row in generated)
    if config.judge is None:
        return Estimate(count, 0, 0, 0)
    every = judging.pairs(judging.complete(answers)[0], list(policies.describe(config.named())), _by_kind(todo))
    asked = sum(not pair.identical for pair in every)
    if not config.uses_endpoint:
        return Estimate(count, len(every), 0, 0)
    categories = [p.text for p in todo.prompts] if config.categories == "judge" else []
    with Endpoint(config, todo.rubric, Cache(None)) as judge:
        tokens = judging.estimate(judge, every) + sum(map(judge.estimate_category, categories))
    return Estimate(count, len(every), 2 * asked + len(categories), tokens)


Measured = dict[tuple[str, int], list[harness.TaskScores]]


def _answers(config: EvaluateConfig, todo: Plan, out: Path, on_progress: Progress) -> tuple[list[AnswerRow], Measured]:
    """Return the answers of every source, generating those that are not there yet, and the capabilities of each."""
    path, measured = out / ANSWERS, Measured()
    decoding = policies.with_shared_system_prompt(config, todo.sources)
    before = read_rows(path, AnswerRow) if path.exists() else []
    have = _still_true(before, todo)
    path.touch()
    for source in todo.sources:
        if source.kind == "file":
            written = policies.answers_from_file(source, todo.prompts)
            known_rows = set(before)
            append(path, [row for row in written if row not in known_rows])
            have |= {key(row): row for row in written}
            continue
        name = source.name if source.seed == 0 else f"{source.name}, seed {source.seed}"
        place = (source.name, source.seed)
        todo_here = [p for p in todo.prompts if (*place, p.id) not in have]
        known = harness.read_scores(out / CAPABILITIES, place, config) if config.capabilities else []
        tasks = [task for task in config.capabilities if task not in {one.task for one in known}]
        if todo_here or tasks:
            policy = policies.load(decoding, source)
            _note_environment(out, policy)
            for rows in policies.generate(decoding, source, todo_here, policy=policy):
                append(path, rows)
                have |= {key(row): row for row in rows}
                done = sum((*place, p.id) in have for p in todo.prompts)
                on_progress(f"answers of {name}", done, len(todo.prompts))
            known += _measured(config, policy, tasks, place, out, partial(on_progress, f"capabilities of {name}"))
            policies.free(policy)
        if known:
            measured[place] = known
    return list(have.values()), measured


def _still_true(before: Iterable[AnswerRow], todo: Plan) -> dict[tuple[object, ...], AnswerRow]:
    """Return the generated answers that stand: to a prompt that is asked and reads as it did. A file is read anew."""
    asked = {p.id: p.text for p in todo.prompts}
    places = {(source.name, source.seed) for source in todo.sources if source.kind != "file"}
    return {
        key(row): row for row in before if (row.policy, row.seed) in places and asked.get(row.prompt_id) == row.prompt
    }


def _measured(
    config: EvaluateConfig, policy: Policy, tasks: Sequence[str], place: tuple[str, int], out: Path,
    on_progress: Callable[[int, int], None],
) -> list[harness.TaskScores]:  # fmt: skip
    found: list[harness.TaskScores] = []
    for done, task in enumerate(tasks):
        on_progress(done, len(tasks))
        fresh = harness.measure(config, policy, [task])
        harness.append_scores(out / CAPABILITIES, place, config.capability_limit, fresh)
        found += fresh
        on_progress(done + 1, len(tasks))
    return found


def _note_environment(out: Path, policy: Policy) -> None:
    from foresighted.store.environment import write_environment

    write_environment(out, policy.device, ("openai", "lm_eval"))


def _by_kind(todo: Plan) -> dict[str, str]:
    kinds = {p.id: todo.rubric.kinds.get(p.kind, p.kind) for p in todo.prompts}
    return {name: UNCATEGORISED if kind == "unspecified" else kind for name, kind in kinds.items()}


@contextmanager
def _judge(config: EvaluateConfig, todo: Plan, out: Path) -> Iterator[Judge]:
    with ExitStack() as stack:
        if config.uses_endpoint:
            yield stack.enter_context(Endpoint(config, todo.rubric, Cache(cache_file(config, out))))
        else:
            yield todo.judge or local_judge(config)


def _judged(
    config: EvaluateConfig, todo: Plan, answers: Sequence[AnswerRow], out: Path, on_progress: Progress
) -> tuple[JudgeResult, list[JudgementRow]]:
    path = out / JUDGEMENTS
    have = {key(row): row for row in read_rows(path, JudgementRow)} if path.exists() else {}
    with _judge(config, todo, out) as judge:
        categories = _categories(config, todo, judge, have.values(), on_progress)
        every = judging.pairs(answers, list(policies.describe(config.named())), categories)
        fresh = judging.judge_pairs(
            judging.open_pairs(every, have.values()),
            judge,
            path,
            lambda done, total: on_progress("pairs judged", done, total),
        )
        have |= {key(row): row for row in fresh}
        rows = [have[pair.key] for pair in every]
        before = None
        with suppress(DataError):  # none yet, or one of an earlier version, which is written again
            before = read_evaluation(out).judge
        return _judge_result(config, todo, judge, rows, fresh, every, before), rows


def _categories(
    config: EvaluateConfig, todo: Plan, judge: Judge, have: Collection[JudgementRow], on_progress: Progress
) -> dict[str, str]:
    if config.categories == "kind" or not isinstance(judge, Endpoint):
        return _by_kind(todo)
    found = {row.prompt_id: row.category for row in have if row.category != UNCATEGORISED}
    unknown = [p for p in todo.prompts if p.id not in found]
    named = judge.categories(p.text for p in unknown)
    for done, (prompt, category) in enumerate(zip(unknown, named, strict=True), start=1):
        found[prompt.id] = category or UNCATEGORISED  # a failed categorisation is no category
        on_progress("prompts categorised", done, len(unknown))
    return found


def _judge_result(
    config: EvaluateConfig, todo: Plan, judge: Judge, rows: Sequence[JudgementRow], fresh: Sequence[JudgementRow],
    every: Sequence[Pair], before: JudgeResult | None,
) -> JudgeResult:  # fmt: skip
    tokens = [_total([getattr(row, name) for row in rows]) for name in ("tokens_prompt", "tokens_completion")]
    if not isinstance(judge, Endpoint):
        return JudgeResult(config.judge or "", None, None, None, config.categories, 0, 0, 0, None, None, 0)
    texts = {row.text for pair in every for row in (pair.first, pair.second)}
    for place, number in enumerate(judge.category_tokens):
        tokens[place] = (tokens[place] or 0) + number if number else tokens[place]
    return JudgeResult(
        name=config.judge or "",
        base_url=judge.base_url,
        rubric=todo.rubric.name,
        mode=judge.mode if judge.asked or before is None else before.mode,
        categories=config.categories,
        sent=judge.sent,
        cached=sum(row.cached for row in fresh),
        tokens_estimated=sum(row.tokens_estimated for row in rows),
        tokens_prompt=tokens[0],
        tokens_completion=tokens[1],
        defused=sum(map(rubric.holds_control, texts)),
    )


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _refuse_all_failed(result: Evaluation, out: Path) -> None:
    failures: dict[str, int] = {}
    for pair in result.pairs:
        for kind, number in pair.failures.items():
            failures[kind] = failures.get(kind, 0) + number
    if failures and all(pair.counts.judged == pair.identical for pair in result.pairs):
        kinds = ", ".join(f"{kind} {number}" for kind, number in failures.items())
        advice = "go on with --resume" if set(failures) & set(TRANSIENT) else "use another judge"
        raise RunError(
            f"judge: every pair that was asked about failed ({kinds}); see failure_detail in {out / JUDGEMENTS}, then"
            f" {advice}"
        )
