"""Two threads that teach the reward model while it scores: one has pairs labelled, one closes rounds and retrains."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from foresighted.alignment.probed import ProbedFollower
from foresighted.alignment.rows import Evaluated, heldout_rows
from foresighted.errors import ForesightedError, NumericalError, RunError, one_line
from foresighted.integrations.owner import rounds, versions
from foresighted.integrations.owner.book import Book
from foresighted.integrations.owner.events import Collected, Label, Labels, Round
from foresighted.integrations.owner.scoring import Scorer
from foresighted.integrations.owner.state import Scored
from foresighted.integrations.owner.watch import logged, watching
from foresighted.labels.asking import Asker, forgiven
from foresighted.labels.pair import Pair, unequal
from foresighted.labels.queue import LabelQueue
from foresighted.labels.waiting import arrivals
from foresighted.prompts import prompt_id
from foresighted.store.directory import refused
from foresighted.store.files import byte_counts, cut, drop_torn_line
from foresighted.store.records import CANDIDATES, HELDOUT, ROUNDS, HeldoutRow, RoundRow
from foresighted.store.rows import append, read
from foresighted.texts import text_of

_log = logging.getLogger(__name__)


@dataclass
class Wanted:
    """Pairs that a group cannot be scored without, and who waits for them."""

    pairs: list[Pair]
    then: Callable[[bool], None]
    """Called with whether the labels failed to come."""


class Teacher:
    """Has pairs labelled and the reward model retrained.

    Args:
        book: what happened so far.
        scorer: gets each new version.
        student: learns, with parameters of its own.
        asker: who labels; None: nobody, and the reward model stays as it is.
    """

    def __init__(self, book: Book, scorer: Scorer, student: ProbedFollower, asker: Asker | None) -> None:
        self._book, self._scorer, self._student, self._asker = book, scorer, student, asker
        self._wanted: deque[Wanted] = deque()
        self._failures = 0
        self._writing = threading.Lock()
        self._recorded = _evaluated(book.folder / HELDOUT)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True, name=f"foresighted-{name}")
            for name, work in (("labelling", self._label), ("learning", self._close_round))
        ]
        self.look_back()

    @property
    def queue(self) -> LabelQueue | None:
        """Who answers rounds later; None where labels come at once, or from nobody."""
        return None if self._asker is None else self._asker.queue

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until what is being asked or learnt is done, once the book is closed."""
        for thread in self._threads:
            thread.join()

    def release(self) -> None:
        """Have nobody wait for labels any more, once both threads have ended."""
        while self._wanted:
            self._wanted.popleft().then(True)

    def want(self, pairs: list[Pair], then: Callable[[bool], None]) -> None:
        """Have pairs labelled before anything else, and say when that is done."""
        with self._book.turn:
            self._wanted.append(Wanted(pairs, then))
            self._book.turn.notify_all()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do a thread's work again and again, until the owner is closed or something happens that nobody mends."""
        try:
            while not self._book.closed and self._book.fault is None:
                work()
        except ForesightedError as error:
            self._book.stop(error)
        except OSError as error:
            self._book.stop(RunError(f"owner: {refused(error)}, then start it again: its folder is whole"))
        except BaseException as error:  # a thread that dies in silence would leave everybody waiting
            _log.exception("a thread of the owner failed")
            self._book.stop(RunError(f"owner: {one_line(error)}; restart it, its folder is whole"))

    def _wait_for(self, something: Callable[[], Any]) -> bool:
        book = self._book
        with book.turn:
            book.turn.wait_for(lambda: book.closed or book.fault is not None or bool(something()))
            return not book.closed and book.fault is None

    # Labels.

    def _label(self) -> None:
        state = self._book
        if not self._wait_for(lambda: self._wanted or state.state.unlabelled):
            return
        with self._book.turn:
            wanted, self._wanted = list(self._wanted), deque()
            waiting = [] if wanted else list(self._book.state.unlabelled)
        if wanted:
            failed = True
            try:
                failed = self._ask([pair for one in wanted for pair in one.pairs])
            except ForesightedError as error:
                self._book.stop(error)  # before they are scored without labels
            for one in wanted:
                one.then(failed)
            return
        copies = [[replace(pair) for pair in one.pairs] for one in waiting]
        failed = self._ask([pair for own in copies for pair in own])
        self._book.commit(*(labels_of(one.number, own, failed) for one, own in zip(waiting, copies, strict=True)))

    def _ask(self, pairs: list[Pair]) -> bool:
        """Have pairs labelled in one call; return whether the labeller failed.

        Raises:
            RunError: it failed too many times, one after the other.
            DataError: what it said is no label.
        """
        asker = self._asker
        asked = unequal(pairs)
        if asker is None or not asked:
            return asker is None
        if asker.queue is None:
            forgiven(lambda: asker.measure(pairs), None, "the records lack utilities")
        number = self._book.state.rounds + 1
        failed = bool(forgiven(lambda: asker.ask(asked, number), True, "these pairs are passed over"))
        self._failures = self._failures + 1 if failed else 0
        if failed:
            with self._book.turn:
                self._book.last_error = "labels: the labeller failed; the log says why"
        if self._failures >= self._book.config.label_failures:
            raise RunError(
                f"labels: no answer {self._failures} times, one after the other; the log says why. Mend the labeller,"
                " and start the owner again: its folder is whole"
            )
        return failed

    def evaluated(self, answers: Sequence[Evaluated]) -> None:
        """Add answers of an evaluation to the records: of each prompt the first ones after a round."""
        book, asker = self._book, self._asker
        with book.turn:
            number = book.state.rounds
            new = [answer for answer in answers if (number, prompt_id(answer.prompt)) not in self._recorded]
            self._recorded |= {(number, prompt_id(answer.prompt)) for answer in new}
        if not new:
            return
        known: list[float | None] = [None] * len(new)
        if asker is not None:
            texts = [text_of(answer.prompt) for answer in new], [text_of(answer.response) for answer in new]
            known = forgiven(lambda: asker.utility(*texts), known, "the records lack them")
        rows = [answer._replace(utility=value) for answer, value in zip(new, known, strict=True)]
        with self._writing:
            append(book.folder / HELDOUT, heldout_rows(number, rows))

    # Learning.

    def _close_round(self) -> None:
        book = self._book
        if not self._wait_for(lambda: book.state.due):
            return
        self._collect()
        if book.closed:
            return
        with book.turn:
            due, generation = book.state.due, book.generation
            last = max((one.number for one in due), default=0)
            parent, number = book.state.version, book.state.rounds + 1
            made = book.state.newest + 1
            pairs = [pair for pair in book.state.buffer.ready if _group_of(pair) <= last]
            total = book.state.buffer.counts.labels_total
        if not due:  # the reward model went back meanwhile
            return
        loss, summed, failed = self._learn(pairs, due)
        if loss is not None:
            versions.save(book.folder, made, self._student, pairs)
        event = Round(
            number, None if loss is None else made, parent, len(due), [pair.id for pair in pairs], summed, total, loss,
            None if loss is None else self._student.drift(), byte_counts(book.folder, (CANDIDATES, ROUNDS)), failed,
        )  # fmt: skip
        with book.quiet:
            if generation != book.generation:
                return
            book.commit(event)
            if loss is not None:
                self.hand_over()
            row = rounds.add(book, event, due)
        self.monitor.log(row.round, logged(row))

    def _collect(self) -> None:
        asker = self._asker
        if asker is None or asker.queue is None:
            return
        with self._book.turn:
            pending = dict(self._book.state.buffer.pending)
        at_least, stopping = self._book.config.wait_for_labels, lambda: self._book.closed
        came = lambda: arrivals(asker, pending, at_least=at_least, stopping=stopping)  # noqa: E731
        try:
            labels = forgiven(came, {}, "no label is taken this time")
        except KeyboardInterrupt:  # it is being closed
            return
        if labels:
            self._book.commit(Collected(labels))

    def _learn(self, pairs: Sequence[Pair], due: Sequence[Scored]) -> tuple[float | None, float, str | None]:
        """Return the loss before the update (None where there was none), the sum of the labels, and what went wrong."""
        student, book = self._student, self._book
        if not pairs:
            return None, 0.0, None
        if not student.probe.prompts:
            groups = [book.journal.group(one.place) for one in due]
            rows = [(group.prompt, member.text) for group in groups for member in group.members]
            student.take_probe([prompt for prompt, _ in rows], [text for _, text in rows])
        self.read_features(pairs)
        before = student.buffer.counts.labels_sum
        student.buffer.ready = list(pairs)
        try:
            loss = student.update()
        except NumericalError as error:
            _log.warning("%s; the reward model stays at version %d", error, book.state.version)
            self.go_back()
            with book.turn:
                book.last_error = str(error)
            return None, 0.0, str(error)
        return loss, student.buffer.counts.labels_sum - before, None

    def read_features(self, pairs: Sequence[Pair]) -> None:
        """Read the head's inputs of pairs that lost them, where they never change."""
        model = self._student.reward_model
        lost = [pair for pair in pairs if pair.features is None]
        if model.head_only and lost:
            prompts = [pair.prompt for pair in lost for _ in range(2)]
            read = model.features(prompts, [text for pair in lost for text in (pair.first, pair.second)])
            for place, pair in enumerate(lost):
                pair.features = read[2 * place : 2 * place + 2]

    def look_back(self) -> None:
        """Begin to watch anew, from the records as they are now."""
        path = self._book.folder / ROUNDS
        drop_torn_line(path)
        rows = read(path, RoundRow) if path.exists() else []
        trusted = self._asker is not None and self._asker.knows_utility
        self.monitor = watching(path.parent, rows, trusted=trusted)

    def hand_over(self) -> None:
        """Have the next groups scored by what the student knows. The caller holds `quiet`."""
        scorer, student = self._scorer.follower, self._student
        with torch.no_grad():
            for name, parameter in scorer.learner.parameters.items():
                parameter.copy_(student.learner.parameters[name])
        tensors, numbers = student.learner.state()
        scorer.learner.load_state(({name: tensor.clone() for name, tensor in tensors.items()}, numbers))
        with self._book.turn:
            scorer.buffer.counts = self._book.state.counts(self._book.state.version)

    def forget_evaluations(self, size: int) -> None:
        """Cut the records of evaluations back to so many bytes."""
        path = self._book.folder / HELDOUT
        with self._writing:
            if byte_counts(path.parent, (HELDOUT,))[HELDOUT] > size:
                cut(path, size)
            self._recorded = _evaluated(path)

    def go_back(self) -> None:
        """Put the student where the book says that the reward model is: weights, optimiser, and what it learnt from."""
        state, student = self._book.state, self._student
        versions.restore(self._book.folder, state.version, student)
        lineage = state.lineage(state.version)
        kept = {version: state.learnt[version] for version in lineage}
        lost = {version: own for version, own in kept.items() if any(pair.features is None for pair in own)}
        if student.reward_model.head_only:
            versions.recall(self._book.folder, lost, str(student.reward_model.device))
        student.buffer.kept = state.kept(state.version)
        student.buffer.ready = []
        student.buffer.counts = state.counts(state.version)


def labels_of(number: int, pairs: Sequence[Pair], failed: bool) -> Labels:
    """Return what came of a group's pairs."""
    known = [Label(None if failed and p.asked else p.label, p.first_utility, p.second_utility) for p in pairs]
    return Labels(number, known, failed)


def _evaluated(path: Path) -> set[tuple[int, str]]:
    """Return the rounds and prompts whose answers are recorded."""
    drop_torn_line(path)
    return {(row.round, row.prompt_id) for row in read(path, HeldoutRow)} if path.exists() else set()


def _group_of(pair: Pair) -> int:
    return int(pair.id.partition("-")[0])
