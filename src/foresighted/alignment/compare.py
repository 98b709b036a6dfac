"""Several arms and seeds of one configuration: side by side in one batch, or each in a process of its own.

What arms share (references, first reward model) is made once a seed; prompts, their order and the sampling noise are
functions of the seed alone. So two arms differ in nothing but what their names say.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from foresighted.alignment.given import NAMES_ONLY, PROMPTS, Given
from foresighted.alignment.parent import PARENT
from foresighted.alignment.players import find_device, with_dtype
from foresighted.alignment.run import check_kept, finished, run_claim, train
from foresighted.alignment.side_by_side import Apart, Run, SideBySide, play_side_by_side
from foresighted.errors import RunError, Stopped
from foresighted.models import embedded
from foresighted.prompts import PromptSet, load_prompts
from foresighted.settings import MAY_CHANGE_ON_RESUME, CompareConfig, TrainConfig, to_yaml
from foresighted.store import records
from foresighted.store.directory import LOG, Claim, arm_directory, check_claim, claimed, start_directory
from foresighted.store.environment import write_environment
from foresighted.store.records import RoundRow
from foresighted.store.rows import write

_log = logging.getLogger(__name__)
MAY_CHANGE = (*MAY_CHANGE_ON_RESUME, "side_by_side", "jobs", "arms", "seeds")
"""Settings that a comparison that goes on may change."""
_POLL_SECONDS = 0.3
_PATIENCE = 10.0
"""Seconds that a run has to end once it was told to."""


def compare(
    config: CompareConfig,
    out: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Sequence[Run]], None] = lambda _runs: None,
    given: Given = NAMES_ONLY,
) -> None:
    """Run every arm with every seed; a run that is finished already is left as it is.

    Args:
        config: arms, seeds and everything that they share.
        out: the comparison's directory; runs are written to OUT/arms/ARM/seed-S.
        resume: go on where an earlier call stopped.
        on_progress: called a few times a second with the state of all runs.
        given: objects in place of names; with any, no run is played in a process of its own.

    Raises:
        ForesightedError: bad input, or a run that ended with an error (its own line is passed on).
        Stopped: after an interrupt, with every running round finished and saved.
    """
    loops = 1 if config.side_by_side == 1 else len(config.arms) * len(config.seeds)
    config = replace(config, train=with_dtype(config.train, out, loops))
    prompts = load_prompts(
        config.train.prompts if given.prompts is None else given.prompts, limit=config.train.prompt_limit
    )
    device = find_device(config.train)
    usual = run_claim(config.train).usual
    claim = Claim("comparison", to_yaml(config), MAY_CHANGE, usual)
    runs = [Run(a, s, arm_directory(out, a, s)) for s in config.seeds for a in config.arms]  # a seed's arms share much

    def of(run: Run) -> tuple[TrainConfig, Path]:
        return config.arm(run.arm, run.seed), start_directory(out, run.seed)

    def look() -> None:
        for run in runs:
            own, start = of(run)
            check_claim(run_claim(own), run.directory, resume=True)
            check_kept(own, run.directory, prompts, start)

    with claimed(claim, out, resume=resume, look=look):
        write_environment(out, device)
        if given.prompts is not None:
            write(out / PROMPTS, given.prompts)
        if (plays := _side_by_side(config, given, prompts)) is not None:
            size = plays.at_a_time(out, config.side_by_side, len(runs))
            play_side_by_side(plays, runs, size, of, lambda: on_progress(runs))
        elif given != NAMES_ONLY:
            _play_here(config, runs, out, on_progress, given)
        else:
            _play_apart(config, runs, out, device, on_progress)


def _side_by_side(config: CompareConfig, given: Given, prompts: PromptSet) -> SideBySide | None:
    """Return who plays runs side by side; None, once it was said why, where they are played apart."""
    if config.side_by_side == 1:
        return None
    try:
        return SideBySide(config.train, given, prompts)
    except Apart as reason:
        _log.warning("runs are played apart: %s", reason)
        return None


def _play_apart(
    config: CompareConfig, runs: list[Run], out: Path, device: torch.device,
    on_progress: Callable[[Sequence[Run]], None],
) -> None:  # fmt: skip  # one argument a line says no more
    if "embedded" in (config.train.policy, config.train.reward_model):
        embedded.policy_source()  # converted here, once, before several processes want it
    for run in runs:
        with claimed(run_claim(config.arm(run.arm, run.seed)), run.directory, resume=True):
            pass
    waiting = [run for run in runs if not finished(run.directory, config.train.rounds)]
    jobs = config.jobs or ((os.cpu_count() or 1) if device.type == "cpu" else 1)
    _schedule(runs, list(waiting), jobs, out, on_progress)
    for run in waiting:  # whatever their processes returned
        if not finished(run.directory, config.train.rounds):
            raise RunError(
                f"{run.name}: its process ended without an error after {run.rounds_done} of"
                f" {config.train.rounds} rounds; see {run.directory / LOG}, then go on with --resume"
            )


def _play_here(
    config: CompareConfig, runs: list[Run], out: Path, on_progress: Callable[[Sequence[Run]], None], given: Given
) -> None:
    for run in runs:

        def on_round(row: RoundRow, run: Run = run) -> None:
            run.rounds_done = row.round
            on_progress(runs)

        if finished(run.directory, config.train.rounds):
            continue
        start = start_directory(out, run.seed)
        train(config.arm(run.arm, run.seed), run.directory, resume=True, start=start, on_round=on_round, given=given)


def _schedule(
    runs: list[Run], waiting: list[Run], jobs: int, out: Path, on_progress: Callable[[Sequence[Run]], None]
) -> None:
    failed: list[str] = []
    stopping = False
    running: list[tuple[Run, subprocess.Popen[bytes]]] = []
    main = threading.current_thread() is threading.main_thread()  # no other may set what a signal does
    before = signal.getsignal(signal.SIGTERM)
    if main:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` ends the runs
    try:
        while running or (waiting and not stopping and not failed):
            try:
                while waiting and len(running) < jobs and not stopping and not failed:
                    run = waiting.pop(0)
                    running.append((run, _launch(run, out)))
                time.sleep(_POLL_SECONDS)
                for ended in [entry for entry in running if entry[1].poll() is not None]:
                    running.remove(ended)
                    failed += _failure(*ended)
                for run in runs:
                    path = run.directory / records.ROUNDS
                    run.rounds_done = path.read_bytes().count(b"\n") if path.exists() else 0
                on_progress(runs)
            except KeyboardInterrupt:  # the runs got it too: they finish their round
                if stopping:
                    raise
                stopping = True
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
        for _, process in running:
            process.terminate()
        for _, process in running:
            _wait(process)
    if stopping:
        raise Stopped(min(run.rounds_done for run in runs))
    if failed:
        raise RunError("; ".join(failed))


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was asked to end: until then it writes, and nobody else may."""
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _launch(run: Run, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "foresighted", "train", "--out", str(run.directory), "--resume", "--quiet"]
    command += ["--start", str(start_directory(out, run.seed))]
    own = os.environ | {PARENT: str(os.getpid())}
    with (run.directory / LOG).open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=own)


def _failure(run: Run, process: subprocess.Popen[bytes]) -> list[str]:
    code = process.returncode
    if code in (0, 130):
        return []
    log = run.directory / LOG
    lines = log.read_text(errors="replace").strip().splitlines()
    reason = lines[-1].removeprefix("foresighted: ") if lines and code == 2 else f"{_ended(code)}, see {log}"
    return [f"{run.name}: {reason}"]


def _ended(code: int) -> str:
    """Return, in words, how a process ended: `subprocess` says -N of signal N, a shell 128 + N."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"was killed by signal {number}" if code < 0 else f"ended with code {code}"
    return f"was killed by signal {number} ({name})"
