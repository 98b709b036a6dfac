"""What a directory of ours holds: the plan of its `config.yaml`, and the runs that were evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from foresighted.errors import ConfigError, DataError
from foresighted.settings import read_yaml
from foresighted.store.directory import arm_directory, start_directory
from foresighted.store.records import HELDOUT, INITIAL_PAIRS, ROUNDS, HeldoutRow, PairRow, RoundRow
from foresighted.store.rows import read


@dataclass(frozen=True)
class Run:
    """One arm with one seed, as far as it got."""

    arm: str
    seed: int
    answers: dict[int, dict[str, HeldoutRow]]
    """Held-out answers by round and prompt; whole rounds only."""
    rounds: list[RoundRow]
    initial_labels: int

    @property
    def done(self) -> int:
        """Rounds that were played."""
        return self.rounds[-1].round if self.rounds else 0


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


def read_runs(out: Path) -> tuple[Plan, list[Run]]:
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
                runs.append(Run(arm, seed, answers, rounds, initial))
    return plan, runs
