"""The journal of an owner and what it comes to, for the threads that share them."""

from __future__ import annotations

import threading
from pathlib import Path

from foresighted.errors import ForesightedError
from foresighted.integrations.owner.answer import Answer
from foresighted.integrations.owner.config import OwnerConfig
from foresighted.integrations.owner.events import Event
from foresighted.integrations.owner.journal import JOURNAL, Journal
from foresighted.integrations.owner.state import State, replayed


class Book:
    """Writes events and applies them, in one order for all threads.

    Args:
        folder: of the owner, which nobody else writes.
        config: its settings.
        labelled: somebody labels.
        queued: rounds later.
    """

    def __init__(self, folder: Path, config: OwnerConfig, *, labelled: bool, queued: bool) -> None:
        self.folder = folder
        self.config = config
        self._labelled, self._queued = labelled, queued
        self.journal = Journal(folder)
        self.turn = threading.Condition(threading.RLock())
        """Held while the state is read or changed; told of every change."""
        self.quiet = threading.RLock()
        """Held while groups are scored, and while what scores them changes."""
        self._writing = threading.RLock()
        self.state = self._replayed()
        self.generation = 0
        """Grows when the reward model goes back: what was being learnt then is dropped."""
        self.restores = 0
        """Times that a trainer went back to an earlier step: groups of before are not scored any more."""
        self.closed = False
        self.fault: ForesightedError | None = None
        """Why no group is scored any more."""
        self.last_error = ""

    def _replayed(self) -> State:
        config = self.config
        new = State(config.update_every, config.pending_pairs, self._queued, self._labelled, config.fit.buffer)
        return replayed(self.folder / JOURNAL, new)

    def commit(self, *events: Event) -> None:
        """Write events, then apply them; whoever waits for a change is told."""
        with self._writing:
            places = self.journal.append(events)
            with self.turn:
                for event, place in zip(events, places, strict=True):
                    self.state.apply(event, place)
                self.turn.notify_all()

    def begin_again(self, *events: Event) -> None:
        """Write events, then make the state anew from the whole journal."""
        with self._writing, self.turn:
            self.journal.append(events)
            self.state = self._replayed()
            self.generation += 1
            self.restores += 1
            self.turn.notify_all()

    def known(self, run: str, group: str, member: int, text: str) -> Answer | None:
        """Return what a response was paid, if it was; `text` is its digest."""
        with self.turn:
            places = list(self.state.answered.get((run, group), ()))
        for place in reversed(places):
            found = self.journal.group(place)
            if any(m.member == member and m.digest == text for m in found.members):
                return found.answers()[member]
        return None

    def passed(self, run: str, group: str) -> bool:
        """Return whether a group was paid although some of its responses had not come."""
        with self.turn:
            places = list(self.state.answered.get((run, group), ()))
        return any(not self.journal.group(place).whole for place in places)

    def stop(self, fault: ForesightedError) -> None:
        """Have no group scored any more."""
        with self.turn:
            self.fault = self.fault or fault
            self.last_error = str(fault)
            self.turn.notify_all()

    def close(self) -> None:
        """Have every thread end."""
        with self.turn:
            self.closed = True
            self.turn.notify_all()
