"""Capability checks through lm-evaluation-harness: has the policy lost what it knew?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foresighted.errors import ConfigError, DataError, nearest, one_line
from foresighted.judging.pairs import meetings
from foresighted.judging.policies import Source
from foresighted.judging.result import Capability
from foresighted.judging.settings import EvaluateConfig
from foresighted.statistics.intervals import mean_interval, paired_interval
from foresighted.store.rows import read

if TYPE_CHECKING:
    from foresighted.models.policy import Policy

_METRICS = ("acc_norm", "acc", "exact_match", "em", "f1", "mc2", "mc1")
"""Metrics in order of preference: one a task, so that nobody chooses after the fact."""
_SHOWN = 200  # characters of an error


@dataclass(frozen=True)
class TaskScores:
    """A row of `capabilities.jsonl`: one task for one policy and training seed."""

    policy: str
    seed: int
    limit: int | None
    """Items asked for; null for all."""
    task: str
    metric: str
    scores: Mapping[str, float]
    """Item to score."""
    available: int
    """Items that the task has."""


def task_manager(config: EvaluateConfig) -> Any:
    """Return the harness's index of tasks, which knows those that are asked for.

    Raises:
        ConfigError: it is not installed, the folder of tasks is not there, or a task is unknown.
    """
    folder = config.capability_tasks
    if folder is not None and not Path(expanduser(folder)).is_dir():
        raise ConfigError(f"capability_tasks: no folder {folder}")
    own = str(Path(expanduser(folder)).resolve()) if folder else None
    if own is not None:
        manager = tasks(own, defaults=False)
        if set(config.capabilities) <= set(manager.all_tasks):
            return manager
    manager = tasks(own, defaults=True)
    for task in config.capabilities:
        if task not in manager.all_tasks:
            raise ConfigError(
                f"capabilities: lm-evaluation-harness has no task {task!r}{nearest(task, manager.all_tasks)}"
            )
    return manager


@lru_cache(maxsize=4)
def tasks(folder: str | None, *, defaults: bool) -> Any:
    """Return the harness's index of tasks. Its own takes many seconds, so it is read only where it is needed."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ConfigError(
            "capabilities: need lm-evaluation-harness; pip install 'foresighted[capabilities]', or leave them off"
        ) from None
    for name in ("lm_eval", "lm-eval", "datasets", "evaluate"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return TaskManager(include_path=folder, include_defaults=defaults)
    except Exception as error:  # the harness raises many kinds, all of them the user's to mend
        raise ConfigError(f"capability_tasks: {folder} cannot be read ({one_line(error)[:_SHOWN]})") from None


def read_scores(path: Path, config: EvaluateConfig) -> dict[tuple[str, int, str], TaskScores]:
    """Return what is measured already, with the same limit of items: (policy, training seed, task) to scores.

    Raises:
        DataError: a line that is not what was written, with its number.
    """
    rows = read(path, TaskScores) if path.exists() else []
    return {(row.policy, row.seed, row.task): row for row in rows if row.limit == config.capability_limit}


def measure(config: EvaluateConfig, source: Source, policy: Policy, task: str) -> TaskScores:
    """Return the scores of a policy on a task, item by item. A group of tasks (mmlu) counts as one.

    Args:
        config: limit of items, and where tasks are found.
        source: whose name and seed the row carries.
        policy: whose model is asked, without sampling noise and without chat template (the harness's own default).
        task: its name.

    Raises:
        DataError: a task whose data cannot be reached, or without a metric of single items.
    """
    manager = task_manager(config)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=config.batch, backend="causal")
    kinds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    try:
        results = simple_evaluate(
            model=model, tasks=[task], task_manager=manager, limit=config.capability_limit, log_samples=True,
            bootstrap_iters=0, **dict.fromkeys(kinds, config.seed),
        )  # fmt: skip
    except Exception as error:  # as above: no network, no such data set, a faulty task file
        raise DataError(
            f"capabilities: {task} cannot be run ({one_line(error)[:_SHOWN]}); are its data reachable? A task on files"
            " of your own needs --capability-tasks DIR"
        ) from None
    return _scores(config, source, task, results)


def _scores(config: EvaluateConfig, source: Source, task: str, results: Mapping[str, Any]) -> TaskScores:
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
    return TaskScores(source.name, source.seed, config.capability_limit, task, metric, scores, available)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer)


def capabilities(measured: Sequence[TaskScores], baseline: str, *, seed: int, level: float) -> list[Capability]:
    """Return scores with intervals over seeds and items, and differences to the baseline paired by item.

    Args:
        measured: each task for each policy and training seed.
        baseline: what differences are taken from, on the training seeds that both have.
        seed: of the bootstrap.
        level: of the intervals.

    Returns:
        One result a task and policy.
    """
    found = []
    for task in dict.fromkeys(one.task for one in measured):
        of_task = [one for one in measured if one.task == task]
        for name in dict.fromkeys(one.policy for one in of_task):
            own = {one.seed: one.scores for one in of_task if one.policy == name}
            other = {one.seed: one.scores for one in of_task if one.policy == baseline}
            items = sorted(set.intersection(*(set(scores) for scores in (*own.values(), *other.values()))))
            score = mean_interval(_grid(own, list(own), items), seed=seed, level=level)
            met = [] if name == baseline else meetings(list(own), list(other))
            sides = (_grid(own, [s for _, s, _ in met], items), _grid(other, [s for _, _, s in met], items))
            difference = paired_interval(*sides, seed=seed, level=level) if met else None
            available, metric = max(one.available for one in of_task), of_task[0].metric
            found.append(Capability(name, task, metric, tuple(own), len(items), available, score, difference))
    return found


def _grid(scores: Mapping[int, Mapping[str, float]], seeds: Sequence[int], items: Sequence[str]) -> Any:
    return np.array([[scores[s][item] for item in items] for s in seeds], np.float64)
