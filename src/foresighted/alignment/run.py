"""A whole run: claim the directory, load the players, play rounds, checkpoint, stop and resume without loss."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from foresighted.alignment import checkpoint
from foresighted.alignment.given import NAMES_ONLY, PROMPTS, Given
from foresighted.alignment.kept import Kept
from foresighted.alignment.players import find_device, players, with_dtype
from foresighted.alignment.playing import MANIFEST, POLICY, Playing, play_rounds
from foresighted.alignment.together import Alone
from foresighted.errors import RunError
from foresighted.prompts import PromptSet, load_prompts
from foresighted.settings import MAY_CHANGE_ON_RESUME, TrainConfig, to_mapping, to_yaml
from foresighted.store.directory import Claim, check_claim, claimed, start_directory
from foresighted.store.environment import write_environment
from foresighted.store.files import damaged
from foresighted.store.records import RoundRow
from foresighted.store.rows import write
from foresighted.types import Prompt

_log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    start: Path | None = None,
    on_round: Callable[[RoundRow], None] = lambda _row: None,
    given: Given = NAMES_ONLY,
) -> None:
    """Run iterative RLHF in a directory; records, checkpoints and the trained policy are left there.

    Args:
        config: what to run.
        out: the run directory.
        resume: go on from the newest checkpoint (an empty directory starts anew).
        start: folder of references and first reward model, shared by arms; default OUT/start/seed-S.
        on_round: called after each finished round.
        given: objects in place of names of the configuration.

    Raises:
        ForesightedError: bad input; nothing in `out` that was there before is changed.
        Stopped: after an interrupt, with the round finished and saved.
    """
    config = with_dtype(config.resolved(), out, 1)
    given.check(config)
    prompts = load_prompts(config.prompts if given.prompts is None else given.prompts, limit=config.prompt_limit)
    claim = run_claim(config)
    check_claim(claim, out, resume=resume)
    _check_tracker(config)
    held = first_by_hash(prompts.heldout, config.heldout_prompts)
    digest = checkpoint.prompts_digest(prompts)
    start = start or start_directory(out, config.seed)
    loop = players(config, given, prompts.train, start)  # bad models, and then bad states, are found before a write
    run = Playing("the run", loop, out, held, digest)
    found: list[checkpoint.Found | None] = []
    look = partial(check_kept, config, out, prompts, start)
    with claimed(claim, out, resume=resume, look=lambda: found.append(look())), memory():
        if given.prompts is not None:
            write(out / PROMPTS, given.prompts)
        write_environment(out, find_device(config))
        run.begin(found[-1])
        with _tracker(config, out) as log, interrupts() as stop:

            def told(_run: Playing, row: RoundRow) -> None:
                log(row)
                on_round(row)

            play_rounds([run], Alone(loop, stop.is_set), told, stop.is_set)
        if run.failed is not None:
            raise run.failed


def run_claim(config: TrainConfig) -> Claim:
    """Return what is to lie in the directory of a run."""
    usual: dict[str, Any] = to_mapping(TrainConfig()) | TrainConfig.earlier
    known = {name: value for name, value in usual.items() if value is not None}
    return Claim("run", to_yaml(config), MAY_CHANGE_ON_RESUME, known)


def finished(out: Path, rounds: int) -> bool:
    """Return whether a run directory holds a run that did all its rounds and left its trained policy, whole."""
    state = checkpoint.newest(out)
    if state is None or int(state.name.partition("-")[2]) < rounds:
        return False
    try:
        known = json.loads((out / POLICY / MANIFEST).read_bytes())["sha256"]
        return bool(known) and damaged(out / POLICY, known) is None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def check_kept(config: TrainConfig, out: Path, prompts: PromptSet, start: Path) -> checkpoint.Found | None:
    """Return what a run goes on from, once everything that it would read was checked. Writes nothing.

    Raises:
        RunError: something in `out` or `start` is not as it was written, or belongs to other settings or prompts.
    """
    Kept(start, config, prompts.train).check()
    return checkpoint.find(out, config, checkpoint.prompts_digest(prompts))


def first_by_hash(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Return the held-out prompts of an evaluation: the first by SHA-256 of their id, whatever the file's order."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).hexdigest())[:count]


def _check_tracker(config: TrainConfig) -> None:
    available = {str(name) for name in get_available_trackers()}
    if config.report_to != "none" and config.report_to not in available:
        raise RunError(f"report_to: {config.report_to} is not installed; pip install {config.report_to}, or use none")


@contextmanager
def memory() -> Iterator[None]:
    """Say what to do where the accelerator's memory is too small."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise RunError(
            "out of accelerator memory; lower prompts_per_round or candidates, or raise accumulation_steps"
        ) from None


@contextmanager
def _tracker(config: TrainConfig, out: Path) -> Iterator[Callable[[RoundRow], None]]:
    if config.report_to == "none":
        yield lambda _row: None
        return
    accelerator = Accelerator(log_with=config.report_to, project_dir=out)
    plain = {name: value for name, value in to_mapping(config).items() if isinstance(value, int | float | str)}
    accelerator.init_trackers("foresighted", config=plain)

    def log(row: RoundRow) -> None:
        numbers = {name: value for name, value in vars(row).items() if value is not None}
        accelerator.log(numbers, step=row.round)

    try:
        yield log
    finally:  # of an interrupted run, too
        accelerator.end_training()


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop after the round; a second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(_signal: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        _log.warning("stopping after this round; press Ctrl-C again to stop now (finished rounds are saved)")

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
