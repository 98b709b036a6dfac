"""Labels of people: they come in their own time, and a run takes those that are there, or waits for some."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from foresighted.errors import ConfigError
from foresighted.labels.asking import Asker
from foresighted.labels.pair import Pair
from foresighted.labels.queue import FileQueue
from foresighted.settings import TrainConfig
from foresighted.texts import text_of

_log = logging.getLogger(__name__)
POLL = 0.5
"""Seconds between two looks into a queue that is waited for."""


def never() -> bool:
    """Return False: nobody asks to stop."""
    return False


def arrivals(
    asker: Asker, pending: Mapping[str, Pair], *, at_least: int = 0, stopping: Callable[[], bool] = never
) -> dict[str, float]:
    """Return the labels that came into a queue for pairs that wait, by id.

    Args:
        asker: of the queue.
        pending: the pairs, by id.
        at_least: labels to wait for; fewer where everything that waits was answered or skipped.
        stopping: asked while it waits whether to stop.

    Raises:
        KeyboardInterrupt: it is to stop; what was asked stays in the queue.
        ForesightedError: what `Asker.collect` raises.
    """
    told = False
    while True:
        found = asker.collect(pending)
        if len(found) >= at_least or not pending.keys() - found.keys() - asker.skipped():
            return found
        if not told:
            _log.warning("%s", _told(asker, at_least - len(found)))
        told = True
        _wait(stopping)


def ask_and_wait(asker: Asker, pairs: Sequence[Pair], number: int) -> None:
    """Have pairs labelled by people and wait for all of them; the label of one that was skipped stays None.

    Equal texts are no question: their label is one half.

    Raises:
        ForesightedError: what `Asker.ask` and `Asker.collect` raise.
    """
    for pair in pairs:
        pair.label = None if different(pair) else 0.5
    open_ = {pair.id: pair for pair in pairs if pair.label is None}
    asker.ask(list(open_.values()), number)
    told = False
    while open_:
        for name, label in asker.collect(open_).items():
            open_[name].label = label
        skipped = asker.skipped()
        open_ = {name: pair for name, pair in open_.items() if pair.label is None and name not in skipped}
        if open_:
            if not told:
                advice = "; --initial-preferences FILE or --initial-pairs 0 begin without them"
                _log.warning("%s%s", _told(asker, len(open_)), advice)
            told = True
            _wait(never)


def different(pair: Pair) -> bool:
    """Return whether a pair is a question: its responses differ."""
    return text_of(pair.first) != text_of(pair.second)


def _told(asker: Asker, count: int) -> str:
    where = f": foresighted label {asker.queue.folder}" if isinstance(asker.queue, FileQueue) else ""
    return f"waiting for {count} labels{where}"


def _wait(stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + POLL
    while time.monotonic() < until:
        if stopping():
            raise KeyboardInterrupt
        time.sleep(POLL / 10)


def check_late(config: TrainConfig, labels: Asker) -> None:
    """Refuse settings that read labels at once where people answer rounds later, and waiting where they come at once.

    Raises:
        ConfigError: names the setting and what to use.
    """
    if labels.queue is None:
        if config.wait_for_labels:
            told = f"wait_for_labels: got {config.wait_for_labels}, and {config.labels} labels at once; use 0"
            raise ConfigError(f"{told}, or --labels FOLDER/")
        return
    form = f"steering {config.steering}"
    for wrong, what, instead in (
        (config.reads_labels or config.carries_label, form, "steering_labels baseline, or steering practical"),
        (config.selection == "labels", "selection labels", "selection reward"),
        (config.corrects, f"correction {config.correction:g}", "correction 0"),
        (config.policy_update == "dpo", "policy_update dpo", "policy-gradient"),
        (config.rollback_window > 0, f"rollback_window {config.rollback_window}", "rollback_window 0"),
        (config.sampled_labels, "sampled_labels", "sampled_labels false: people give bits"),
    ):
        if wrong:
            raise ConfigError(
                f"labels: people answer {config.labels} rounds later, and {what} reads labels in the round; use"
                f" {instead}"
            )
