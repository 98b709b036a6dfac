"""The thread that scores: whole groups as they come, several at a time, each with one version."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from foresighted.errors import ForesightedError, RunError, one_line
from foresighted.integrations.owner.answer import Answer
from foresighted.integrations.owner.book import Book
from foresighted.integrations.owner.events import Event
from foresighted.integrations.owner.scoring import Scorer, Texts
from foresighted.integrations.owner.teacher import Teacher, labels_of
from foresighted.labels.pair import Groups, Pair
from foresighted.store.directory import refused
from foresighted.types import Text

_log = logging.getLogger(__name__)


@dataclass
class Job:
    """A group that waits to be scored, and for whom."""

    texts: Texts
    answers: Future[dict[int, Answer]] = field(default_factory=Future)
    """By place."""
    pairs: list[Pair] | None = None
    """Labelled, where the form reads labels."""
    failed: bool = False
    """Those labels were not given."""
    restores: int = 0
    """As the book had it when the group was whole."""

    @property
    def rows(self) -> int:
        """Return how many responses are read for it."""
        return len(self.texts.responses) + len(self.texts.references)


@dataclass
class Question:
    """Responses of an evaluation, which wait for the bare reward."""

    prompts: list[Text]
    responses: list[Text]
    tokens: list[int] = field(default_factory=list)
    """Lengths of the responses, once they are read."""
    answers: Future[dict[int, Answer]] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        """Return how many responses are read for it."""
        return len(self.responses)


def next_batch(waiting: deque[Job | Question], rows: int) -> list[Job | Question]:
    """Take off what is read together: at least one, if any waits, and as many as `rows` allow."""
    taken: list[Job | Question] = []
    while waiting and (not taken or waiting[0].rows <= rows):
        taken.append(waiting.popleft())
        rows -= taken[-1].rows
    return taken


class Desk:
    """Scores what waits, in the order in which it came.

    Args:
        book: takes what was scored before anybody is answered.
        scorer: reads.
        teacher: has pairs labelled that a form reads first.
    """

    def __init__(self, book: Book, scorer: Scorer, teacher: Teacher) -> None:
        self._book, self._scorer, self._teacher = book, scorer, teacher
        self._waiting: deque[Job | Question] = deque()
        self._thread = threading.Thread(target=self._work, daemon=True, name="foresighted-scoring")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until what waits is scored, once the book is closed."""
        self._thread.join()

    def take(self, job: Job | Question) -> None:
        """Have something scored; its `answers` tell when it is done."""
        if isinstance(job, Job) and job.texts.compared and job.pairs is None and self._book.config.reads_labels:
            job.restores = self._book.restores
            job.pairs = pairs = self._scorer.every_pair(job.texts)

            def then(failed: bool) -> None:
                job.failed = failed
                if job.restores == self._book.restores:
                    self._put(job)
                else:
                    job.answers.set_exception(RunError("owner: went back to an earlier step meanwhile; ask again"))

            self._teacher.want(pairs, then)
        else:
            self._put(job)

    def _put(self, job: Job | Question) -> None:
        with self._book.turn:
            self._waiting.append(job)
            self._book.turn.notify_all()

    def drop(self, error: ForesightedError) -> None:
        """Answer everything that waits with an error."""
        with self._book.turn:
            left, self._waiting = list(self._waiting), deque()
        for job in left:
            job.answers.set_exception(error)

    def _work(self) -> None:
        book = self._book
        while True:
            with book.turn:
                book.turn.wait_for(lambda: self._waiting or book.closed or book.fault is not None)
                if not self._waiting and book.closed:
                    return
                jobs = next_batch(self._waiting, self._book.config.batch_rows)
            if book.fault is not None:
                for job in jobs:
                    job.answers.set_exception(book.fault)
                if book.closed:
                    return
                if not jobs:
                    with book.turn:
                        book.turn.wait_for(lambda: self._waiting or book.closed)
                continue
            self._answer(jobs)

    def _answer(self, jobs: list[Job | Question]) -> None:
        """Score, write, and only then answer. Where reading all at once fails, each is tried by itself."""
        try:
            self._score(jobs)
        except Exception as error:
            if len(jobs) > 1 and not isinstance(error, OSError):
                for job in jobs:
                    self._answer([job])
                return
            refusal = refused(error) if isinstance(error, OSError) else one_line(error)
            told = error if isinstance(error, ForesightedError) else RunError(f"owner: {refusal}")
            if not isinstance(error, ForesightedError | OSError):
                _log.exception("scoring failed")
            with self._book.turn:
                self._book.last_error = str(told)
            for job in jobs:
                job.answers.set_exception(told)

    def _score(self, jobs: Sequence[Job | Question]) -> None:
        book, scorer = self._book, self._scorer
        with book.quiet:
            version = book.state.version
            with book.turn:
                scorer.begin(book.state)
            groups = [job for job in jobs if isinstance(job, Job)]
            whole = [job for job in groups if job.texts.compared]
            questions = [job for job in jobs if isinstance(job, Question)]
            rows = [Groups([p], [[r]], None) for q in questions for p, r in zip(q.prompts, q.responses, strict=True)]
            features = scorer.features([*(job.texts.groups for job in whole), *rows])
            found = []
            events: list[Event] = []
            for place, job in enumerate(whole):
                own = None if features is None else features[place]
                group, pairs = scorer.scored(job.texts, version, own, job.pairs or ())
                found.append((job, group.answers(), pairs))
                events.append(group)
                if job.pairs is not None:
                    events.append(labels_of(group.number, pairs, job.failed))
            for job in (job for job in groups if not job.texts.compared):
                bare = scorer.bare(job.texts, version)
                found.append((job, bare.answers(), []))
                events.append(bare)
            evaluated = self._evaluated(questions, version, None if features is None else features[len(whole) :])
            if events:
                book.commit(*events)
                self._keep_features(found)
        for job, answers, _ in found:
            job.answers.set_result(answers)
        for question, answers in zip(questions, evaluated, strict=True):
            question.answers.set_result(answers)

    def _evaluated(
        self, questions: Sequence[Question], version: int, features: Sequence[Tensor] | None
    ) -> list[dict[int, Answer]]:
        """Return the bare reward of each response of each question, by place."""
        prompts, responses = ([t for q in questions for t in getattr(q, name)] for name in ("prompts", "responses"))
        rewards = iter(self._scorer.rewards(prompts, responses, features) if prompts else ())
        for question in questions:
            question.tokens = self._scorer.tokens(question.responses)
        bare = [[next(rewards) for _ in q.responses] for q in questions]
        return [{place: Answer(r, r, 0.0, version, False) for place, r in enumerate(own)} for own in bare]

    def _keep_features(self, found: Sequence[tuple[Job, dict[int, Answer], list[Pair]]]) -> None:
        """Give the pairs of the book the head's inputs that were read a moment ago."""
        known = {pair.id: pair.features for _, _, pairs in found for pair in pairs}
        with self._book.turn:
            for scored in self._book.state.open[-len(found) :] if found else ():
                for pair in scored.pairs:
                    pair.features = known.get(pair.id, pair.features)
