"""A rehearsal: the loops are played side by side, held-out answers judged where no utility is known, and summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from foresighted.alignment.comparison import LEVEL, RESAMPLING_SEED, summarise
from foresighted.alignment.given import NAMES_ONLY, PROMPTS, Given
from foresighted.alignment.played import read_plan
from foresighted.alignment.rehearsal_text import sentences
from foresighted.alignment.rehearsed import Rehearsal, rehearsed
from foresighted.errors import DataError, RunError, Stopped
from foresighted.judging.heldout import judge_heldout, read_wins
from foresighted.labels.labellers import knows_utility
from foresighted.prompts import load_prompts
from foresighted.settings import MAY_CHANGE_ON_RESUME, RehearseConfig, TrainConfig, from_mapping, read_yaml, to_yaml
from foresighted.store.directory import CONFIG, LOOPS, Claim, claimed
from foresighted.store.environment import write_environment
from foresighted.store.rows import write, write_json

SUMMARY = "summary.json"
Ended = Stopped | RunError
"""An interrupt, or loops that came to no end of their own: the others are reported."""
Progress = Callable[[str, int, int], None]
"""Called with a name, how much of it is done, and of how much."""


def rehearse(
    config: RehearseConfig,
    out: Path,
    *,
    resume: bool = False,
    on_progress: Progress = lambda *_: None,
    given: Given = NAMES_ONLY,
) -> Ended | None:
    """Play a rehearsal in a directory, and write what it says to its `summary.json`.

    Args:
        config: what to play, its arms named.
        out: the directory; the loops lie in OUT/loops, as a comparison.
        resume: go on where an earlier call stopped.
        on_progress: told of rounds of all loops, then of judged pairs.
        given: objects in place of names.

    Returns:
        What ended it, or some of its loops, before the last round, where there is something to report all the same.

    Raises:
        ForesightedError: bad input; nothing that was in `out` before is changed.
        Stopped: after an interrupt, with nothing to report yet.
    """
    from foresighted.alignment.compare import compare
    from foresighted.alignment.players import find_device
    from foresighted.alignment.side_by_side import Run
    from foresighted.alignment.within import compare_within

    train, loops = config.train, out / LOOPS
    check_prompts(train, given)
    utility = knows_utility(train.labels, given.labels)
    device = find_device(train)
    claim = Claim("rehearsal", to_yaml(config), (*MAY_CHANGE_ON_RESUME, "minutes", "side_by_side", "arms", "seeds"))
    ended: Ended | None = None
    played = False

    def on_rounds(runs: Sequence[Run]) -> None:
        nonlocal played
        played = True
        rounds = read_plan(loops).rounds or train.rounds
        on_progress(f"{len(runs)} loops", sum(run.rounds_done for run in runs), len(runs) * rounds)

    with claimed(claim, out, resume=resume):
        write_environment(out, device)
        if given.prompts is not None:
            write(out / PROMPTS, given.prompts)
        try:
            if config.minutes is None:
                compare(config.comparison, loops, resume=True, on_progress=on_rounds, given=given)
            else:
                compare_within(config.comparison, loops, config.minutes, on_progress=on_rounds, given=given)
        except (Stopped, RunError) as error:
            if isinstance(error, RunError) and not played:  # of the input
                raise
            ended = error
        try:
            comparison = summarise(loops)
        except DataError as error:  # nothing was evaluated yet
            raise ended or error from None
        if not utility:
            told = lambda done, every: on_progress("pairs judged", done, every)  # noqa: E731
            judge_heldout(out, comparison, train.labels, given.labels, told)
        found = read_rehearsal(out)
        write_json(out / SUMMARY, {"sentences": sentences(found)} | found.to_mapping())
    return ended


def check_prompts(config: TrainConfig, given: Given) -> None:
    """Refuse prompts that are fewer than a round asks.

    Raises:
        DataError: so many there are, and so many a round takes.
    """
    source = config.prompts if given.prompts is None else given.prompts
    there = len(load_prompts(source, limit=config.prompt_limit).train)
    if there < config.prompts_per_round:
        raise DataError(
            f"prompts: {config.prompts} has {there} to train on, and a round asks {config.prompts_per_round}; add"
            f" prompts, or lower prompts_per_round to {there}"
        )


def read_config(out: Path) -> RehearseConfig:
    """Return the settings of a rehearsal, its arms named; raises a `ConfigError` where they cannot be read."""
    return from_mapping(RehearseConfig, read_yaml(out / CONFIG))


def read_rehearsal(out: Path) -> Rehearsal:
    """Return what the records of a rehearsal say.

    Raises:
        DataError: no held-out answer yet, or a bad record.
        ConfigError: its `config.yaml` cannot be read.
    """
    comparison = summarise(out / LOOPS)
    return rehearsed(read_config(out), comparison, read_wins(out, comparison, seed=RESAMPLING_SEED, level=LEVEL))
