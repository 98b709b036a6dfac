"""A comparison of arms, read from its records alone: trajectories, collapse, paired differences, and what they say.

A *run* is one arm with one seed. Runs that did every round are finished and carry the comparison, up to the last
evaluated round that all of them share; an arm without any finished run is shown as far as it got and compared with
nothing; while no run is finished, all started ones are read up to their last common round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from foresighted.alignment.sentences import PROXY_FELL
from foresighted.errors import ConfigError, DataError
from foresighted.settings import read_yaml
from foresighted.statistics.intervals import (
    Grid,
    Interval,
    Share,
    mean_interval,
    paired_interval,
    wilson_share,
)
from foresighted.store.records import (
    HELDOUT,
    INITIAL_PAIRS,
    ROUNDS,
    HeldoutRow,
    PairRow,
    RoundRow,
    arm_directory,
    read,
    start_directory,
)

LEVEL = 0.95
RESAMPLING_SEED = 0
FALL_SHARE = 0.5
"""A fall counts from this share of the prompt-to-prompt standard deviation at round 0 on."""

TRAINING_COLUMNS = tuple(field.name for field in fields(RoundRow) if field.name != "round")


@dataclass(frozen=True)
class Labels:
    """Preferences that one run read: for the initial pairs, then for selection and training."""

    seed: int
    initial: int
    later: int
    total: int


@dataclass(frozen=True)
class Evaluated:
    """Held-out means after `round` rounds. `gap`: growth of proxy reward minus growth of true utility since the first
    evaluated round, each in prompt-to-prompt standard deviations of that round."""

    round: int
    utility: Interval | None
    reward: Interval
    gap: Interval | None
    kl: Interval | None
    tokens: Interval
    distinct_1: Interval
    distinct_2: Interval


@dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest over seeds."""

    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Trained:
    """One training round: each column of `RoundRow` that is known, over seeds."""

    round: int
    columns: Mapping[str, Spread]


@dataclass(frozen=True)
class Collapse:
    """Whether true utility fell while proxy reward did not, from the best evaluated round to the last one.

    collapsed = fall > threshold, the paired interval of the fall excludes 0, and proxy reward did not fall.
    Proxy reward fell where its own change is negative and either its interval excludes 0 or it exceeds half of its
    own prompt-to-prompt standard deviation: the two ways in which a fall of utility is told from noise.
    """

    seed: int | None
    """None: the mean over seeds."""
    collapsed: bool
    best_round: int
    last_round: int
    fall: Interval
    threshold: float
    reward_change: Interval
    reason: str


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison. Differences are `this arm - baseline` on the seeds both have; None where unknown."""

    label: str
    finished: bool
    seeds: tuple[int, ...]
    last_round: int
    labels: tuple[Labels, ...]
    evaluated: tuple[Evaluated, ...]
    trained: tuple[Trained, ...]
    final_utility: Interval | None
    best_utility: Interval | None
    final_reward: Interval
    collapse: Collapse | None
    seed_collapses: tuple[Collapse, ...]
    collapsed_share: Share | None
    utility_difference: Interval | None
    reward_difference: Interval | None


@dataclass(frozen=True)
class Comparison:
    """What the records of a comparison say. The first planned arm is the baseline."""

    planned_arms: tuple[str, ...]
    planned_seeds: tuple[int, ...]
    planned_rounds: int
    last_round: int
    prompts: int
    level: float
    any_finished: bool
    arms: tuple[Arm, ...]
    missing: tuple[str, ...]

    @property
    def utility_known(self) -> bool:
        """Whether the records hold true utilities of held-out answers."""
        return any(arm.final_utility is not None for arm in self.arms)

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as plain JSON values; a bound that is infinite becomes None."""
        mapping: dict[str, Any] = _plain(asdict(self))
        mapping["sentences"] = list(self.sentences)
        return mapping

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return what was seen, in plain English, with intervals, label counts and the numbers of seeds and prompts."""
        from foresighted.alignment.sentences import sentences

        return sentences(self)


@dataclass(frozen=True)
class _Run:
    arm: str
    seed: int
    answers: dict[int, dict[str, HeldoutRow]]
    """Held-out answers by round and prompt; whole rounds only."""
    rounds: list[RoundRow]
    initial_labels: int

    @property
    def done(self) -> int:
        return self.rounds[-1].round if self.rounds else 0


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
    carrying = finished or runs
    common = set.intersection(*(set(run.answers) for run in carrying))
    if not common:
        raise DataError(f"{out}: the runs have no evaluated round in common; were they started with one configuration?")
    last_round = max(common)
    groups: dict[str, list[_Run]] = {}
    for arm in plan.arms:
        of_arm = [run for run in finished if run.arm == arm] or [run for run in runs if run.arm == arm]
        if of_arm:
            groups[arm] = of_arm
    prompts, with_utility = _prompts(groups.values(), out)
    baseline = groups.get(plan.arms[0])
    arms = tuple(
        _arm(group, baseline, last_round, prompts, with_utility, all(run in finished for run in group))
        for group in groups.values()
    )
    return Comparison(
        plan.arms, plan.seeds, planned_rounds, last_round, len(prompts), LEVEL, bool(finished), arms,
        tuple(_missing(plan, runs, finished, planned_rounds)),
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a directory was to hold."""

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    rounds: int
    single: bool
    """The directory is itself one run."""


def read_plan(out: Path) -> Plan:
    """Return the arms, seeds and rounds that `OUT/config.yaml` names.

    Raises:
        DataError: the directory is neither a comparison nor a run.
        ConfigError: `config.yaml` cannot be read, or a seed is no whole number.
    """
    config = read_yaml(out / "config.yaml")
    rounds = config.get("rounds")
    rounds = rounds if isinstance(rounds, int) else 0
    if "arms" in config:
        arms, seeds = config["arms"], config.get("seeds", [0])
        if not isinstance(arms, list) or not arms or not isinstance(seeds, list) or not seeds:
            raise DataError(f"{out / 'config.yaml'}: arms and seeds must be lists with at least one entry")
        return Plan(tuple(map(str, arms)), tuple(_seed(seed, out) for seed in seeds), rounds, False)
    if not (out / ROUNDS).exists() and not (out / HELDOUT).exists():
        raise DataError(
            f"{out}: neither a comparison (config.yaml names no arms) nor a run (no {ROUNDS}, no {HELDOUT})"
        )
    label = str(config.get("steering") or out.resolve().name)
    return Plan((label,), (_seed(config.get("seed", 0), out),), rounds, True)


def _seed(value: object, out: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"config: {out / 'config.yaml'}: a seed is {value!r}; expected a whole number")
    return value


def run_directory(out: Path, plan: Plan, arm: str, seed: int) -> Path:
    """Return where the records of one run are."""
    return out if plan.single else arm_directory(out, arm, seed)


def whole_rounds(rows: Iterable[HeldoutRow]) -> dict[int, dict[str, HeldoutRow]]:
    """Return answers by round and prompt, without rounds that lack prompts of the first one (still being written)."""
    answers: dict[int, dict[str, HeldoutRow]] = {}
    for row in rows:
        answers.setdefault(row.round, {})[row.prompt_id] = row
    if not answers:
        return {}
    asked = set(answers[min(answers)])
    return {round_: answers[round_] for round_ in sorted(answers) if asked <= set(answers[round_])}


def read_runs(out: Path) -> tuple[Plan, list[_Run]]:
    """Return the plan, and the runs that have at least one whole evaluated round."""
    plan = read_plan(out)
    runs = []
    for arm in plan.arms:
        for seed in plan.seeds:
            directory = run_directory(out, plan, arm, seed)
            if not (directory / HELDOUT).exists():
                continue
            answers = whole_rounds(read(directory / HELDOUT, HeldoutRow))
            rounds = read(directory / ROUNDS, RoundRow) if (directory / ROUNDS).exists() else []
            pairs = start_directory(out, seed) / INITIAL_PAIRS
            initial = len(read(pairs, PairRow)) if pairs.exists() else 0
            if answers:
                runs.append(_Run(arm, seed, answers, rounds, initial))
    return plan, runs


def _finished(runs: Sequence[_Run], planned_rounds: int) -> list[_Run]:
    """Return the runs that did every round and were evaluated as late as any of those."""
    trained = [run for run in runs if run.done >= planned_rounds]
    latest = max((max(run.answers) for run in trained), default=0)
    return [run for run in trained if latest in run.answers]


def _missing(plan: Plan, runs: Sequence[_Run], finished: Sequence[_Run], planned_rounds: int) -> Iterable[str]:
    started = {(run.arm, run.seed): run for run in runs}
    for arm in plan.arms:
        for seed in plan.seeds:
            run = started.get((arm, seed))
            if run is None:
                yield f"{arm}, seed {seed} (nothing evaluated yet)"
            elif run not in finished:
                yield f"{arm}, seed {seed} (round {run.done} of {planned_rounds})"


def _prompts(groups: Iterable[Sequence[_Run]], out: Path) -> tuple[list[str], list[str]]:
    """Return the prompts that every run answered in every round, and those whose utility is known throughout."""
    rounds = [answers for group in groups for run in group for answers in run.answers.values()]
    prompts = set.intersection(*(set(answers) for answers in rounds))
    if not prompts:
        raise DataError(f"{out}: no held-out prompt was answered in every run; a comparison asks all of them the same")
    with_utility = {prompt for prompt in prompts if all(answers[prompt].utility is not None for answers in rounds)}
    return sorted(prompts), sorted(with_utility)


def _grid(runs: Sequence[_Run], round_: int, prompts: Sequence[str], column: str) -> Grid:
    return np.array([[getattr(run.answers[round_][prompt], column) for prompt in prompts] for run in runs], np.float64)


def _mean(grid: Grid) -> Interval:
    return mean_interval(grid, seed=RESAMPLING_SEED, level=LEVEL)


def _difference(values: Grid, baseline: Grid) -> Interval:
    return paired_interval(values, baseline, seed=RESAMPLING_SEED, level=LEVEL)


def _prompt_deviation(grid: Grid) -> float:
    """Return the prompt-to-prompt standard deviation within a seed (root mean square over seeds); 0 for one prompt."""
    return math.sqrt(float(grid.var(axis=1, ddof=1).mean())) if grid.shape[1] > 1 else 0.0


def _arm(
    runs: Sequence[_Run],
    baseline: Sequence[_Run] | None,
    last_round: int,
    prompts: Sequence[str],
    with_utility: Sequence[str],
    finished: bool,
) -> Arm:
    common = set.intersection(*(set(run.answers) for run in runs))
    rounds = sorted(round_ for round_ in common if round_ <= last_round) or [min(common)]
    last = rounds[-1]
    rewards = {round_: _grid(runs, round_, prompts, "reward") for round_ in rounds}
    utilities = {round_: _grid(runs, round_, with_utility, "utility") for round_ in rounds} if with_utility else {}
    evaluated = tuple(_evaluated(runs, round_, rounds[0], prompts, with_utility) for round_ in rounds)
    collapse: Collapse | None = None
    seed_collapses: tuple[Collapse, ...] = ()
    if utilities:
        paired_rewards = {round_: _grid(runs, round_, with_utility, "reward") for round_ in rounds}
        collapse = judge_collapse(utilities, paired_rewards)
        seed_collapses = tuple(
            judge_collapse(
                {round_: grid[i : i + 1] for round_, grid in utilities.items()},
                {round_: grid[i : i + 1] for round_, grid in paired_rewards.items()},
                seed=run.seed,
            )
            for i, run in enumerate(runs)
        )
    share = wilson_share(sum(c.collapsed for c in seed_collapses), len(runs), level=LEVEL) if seed_collapses else None
    return Arm(
        label=runs[0].arm,
        finished=finished,
        seeds=tuple(run.seed for run in runs),
        last_round=last,
        labels=tuple(_labels(run, last) for run in runs),
        evaluated=evaluated,
        trained=_trained(runs, last),
        final_utility=evaluated[-1].utility,
        best_utility=_mean(utilities[collapse.best_round]) if collapse else None,
        final_reward=_mean(rewards[last]),
        collapse=collapse,
        seed_collapses=seed_collapses,
        collapsed_share=share,
        utility_difference=_from_baseline(runs, baseline, last_round, with_utility, "utility"),
        reward_difference=_from_baseline(runs, baseline, last_round, prompts, "reward"),
    )


def _evaluated(
    runs: Sequence[_Run], round_: int, first: int, prompts: Sequence[str], with_utility: Sequence[str]
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


def judge_collapse(utilities: Mapping[int, Grid], rewards: Mapping[int, Grid], *, seed: int | None = None) -> Collapse:
    """Judge collapse from the best evaluated round to the last one.

    Args:
        utilities: true utility of held-out answers by round, each (seeds, prompts); the first round sets the threshold.
        rewards: proxy reward of the same answers, the same rounds and shapes.
        seed: which seed the grids hold, or None for several.

    Returns:
        The verdict, with the fall and the change of proxy reward paired by seed and prompt.
    """
    rounds = sorted(utilities)
    last = rounds[-1]
    best = max(rounds, key=lambda round_: float(utilities[round_].mean()))
    threshold = FALL_SHARE * _prompt_deviation(utilities[rounds[0]])
    reward_threshold = FALL_SHARE * _prompt_deviation(rewards[rounds[0]])
    fall = _difference(utilities[best], utilities[last])
    change = _difference(rewards[last], rewards[best])
    reward_fell = change.mean < 0 and (change.excludes_zero or -change.mean > reward_threshold)
    reasons = {
        "the last evaluated round is the best one": best == last,
        "the fall is within half the prompt-to-prompt standard deviation at round 0": fall.mean <= threshold,
        "the interval of the fall includes 0": not fall.low > 0,
        PROXY_FELL: reward_fell,
    }
    against = [reason for reason, holds in reasons.items() if holds]
    reason = against[0] if against else "true utility fell while proxy reward did not"
    return Collapse(seed, not against, best, last, fall, threshold, change, reason)


def _from_baseline(
    runs: Sequence[_Run], baseline: Sequence[_Run] | None, round_: int, prompts: Sequence[str], column: str
) -> Interval | None:
    """Return this arm minus the baseline at `round_` on the seeds that both have; None where there is none."""
    if not baseline or not prompts or baseline[0].arm == runs[0].arm:
        return None
    theirs = {run.seed: run for run in baseline if round_ in run.answers}
    pairs = [(run, theirs[run.seed]) for run in runs if run.seed in theirs and round_ in run.answers]
    if not pairs:
        return None
    mine, other = ([pair[i] for pair in pairs] for i in (0, 1))
    return _difference(_grid(mine, round_, prompts, column), _grid(other, round_, prompts, column))


def _labels(run: _Run, last_round: int) -> Labels:
    totals = [row.labels_total for row in run.rounds if row.round <= last_round]
    total = totals[-1] if totals else run.initial_labels
    return Labels(run.seed, run.initial_labels, total - run.initial_labels, total)


def _trained(runs: Sequence[_Run], last_round: int) -> tuple[Trained, ...]:
    by_round: dict[int, list[RoundRow]] = {}
    for run in runs:
        for row in run.rounds:
            if row.round <= last_round:
                by_round.setdefault(row.round, []).append(row)
    trained = []
    for round_, rows in sorted(by_round.items()):
        columns = {}
        for name in TRAINING_COLUMNS:
            values = [float(value) for row in rows if (value := getattr(row, name)) is not None]
            if values:
                columns[name] = Spread(math.fsum(values) / len(values), min(values), max(values))
        trained.append(Trained(round_, columns))
    return tuple(trained)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
