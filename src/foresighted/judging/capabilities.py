"""Capability checks through lm-evaluation-harness: has the policy lost what it knew?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from foresighted.errors import ConfigError, DataError, nearest
from foresighted.judging.result import Capability
from foresighted.judging.settings import EvaluateConfig
from foresighted.statistics.intervals import Interval, mean_interval, paired_interval
from foresighted.store.rows import append, numbered

if TYPE_CHECKING:
    from foresighted.models.policy import Policy

_METRICS = ("acc_norm", "acc", "exact_match", "em", "f1", "mc2", "mc1")
"""Metrics in order of preference: one a task, so that nobody chooses after the fact."""


class TaskScores(NamedTuple):
    """One task for one policy and seed: item id to score."""

    task: str
    metric: str
    scores: Mapping[str, float]
    available: int


def check(config: EvaluateConfig) -> None:
    """Check that the harness is there and knows the tasks, before anything is generated.

    Raises:
        ConfigError: it is not installed, the folder of tasks is not there, or a task is unknown.
    """
    _manager(config)


def _manager(config: EvaluateConfig) -> Any:
    folder = config.capability_tasks
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ConfigError(f"capability_tasks: no folder {folder}")
    own = str(Path(folder).expanduser().resolve()) if folder else None
    if own is not None:
        manager = _tasks(own, defaults=False)
        if set(config.capabilities) <= set(manager.all_tasks):
            return manager
    manager = _tasks(own, defaults=True)
    for task in config.capabilities:
        if task not in manager.all_tasks:
            raise ConfigError(
                f"capabilities: lm-evaluation-harness has no task {task!r}{nearest(task, manager.all_tasks)}"
            )
    return manager


@lru_cache(maxsize=4)
def _tasks(folder: str | None, *, defaults: bool) -> Any:
    """Return the harness's index of tasks. Its own takes many seconds, so it is read only where it is needed."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ConfigError(
            "capabilities: need lm-evaluation-harness; pip install 'foresighted[capabilities]', or leave them off"
        ) from None
    _quieten()
    try:
        return TaskManager(include_path=folder, include_defaults=defaults)
    except Exception as error:  # the harness raises many kinds, all of them the user's to mend
        raise ConfigError(f"capability_tasks: {folder} cannot be read ({_line(error)})") from None


def append_scores(path: Path, place: tuple[str, int], limit: int | None, measured: Sequence[TaskScores]) -> None:
    """Append the items' scores of one policy and training seed to `capabilities.jsonl`."""
    append(path, [{"policy": place[0], "seed": place[1], "limit": limit, **one._asdict()} for one in measured])


def read_scores(path: Path, place: tuple[str, int], config: EvaluateConfig) -> list[TaskScores]:
    """Return what is measured already of one policy and training seed, with the same limit of items.

    Raises:
        DataError: a line that is not what `append_scores` writes, with its number.
    """
    found = {}
    for number, row in numbered(path) if path.exists() else []:
        try:
            own = (row["policy"], row["seed"]) == place and row["limit"] == config.capability_limit
            scores = {str(item): float(score) for item, score in row["scores"].items()}
            one = TaskScores(str(row["task"]), str(row["metric"]), scores, int(row["available"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(f"{path}, line {number}: not the scores of a task; remove this line") from None
        if own and one.task in config.capabilities:
            found[one.task] = one
    return list(found.values())


def measure(config: EvaluateConfig, policy: Policy, tasks: Sequence[str]) -> list[TaskScores]:
    """Return the scores of a policy on each task, item by item. A group of tasks (mmlu) counts as one.

    Args:
        config: limit of items a task, and where tasks are found.
        tasks: their names.
        policy: whose model is asked, without sampling noise and without chat template (the harness's own default).

    Raises:
        DataError: a task whose data cannot be reached, or without a metric of single items.
    """
    manager = _manager(config)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=config.batch, backend="causal")
    found = []
    for task in tasks:
        try:
            results = simple_evaluate(
                model=model, tasks=[task], task_manager=manager, limit=config.capability_limit, log_samples=True,
                bootstrap_iters=0, random_seed=config.seed, numpy_random_seed=config.seed,
                torch_random_seed=config.seed, fewshot_random_seed=config.seed,
            )  # fmt: skip
        except Exception as error:  # as above: no network, no such data set, a faulty task file
            raise DataError(
                f"capabilities: {task} cannot be run ({_line(error)}); are its data reachable? A task on files of your"
                " own needs --capability-tasks DIR"
            ) from None
        found.append(_scores(task, results))
    return found


def _scores(task: str, results: Mapping[str, Any]) -> TaskScores:
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = results["samples"]
    every = [sample for rows in samples.values() for sample in rows]
    metric = next((name for name in _METRICS if every and all(_number(sample.get(name)) for sample in every)), None)
    if metric is None:
        names = sorted({name for sample in every[:1] for name, value in sample.items() if _number(value)} - {"doc_id"})
        raise DataError(
            f"capabilities: {task} has none of the metrics {', '.join(_METRICS)} for single items"
            f" (it has {', '.join(names) or 'none'})"
        )
    scores = {f"{name}/{row['doc_id']}": float(row[metric]) for name, rows in samples.items() for row in rows}
    counts = results.get("n-samples") or {}
    available = sum(int(counts.get(name, {}).get("original", len(rows))) for name, rows in samples.items())
    return TaskScores(task, metric, scores, available)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer)


def capabilities(
    measured: Mapping[tuple[str, int], Sequence[TaskScores]], baseline: str, *, seed: int, level: float
) -> list[Capability]:
    """Return scores with intervals over seeds and items, and differences to the baseline paired by item.

    Args:
        measured: (policy, training seed) to its tasks.
        baseline: what differences are taken from, on the training seeds that both have.
        seed: of the bootstrap.
        level: of the intervals.

    Returns:
        One result a task and policy.
    """
    tasks = dict.fromkeys((one.task, one.metric) for many in measured.values() for one in many)
    names = dict.fromkeys(name for name, _ in measured)
    found = []
    for task, metric in tasks:
        of_task = {place: next(one for one in many if one.task == task) for place, many in measured.items()}
        for name in names:
            own = {s: one.scores for (policy, s), one in of_task.items() if policy == name}
            other = {s: one.scores for (policy, s), one in of_task.items() if policy == baseline}
            items = sorted(set.intersection(*(set(scores) for scores in (*own.values(), *other.values()))))
            score = mean_interval(_grid(own, list(own), items), seed=seed, level=level)
            difference = None if name == baseline else _difference(own, other, items, seed, level)
            available = max(one.available for one in of_task.values())
            found.append(Capability(name, task, metric, tuple(own), len(items), available, score, difference))
    return found


def _difference(
    own: Mapping[int, Mapping[str, float]],
    other: Mapping[int, Mapping[str, float]],
    items: Sequence[str],
    seed: int,
    level: float,
) -> Interval | None:
    if len(other) == 1:
        met = [(s, next(iter(other))) for s in own]
    elif len(own) == 1:
        met = [(next(iter(own)), s) for s in other]
    else:
        met = [(s, s) for s in own if s in other]
    if not met:
        return None
    mine, theirs = _grid(own, [a for a, _ in met], items), _grid(other, [b for _, b in met], items)
    return paired_interval(mine, theirs, seed=seed, level=level)


def _grid(scores: Mapping[int, Mapping[str, float]], seeds: Sequence[int], items: Sequence[str]) -> Any:
    return np.array([[scores[s][item] for item in items] for s in seeds], np.float64)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _quieten() -> None:
    for name in ("lm_eval", "lm-eval", "datasets", "evaluate"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
