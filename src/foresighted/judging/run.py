"""A whole evaluation: answers, judgements, capabilities, result; a killed one goes on where it was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import yaml

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.judging import capabilities as harness
from foresighted.judging import kept, pairs, policies
from foresighted.judging.cache import Cache
from foresighted.judging.endpoint import Endpoint
from foresighted.judging.judges import Judge, local_judge
from foresighted.judging.pairs import Pair
from foresighted.judging.plan import Plan, planned
from foresighted.judging.result import Evaluation, JudgeResult, read_evaluation, write_evaluation
from foresighted.judging.rows import (
    CAPABILITIES,
    TRANSIENT,
    UNCATEGORISED,
    AnswerRow,
    JudgementRow,
    key,
    read_rows,
    total,
)
from foresighted.judging.rubric import holds_control
from foresighted.judging.settings import DIGESTS, MAY_CHANGE_ON_RESUME, EvaluateConfig, cache_file
from foresighted.judging.summary import LEVEL, summarise
from foresighted.judging.table import read_table
from foresighted.settings import read_yaml, to_yaml
from foresighted.store.directory import ANSWERS, CONFIG, JUDGEMENTS, Claim, check_claim, claimed, kind_of
from foresighted.store.environment import write_environment
from foresighted.store.files import sha256
from foresighted.store.rows import append, write

Progress = Callable[[str, int, int], None]
"""Called with a name, how much of it is done, and of how much."""


def evaluate(
    config: EvaluateConfig, out: Path, *, resume: bool = False, on_progress: Progress = lambda *_: None
) -> Evaluation:
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
    plan = planned(config)
    with _claimed(config, out, resume=resume):
        return _evaluate(config, plan, out, on_progress)


@contextmanager
def _claimed(config: EvaluateConfig, out: Path, *, resume: bool) -> Iterator[None]:
    """As `store.directory.claimed`, without answers of a policy or verdicts by a file that are not asked for now."""
    try:
        digests = {name: sha256(path) for name, path in config.own_files.items()}
    except OSError as error:
        raise ConfigError(f"config: {error.filename} cannot be read ({error.strerror})") from None
    if kind_of(out) == "evaluation" and (out / CONFIG).exists():
        named = [str(policy) for policy in read_yaml(out / CONFIG).get("policies") or []]
        there = {row.policy for row in read_rows(out / ANSWERS, AnswerRow)}
        gone = [policy for policy in named if policy not in config.policies and re.split("[=@]", policy)[0] in there]
        if gone:
            raise RunError(f"out: {out} has answers of {gone[0]}, which --policies does not name; choose another --out")
    text = to_yaml(config) + (yaml.safe_dump({DIGESTS: digests}) if digests else "")
    own = Claim("evaluation", text, (*MAY_CHANGE_ON_RESUME, DIGESTS))
    before = check_claim(own, out, resume=resume).get(DIGESTS)
    changed = [name for name in digests if isinstance(before, dict) and before.get(name) != digests[name]]
    if changed and (out / JUDGEMENTS).exists():
        raise RunError(
            f"{changed[0]}: {config.own_files[changed[0]]} is not as it was when {out / JUDGEMENTS} was written; put it"
            " back, remove that file to have every pair judged anew, or choose another --out"
        )
    with claimed(own, out, resume=resume, look=lambda: kept.check(out, config)):
        kept.pin(out, config)
        try:
            yield
        finally:
            kept.pin_at_last(out, config)


def _evaluate(config: EvaluateConfig, plan: Plan, out: Path, on_progress: Progress) -> Evaluation:
    answers, measured = _answers(config, plan, out, on_progress)
    kept.pin(out, config)
    answers, missing = pairs.complete(answers, plan.names)
    if not answers:
        raise DataError(
            "policies: no prompt was answered by all of them; do the files answer the prompts that were asked?"
        )
    judge, judgements = None, list[JudgementRow]()
    if config.judge is not None:
        judge, judgements = _judged(config, plan, answers, out, on_progress)
    baseline = next(iter(plan.names))
    capabilities = harness.capabilities(measured, baseline, seed=config.seed, level=LEVEL) if measured else ()
    result = summarise(
        plan.names, answers, judgements, judge=judge, capabilities=capabilities, prompt_source=plan.prompt_source,
        missing=missing, seed=config.seed,
    )  # fmt: skip
    write_evaluation(out, result)
    _refuse_all_failed(config, result, judgements, out)
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
        dict.fromkeys(table.policies, str(path)), [], table.rows, judge=None, prompt_source=str(path), seed=seed
    )
    if out is not None:
        asked = {"judgements": str(path), "baseline": baseline, "seed": seed}
        text = yaml.safe_dump(asked, sort_keys=False, allow_unicode=True)
        with claimed(Claim("table", text, tuple(asked)), out, resume=True):  # over an earlier one
            write(out / JUDGEMENTS, table.rows)
            write_evaluation(out, result)
    return result


def _answers(
    config: EvaluateConfig, plan: Plan, out: Path, on_progress: Progress
) -> tuple[list[AnswerRow], list[harness.TaskScores]]:
    """Return the answers of every source, generating those that are not there yet, and the capabilities of each."""
    path = out / ANSWERS
    measured = harness.read_scores(out / CAPABILITIES, config) if config.capabilities else {}
    decoding = policies.with_shared_system_prompt(config, plan.sources)
    before = read_rows(path, AnswerRow)
    have = plan.standing(before)
    path.touch()
    for source in plan.sources:
        if source.kind == "file":
            written = policies.answers_from_file(source, plan.prompts)
            known_rows = set(before)
            append(path, [row for row in written if row not in known_rows])
            have |= {key(row): row for row in written}
            continue
        name = source.name if source.seed == 0 else f"{source.name}, seed {source.seed}"
        place = (source.name, source.seed)
        todo = [p for p in plan.prompts if (*place, p.id) not in have]
        tasks = [task for task in config.capabilities if (*place, task) not in measured]
        if todo or tasks:
            policy = policies.load(decoding, source)
            write_environment(out, policy.device, ("openai", "lm_eval"))
            for rows in policies.generate(decoding, source, todo, policy=policy):
                append(path, rows)
                have |= {key(row): row for row in rows}
                done = sum((*place, p.id) in have for p in plan.prompts)
                on_progress(f"answers of {name}", done, len(plan.prompts))
            for done, task in enumerate(tasks, start=1):
                on_progress(f"capabilities of {name}", done - 1, len(tasks))
                measured[*place, task] = harness.measure(config, source, policy, task)
                append(out / CAPABILITIES, [measured[*place, task]])
                on_progress(f"capabilities of {name}", done, len(tasks))
            policies.free(policy)
    asked = [(source.name, source.seed, task) for source in plan.sources for task in config.capabilities]
    return list(have.values()), [measured[one] for one in asked]


@contextmanager
def _judge(config: EvaluateConfig, plan: Plan, out: Path) -> Iterator[Judge]:
    if not config.uses_endpoint:
        yield plan.judge or local_judge(config)
        return
    with closing(Endpoint(config, plan.rubric, Cache(cache_file(config, out)))) as judge:
        yield judge


def _judged(
    config: EvaluateConfig, plan: Plan, answers: Sequence[AnswerRow], out: Path, on_progress: Progress
) -> tuple[JudgeResult, list[JudgementRow]]:
    path = out / JUDGEMENTS
    have = {key(row): row for row in read_rows(path, JudgementRow)}
    with _judge(config, plan, out) as judge:
        categories = _categories(config, plan, judge, have.values(), on_progress)
        every = pairs.every_pair(answers, list(plan.names), categories)
        todo = pairs.open_pairs(every, have.values())
        fresh = pairs.judge_pairs(todo, judge, path, partial(on_progress, "pairs judged"))
        have |= {key(row): row for row in fresh}
        rows = [have[pair.key] for pair in every]
        before = None
        with suppress(DataError):  # none yet, or one of an earlier version, which is written again
            before = read_evaluation(out).judge
        return _judge_result(config, plan, judge, rows, fresh, every, before), rows


def _categories(
    config: EvaluateConfig, plan: Plan, judge: Judge, have: Collection[JudgementRow], on_progress: Progress
) -> dict[str, str]:
    if config.categories == "kind" or not isinstance(judge, Endpoint):
        return plan.categories()
    found = {row.prompt_id: row.category for row in have if row.category != UNCATEGORISED}
    unknown = [p for p in plan.prompts if p.id not in found]
    named = judge.categories(p.text for p in unknown)
    for done, (prompt, category) in enumerate(zip(unknown, named, strict=True), start=1):
        found[prompt.id] = category or UNCATEGORISED  # a failed categorisation is no category
        on_progress("prompts categorised", done, len(unknown))
    return found


def _judge_result(
    config: EvaluateConfig, plan: Plan, judge: Judge, rows: Sequence[JudgementRow], fresh: Sequence[JudgementRow],
    every: Sequence[Pair], before: JudgeResult | None,
) -> JudgeResult:  # fmt: skip
    if not isinstance(judge, Endpoint):
        return JudgeResult(config.judge or "", None, None, None, config.categories, 0, 0, 0, None, None, 0)
    texts = {row.text for pair in every for row in (pair.first, pair.second)}
    read, written = judge.category_tokens
    return JudgeResult(
        name=config.judge or "",
        base_url=judge.base_url,
        rubric=plan.rubric.name,
        mode=judge.mode if judge.asked or before is None else before.mode,
        categories=config.categories,
        sent=judge.sent,
        cached=sum(row.cached for row in fresh),
        tokens_estimated=sum(row.tokens_estimated for row in rows),
        tokens_prompt=total([*(row.tokens_prompt for row in rows), read or None]),
        tokens_completion=total([*(row.tokens_completion for row in rows), written or None]),
        defused=sum(map(holds_control, texts)),
    )


def _refuse_all_failed(config: EvaluateConfig, result: Evaluation, rows: Sequence[JudgementRow], out: Path) -> None:
    failures = sum((Counter(pair.failures) for pair in result.pairs), Counter[str]())
    if failures and all(pair.counts.judged == pair.identical for pair in result.pairs):
        kinds = ", ".join(f"{kind} {number}" for kind, number in failures.items())
        example = next((row.failure_detail for row in rows if row.failure and row.failure_detail), "")
        advice = "go on with --resume" if set(failures) & set(TRANSIENT) else "use another judge"
        if "cut" in failures:
            advice = f"go on with --resume and more than --max-reply-tokens {config.max_reply_tokens}"
        raise RunError(
            f"judge: every pair that was asked about failed ({kinds}), the first with: {example}; see failure_detail in"
            f" {out / JUDGEMENTS}, then {advice}"
        )
