"""A whole run: claim the directory, load the players, play rounds, checkpoint, stop and resume without loss."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers

from foresighted.alignment import checkpoint
from foresighted.alignment.follower import Follower
from foresighted.alignment.foresight import Foresight
from foresighted.alignment.given import NAMES_ONLY, PROMPTS, Given
from foresighted.alignment.kept import Kept
from foresighted.alignment.round import Loop, log_ratio, play_round
from foresighted.alignment.start import Start
from foresighted.errors import NumericalError, RunError, Stopped
from foresighted.labels.asking import load_labels
from foresighted.labels.buffer import Counts
from foresighted.models import noise
from foresighted.models.learner import policy_learner, reward_model_learner
from foresighted.models.loading import load_policy, load_reward_model
from foresighted.prompts import PromptSet, load_prompts
from foresighted.settings import MAY_CHANGE_ON_RESUME, TrainConfig, to_mapping, to_yaml
from foresighted.store import records
from foresighted.store.directory import Claim, check_claim, claimed, start_directory
from foresighted.store.environment import write_environment
from foresighted.store.files import damaged, hashes, new_folder
from foresighted.store.records import HeldoutRow, RoundRow
from foresighted.store.rows import append, write, write_json
from foresighted.texts import distinct
from foresighted.types import Prompt

_log = logging.getLogger(__name__)
POLICY = "policy"
_MANIFEST = "manifest.json"


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
    config = config.resolved()
    given.check(config)
    prompts = load_prompts(config.prompts if given.prompts is None else given.prompts, limit=config.prompt_limit)
    claim = run_claim(config)
    check_claim(claim, out, resume=resume)
    _check_tracker(config)
    held = _first_by_hash(prompts.heldout, config.heldout_prompts)
    digest = checkpoint.prompts_digest(prompts)
    start = start or start_directory(out, config.seed)
    loop = players(config, given, prompts.train, start)  # bad models, and then bad states, are found before a write
    found: list[checkpoint.Found | None] = []
    look = partial(check_kept, config, out, prompts, start)
    with claimed(claim, out, resume=resume, look=lambda: found.append(look())), _memory():
        if given.prompts is not None:
            write(out / PROMPTS, given.prompts)
        write_environment(out, find_device(config))
        fit(loop)
        first = checkpoint.restore(out, loop, found[-1]) + 1
        with _tracker(config, out) as log, _interrupts() as stop:
            for number in range(first, config.rounds + 1):
                row = _play(loop, out, held, number)
                saved = number % config.checkpoint_every == 0 or number == config.rounds
                if saved:
                    checkpoint.save(out, loop, number, digest)
                log(row)
                on_round(row)
                if stop.is_set():
                    if not saved:
                        checkpoint.save(out, loop, number, digest)
                    raise Stopped(number)
        _export(loop, out)


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
        known = json.loads((out / POLICY / _MANIFEST).read_bytes())["sha256"]
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


def _export(loop: Loop, out: Path) -> None:
    adapter = {} if loop.config.policy_train == "all" else {"save_embedding_layers": False}  # asks no hub
    with new_folder(out / POLICY) as folder:
        loop.policy.model.save_pretrained(folder, **adapter)
        loop.policy.tokenizer.save_pretrained(folder)
        write_json(folder / _MANIFEST, {"sha256": hashes(folder)})


def players(config: TrainConfig, given: Given, prompts: Sequence[Prompt], start: Path) -> Loop:
    """Load the players of a run, who have learnt nothing yet; no file is written."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = find_device(config)
    policy = load_policy(config, device, **_copied(given.policy))
    reward_model = load_reward_model(config, device, **_copied(given.reward_model))
    labels = load_labels(config, policy, device, given.labels)
    learner = reward_model_learner(reward_model.trainable(), config)
    follower = Follower(reward_model, learner, config=config)
    foresight = Foresight(config, reward_model, learner.optimizer, references=config.references)
    shared = Start(start, config, policy, labels, prompts)
    return Loop(config, policy, policy_learner(policy.trainable(), config), follower, foresight, labels, shared)


def _copied(given: tuple[Any, Any] | None) -> dict[str, Any]:
    return {} if given is None else dict(zip(("model", "tokenizer"), copy.deepcopy(given), strict=True))


def fit(loop: Loop) -> None:
    """Fit the reward model to the initial pairs, and count their labels."""
    first = loop.start.fit(loop.follower.reward_model)
    labels = [pair.label for pair in first if pair.label is not None]
    loop.follower.buffer.counts = Counts(
        labels_total=len(labels), labels_trained=len(labels), labels_sum=math.fsum(labels)
    )
    loop.follower.buffer.keep(first)


def _first_by_hash(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Return the held-out prompts of an evaluation: the first by SHA-256 of their id, whatever the file's order."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).hexdigest())[:count]


def _evaluate(loop: Loop, prompts: Sequence[Prompt], number: int) -> list[HeldoutRow]:
    """Answer held-out prompts after `number` rounds, with the same noise in every round and arm, and measure the
    answers. Reads no label that training uses."""
    texts = [prompt.text for prompt in prompts]
    answers = loop.policy.sample(texts, 1, [noise.key(loop.config.heldout_seed, "held-out", p.id) for p in prompts])
    reward_model = loop.follower.reward_model
    rewards = reward_model.rewards(reward_model.features(texts, answers.texts)).tolist()
    ratios = log_ratio(loop.policy, texts, answers).tolist()
    utility = loop.labels.utility(texts, answers.texts)
    columns = zip(prompts, answers.texts, answers.lengths(), rewards, utility, ratios, strict=True)
    return [
        HeldoutRow(number, p.id, p.text, p.kind, text, length, reward, u, kl, distinct(text, 1), distinct(text, 2))
        for p, text, length, reward, u, kl in columns
    ]


def _play(loop: Loop, out: Path, held: Sequence[Prompt], number: int) -> RoundRow:
    config = loop.config
    if number == 1:
        append(out / records.HELDOUT, _evaluate(loop, held, 0))
    began = time.perf_counter()
    try:
        candidates, row = play_round(loop, number)
    except NumericalError as error:
        where = "" if str(error).startswith("round") else f"round {number}: "
        raise NumericalError(f"{where}{error}; the newest checkpoint in {out} is whole") from None
    seconds = time.perf_counter() - began
    append(out / records.CANDIDATES, candidates)
    append(out / records.ROUNDS, [row])
    if number % config.heldout_every == 0 or number == config.rounds:
        append(out / records.HELDOUT, _evaluate(loop, held, number))
    append(out / records.TIMINGS, [{"round": number, "seconds": seconds, "candidates": len(candidates)}])
    return row


def find_device(config: TrainConfig) -> torch.device:
    """Return the device of a run.

    Raises:
        RunError: more than one process; `foresighted train` is for one.
    """
    state = PartialState()
    if state.num_processes > 1:
        raise RunError(f"started as {state.num_processes} processes; foresighted train runs in one: start it plainly")
    try:
        found = torch.zeros(1, device=state.device if config.device == "auto" else config.device)
        found.item()  # a device that computes: meta has none
        return found.device
    except (RuntimeError, AssertionError):  # unknown; not in this build of torch or this machine
        raise RunError(f"device: torch has no {config.device!r} here; use auto, cpu, cuda, cuda:1 or mps") from None


def _check_tracker(config: TrainConfig) -> None:
    available = {str(name) for name in get_available_trackers()}
    if config.report_to != "none" and config.report_to not in available:
        raise RunError(f"report_to: {config.report_to} is not installed; pip install {config.report_to}, or use none")


@contextmanager
def _memory() -> Iterator[None]:
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
def _interrupts() -> Iterator[threading.Event]:
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
