"""A comparison of arms, read from its records alone: trajectories, collapse, paired differences, and what they say.

A *run* is one arm with one seed. Runs that did every round are finished and carry the comparison, up to the last
evaluated round that all of them share; an arm without any finished run is shown as far as it got and compared with
nothing; while no run is finished, all started ones are read up to their last common round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from foresighted.alignment.compared import Arm, Comparison, Evaluated, Labels, Spread, Trained, sentences
from foresighted.alignment.played import Plan, Run, read_runs
from foresighted.errors import DataError
from foresighted.statistics.collapse import ArmFalls, family_size, judge_arm
from foresighted.statistics.intervals import Interval, mean_interval, paired_interval, wilson_share
from foresighted.statistics.layout import choose_layout
from foresighted.statistics.numbers import Floats, Ints
from foresighted.store.records import RoundRow

LEVEL = 0.95
RESAMPLING_SEED = 0
TRAINING_COLUMNS = tuple(field.name for field in fields(RoundRow) if field.name != "round")


def summarise(out: Path) -> Comparison:
    """Read a comparison directory, or the run directory of one `foresighted train`, and summarise it.

    Args:
        out: holds `config.yaml` and either `arms/` (comparison) or the record files themselves (one run).

    Returns:
        The comparison; a single run is a comparison of one arm and one seed.

    Raises:
        DataError: no held-out answer yet, arms or seeds that were asked different held-out prompts, or a bad record.
        ConfigError: `config.yaml` cannot be read.
    """
    plan, runs = read_runs(out)
    if not runs:
        raise DataError(f"{out}: no held-out answers yet; wait for the first evaluation, or check the directory")
    planned_rounds = plan.rounds or max(run.done for run in runs)
    finished = _finished(runs, planned_rounds)
    common = set.intersection(*(set(run.answers) for run in finished or runs))
    if not common:
        raise DataError(f"{out}: the runs have no evaluated round in common; were they started with one configuration?")
    last_round = max(common)
    by_arm = {arm: [[run for run in some if run.arm == arm] for some in (finished, runs)] for arm in plan.arms}
    groups = {arm: done or started for arm, (done, started) in by_arm.items() if started}
    prompts, with_utility = _prompts(groups.values(), out)
    baseline = groups.get(plan.arms[0])
    family = family_size([len(group) for group in groups.values()])
    every = list(groups.values())
    arms = tuple(
        _arm(
            group, baseline, [other for other in every[:place] if other is not baseline], last_round, prompts,
            with_utility, finished=all(run in finished for run in group), family=family,
        )
        for place, group in enumerate(every)
    )  # fmt: skip
    bare = Comparison(
        plan.arms, plan.seeds, planned_rounds, last_round, len(prompts), LEVEL, bool(finished), arms,
        tuple(_missing(plan, runs, finished, planned_rounds)), (),
    )  # fmt: skip
    return replace(bare, sentences=sentences(bare))


def _finished(runs: Sequence[Run], planned_rounds: int) -> list[Run]:
    """Return the runs that did every round and were evaluated as late as any of those."""
    trained = [run for run in runs if run.done >= planned_rounds]
    latest = max((max(run.answers) for run in trained), default=0)
    return [run for run in trained if latest in run.answers]


def _missing(plan: Plan, runs: Sequence[Run], finished: Sequence[Run], planned_rounds: int) -> Iterable[str]:
    started = {(run.arm, run.seed): run for run in runs}
    for arm in plan.arms:
        for seed in plan.seeds:
            run = started.get((arm, seed))
            if run is None:
                yield f"{arm}, seed {seed} (nothing evaluated yet)"
            elif run not in finished:
                yield f"{arm}, seed {seed} (round {run.done} of {planned_rounds})"


def _prompts(groups: Iterable[Sequence[Run]], out: Path) -> tuple[list[str], list[str]]:
    """Return the prompts that every run answered in every round, and those whose utility is known throughout."""
    rounds = [answers for group in groups for run in group for answers in run.answers.values()]
    prompts = set.intersection(*(set(answers) for answers in rounds))
    if not prompts:
        raise DataError(f"{out}: no held-out prompt was answered in every run; a comparison asks all of them the same")
    with_utility = {prompt for prompt in prompts if all(answers[prompt].utility is not None for answers in rounds)}
    return sorted(prompts), sorted(with_utility)


def _grid(runs: Sequence[Run], round_: int, prompts: Sequence[str], column: str) -> Floats:
    return np.array([[getattr(run.answers[round_][prompt], column) for prompt in prompts] for run in runs], np.float64)


def _mean(grid: Floats) -> Interval:
    return mean_interval(grid, seed=RESAMPLING_SEED, level=LEVEL)


def _difference(values: Floats, baseline: Floats) -> Interval:
    return paired_interval(values, baseline, seed=RESAMPLING_SEED, level=LEVEL)


def _prompt_deviation(grid: Floats) -> float:
    """Return the prompt-to-prompt standard deviation within a seed (root mean square over seeds); 0 for one prompt."""
    return math.sqrt(float(grid.var(axis=1, ddof=1).mean())) if grid.shape[1] > 1 else 0.0


def _arm(
    runs: Sequence[Run],
    baseline: Sequence[Run] | None,
    earlier: Sequence[Sequence[Run]],
    last_round: int,
    prompts: Sequence[str],
    with_utility: Sequence[str],
    *,
    finished: bool,
    family: int,
) -> Arm:
    common = set.intersection(*(set(run.answers) for run in runs))
    rounds = sorted(round_ for round_ in common if round_ <= last_round) or [min(common)]
    last = rounds[-1]
    evaluated = tuple(_evaluated(runs, round_, rounds[0], prompts, with_utility) for round_ in rounds)
    falls = _falls(runs, last, family) if with_utility else None
    alone = (falls.seeds or (falls.mean,)) if falls else ()
    share = wilson_share(sum(fall.collapsed for fall in alone), len(runs), level=LEVEL) if alone else None
    return Arm(
        label=runs[0].arm,
        finished=finished,
        seeds=tuple(run.seed for run in runs),
        last_round=last,
        labels=tuple(_labels(run, last) for run in runs),
        evaluated=evaluated,
        trained=_trained(runs, last),
        final_utility=evaluated[-1].utility,
        best_utility=_mean(_grid(runs, falls.mean.best, with_utility, "utility")) if falls else None,
        final_reward=evaluated[-1].reward,
        collapse=falls.mean if falls else None,
        to_last=falls.to_last if falls else None,
        seed_collapses=falls.seeds if falls else (),
        collapsed_share=share,
        utility_change=_since_first(runs, rounds, with_utility, "utility"),
        reward_change=_since_first(runs, rounds, prompts, "reward"),
        utility_difference=_from_another(runs, baseline, last_round, with_utility, "utility"),
        reward_difference=_from_another(runs, baseline, last_round, prompts, "reward"),
        earlier_differences={
            other[0].arm: difference
            for other in earlier
            if (difference := _from_another(runs, other, last_round, with_utility, "utility")) is not None
        },
    )


def _since_first(runs: Sequence[Run], rounds: Sequence[int], prompts: Sequence[str], column: str) -> Interval | None:
    if len(rounds) < 2 or not prompts:
        return None
    return _difference(*(_grid(runs, round_, prompts, column) for round_ in (rounds[-1], rounds[0])))


def _evaluated(
    runs: Sequence[Run], round_: int, first: int, prompts: Sequence[str], with_utility: Sequence[str]
) -> Evaluated:
    gap = utility = None
    if with_utility:
        utility = _mean(_grid(runs, round_, with_utility, "utility"))
        growth = {}
        for column in ("reward", "utility"):
            start = _grid(runs, first, with_utility, column)
            deviation = _prompt_deviation(start)
            growth[column] = (_grid(runs, round_, with_utility, column) - start) / deviation if deviation else None
        if growth["reward"] is not None and growth["utility"] is not None:
            gap = _difference(growth["reward"], growth["utility"])
    values = {
        column: _mean(_grid(runs, round_, prompts, column))
        for column in ("reward", "tokens", "distinct_1", "distinct_2")
    }
    known = all(run.answers[round_][prompt].kl is not None for run in runs for prompt in prompts)
    kl = _mean(_grid(runs, round_, prompts, "kl")) if known else None
    return Evaluated(round=round_, utility=utility, gap=gap, kl=kl, **values)


@dataclass(frozen=True)
class _Heldout:
    """Held-out answers of an arm whose utility is known, as columns."""

    round: Ints
    prompt: Ints
    run: Ints
    utility: Floats
    reward: Floats


def _falls(runs: Sequence[Run], last_round: int, family: int) -> ArmFalls | None:
    """Judge collapse as the audit does: by every answer whose utility is known, up to `last_round`."""
    rows = [
        (row.round, row.prompt_id, place, row.utility, row.reward)
        for place, run in enumerate(runs)
        for round_, answers in run.answers.items()
        for row in answers.values()
        if round_ <= last_round and row.utility is not None
    ]
    if not rows:
        return None
    rounds, prompts, places, utility, reward = zip(*rows, strict=True)
    codes = {prompt: code for code, prompt in enumerate(sorted(set(prompts)))}
    table = _Heldout(
        np.array(rounds), np.array([codes[prompt] for prompt in prompts]), np.array(places),
        np.array(utility, np.float64), np.array(reward, np.float64),
    )  # fmt: skip
    known = np.ones(len(rows), bool)
    seeds = [str(run.seed) for run in runs]
    layout = choose_layout(table, known)
    return judge_arm(table, table.utility, table.reward, known, layout, seeds=seeds, family=family)


def _from_another(
    runs: Sequence[Run], others: Sequence[Run] | None, round_: int, prompts: Sequence[str], column: str
) -> Interval | None:
    """Return this arm minus another at `round_` on the seeds that both have; None where there is none."""
    if not others or not prompts or others[0].arm == runs[0].arm:
        return None
    theirs = {run.seed: run for run in others if round_ in run.answers}
    pairs = [(run, theirs[run.seed]) for run in runs if run.seed in theirs and round_ in run.answers]
    if not pairs:
        return None
    mine, other = ([pair[i] for pair in pairs] for i in (0, 1))
    return _difference(_grid(mine, round_, prompts, column), _grid(other, round_, prompts, column))


def _labels(run: Run, last_round: int) -> Labels:
    totals = [row.labels_total for row in run.rounds if row.round <= last_round]
    total = totals[-1] if totals else run.initial_labels
    return Labels(run.seed, run.initial_labels, total - run.initial_labels, total)


def _trained(runs: Sequence[Run], last_round: int) -> tuple[Trained, ...]:
    values: dict[int, dict[str, list[float]]] = {}
    for row in (row for run in runs for row in run.rounds if row.round <= last_round):
        known = values.setdefault(row.round, {})
        for name in TRAINING_COLUMNS:
            if (value := getattr(row, name)) is not None:
                known.setdefault(name, []).append(float(value))
    spread = {
        round_: {name: Spread(math.fsum(some) / len(some), min(some), max(some)) for name, some in known.items()}
        for round_, known in values.items()
    }
    return tuple(Trained(round_, spread[round_]) for round_ in sorted(spread))
