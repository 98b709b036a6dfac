"""RewardOwner: one process that has the reward model, answers for groups of responses, and keeps learning."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from foresighted.alignment.probed import ProbedFollower
from foresighted.alignment.rows import Evaluated
from foresighted.errors import ConfigError, DataError, ForesightedError, RunError, one_line
from foresighted.integrations.owner import rounds, versions
from foresighted.integrations.owner.answer import Answer
from foresighted.integrations.owner.book import Book
from foresighted.integrations.owner.config import MAY_CHANGE, OwnerConfig
from foresighted.integrations.owner.desk import Desk, Question
from foresighted.integrations.owner.events import Restore, Rollback, Tie
from foresighted.integrations.owner.folder import check_version, signed, wish_of
from foresighted.integrations.owner.holding import Holding
from foresighted.integrations.owner.scoring import Scorer, device_of, placed
from foresighted.integrations.owner.status import of_state
from foresighted.integrations.owner.teacher import Teacher
from foresighted.integrations.owner.twin import twin
from foresighted.labels.asking import Asker
from foresighted.labels.labellers import as_labeller, named_labeller
from foresighted.labels.queue import LabelQueue, as_queue
from foresighted.models.reward_model import RewardModel
from foresighted.settings import check_labels, to_yaml
from foresighted.store.directory import Claim, claimed
from foresighted.store.environment import write_environment
from foresighted.store.files import byte_counts, cut
from foresighted.store.records import CANDIDATES, HELDOUT, ROUNDS
from foresighted.types import Text

RETRIES = 4096
"""Groups after which the same text is no retry any more."""


POLL = 0.5
"""Seconds between two looks at what `foresighted owner` asks."""
_log = logging.getLogger(__name__)


class RewardOwner:
    """Has a reward model with foresight, pays for groups of responses, has some labelled, and retrains meanwhile.

    Open one with `open`. Its folder is a run directory: `config.yaml`, `rounds.jsonl`, `candidates.jsonl`; beside them
    `journal.jsonl`, from which everything else is made, and `versions/`. One that died is opened again and goes on.
    """

    def __init__(self, book: Book, desk: Desk, teacher: Teacher, held: ExitStack) -> None:
        self._book, self._desk, self._teacher, self._lock = book, desk, teacher, held
        self._holding = Holding(book, desk)
        self._listener = threading.Thread(target=self._listen, daemon=True, name="foresighted-wishes")

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], config: OwnerConfig, labels: Any = None, *,
        scorer: Callable[[RewardModel, OwnerConfig], Scorer] = Scorer,
    ) -> RewardOwner:  # fmt: skip  # one argument a line says no more
        """Take up what lies in a folder, or begin there.

        Args:
            folder: made if need be; kept from every other process until `close`.
            config: settings; those of a folder that is taken up must be the same, but for some (docs/clusters.md).
            labels: who labels, in place of `config.labels`: a function of (prompts, first, second) or of one pair, an
                object with a utility too, or a `LabelQueue`.
            scorer: what makes the one that reads with the reward model.

        Raises:
            ConfigError: a form whose labels nobody gives in time.
            ModelError: a reward model that is none.
            RunError: another process has the folder, or it holds something else, another configuration, or damage.
        """
        if not isinstance(config, OwnerConfig):
            raise ConfigError(f"config: got {type(config).__name__}, expected OwnerConfig; labellers go to labels=")
        folder, config = Path(folder), config.resolved()
        device = device_of(config)
        asker = _asker(config, labels, device)
        queued = asker is not None and asker.queue is not None
        check_labels(config, asker is not None, queued)
        with ExitStack() as stack:
            claim = Claim("owner", to_yaml(config), MAY_CHANGE)
            stack.enter_context(claimed(claim, folder, resume=True))
            stack.enter_context(signed(folder))
            write_environment(folder, device)
            model = placed(config)
            reader, student = scorer(model, config), ProbedFollower(twin(model), config)
            book = Book(
                folder, config, labelled=asker is not None, queued=asker is not None and asker.queue is not None
            )
            teacher = Teacher(book, reader, student, asker)
            if not versions.present(folder):
                versions.save(folder, 0, student, [])
            for left in (v for v in versions.present(folder) if v > book.state.newest):
                shutil.rmtree(versions.folder_of(folder, left))  # its round was not closed when the owner died
            teacher.go_back()
            teacher.hand_over()
            if book.state.closed is not None:
                rounds.add(book, book.state.closed, book.state.last)
            teacher.look_back()
            desk = Desk(book, reader, teacher)
            owner = cls(book, desk, teacher, stack.pop_all())
            teacher.start()
            desk.start()
            owner._listener.start()
            return owner

    async def score(
        self, run: str, group: str, member: int, size: int, prompt: Text, response: Text, *, step: int | None = None,
        evaluation: bool = False, references: Sequence[Text] | None = None,
    ) -> Answer:  # fmt: skip  # one argument a line says no more
        """Return what a response is paid, once all of its group are there.

        Args:
            run: whose group it is.
            group: name of the group, which no other group of the run has.
            member: place of the response in it, from 0.
            size: responses of the group.
            prompt: text or messages, the same for the whole group.
            response: text or messages.
            step: the trainer's, for the records.
            evaluation: the bare reward at once; nothing is held, labelled or learnt.
            references: responses of the frozen policy to the prompt; kept for it from the first time on.

        Raises:
            GroupIncomplete: others did not come in time (`group_deadline`).
            DataError: what does not go with the group's other responses, or is no text.
            RunError: the owner is closed, or went back to an earlier step meanwhile, or its labeller failed for good.
        """
        _check_place(member, size)
        answers = await self._answers(run, group, size, prompt, {member: response}, step, evaluation, references)
        return answers[member]

    async def score_group(
        self, run: str, group: str, prompt: Text, responses: Sequence[Text], *, step: int | None = None,
        evaluation: bool = False, references: Sequence[Text] | None = None,
    ) -> list[Answer]:  # fmt: skip  # one argument a line says no more
        """Return what each response of a whole group is paid; arguments and errors as those of `score`."""
        _check_place(0, len(responses))
        every = dict(enumerate(responses))
        answers = await self._answers(run, group, len(responses), prompt, every, step, evaluation, references)
        return [answers[place] for place in every]

    async def _answers(
        self, run: str, group: str, size: int, prompt: Text, responses: dict[int, Text], step: int | None,
        evaluation: bool, references: Sequence[Text] | None,
    ) -> dict[int, Answer]:  # fmt: skip
        if self._book.closed:
            raise RunError("owner: is closed; open it again")
        if self._book.fault is not None:
            raise self._book.fault
        _check_names(run, group, step)
        _check_texts(prompt, *responses.values(), *(references or ()))
        if evaluation:
            question = Question([prompt] * len(responses), list(responses.values()))
            self._desk.take(question)
            answers = await asyncio.shield(asyncio.wrap_future(question.answers))
            rows = zip(question.prompts, question.responses, question.tokens, strict=True)
            said = [Evaluated(*row, answers[place].score, None) for place, row in enumerate(rows)]
            await asyncio.to_thread(self._teacher.evaluated, said)
            return dict(zip(responses, answers.values(), strict=True))
        found = self._holding.add(run, group, size, prompt, responses, step=step, references=references)
        waited = {future: asyncio.wrap_future(future) for future in set(found.values())}
        for future in waited.values():
            await asyncio.shield(future)
        return {place: (await waited[future])[place] for place, future in found.items()}

    @property
    def queue(self) -> LabelQueue | None:
        """Who answers rounds later, where labels come from a queue."""
        return self._teacher.queue

    def name_of_retry(self, run: str, text: str) -> str:
        """Return the group of a response that came alone and without a name.

        The same text is a retry while at most `RETRIES` groups came after it; later it is a response of its own.
        """
        with self._book.turn:
            for number in itertools.count():
                name = f"{text}-{number}"
                places = self._book.state.answered.get((run, name))
                if not places or self._book.state.number - self._book.journal.group(places[-1]).number <= RETRIES:
                    return name
        raise AssertionError

    async def status(self) -> dict[str, Any]:
        """Return what the owner has done and what it waits for, as plain values."""
        book = self._book
        with book.turn:
            state, held = book.state, self._holding.waiting
            waiting = {"held": len(held), "held_responses": sum(len(one.responses) for one in held)}
            said = {"fault": str(book.fault or ""), "last_error": book.last_error, "closed": book.closed}
            verdict = self._teacher.monitor.verdict
            said["verdict"] = "" if verdict is None else f"{verdict.verdict}: {verdict.reason}"
            return of_state(state, versions.present(book.folder)) | waiting | said

    async def rollback(self, version: int, reason: str) -> None:
        """Go back to an earlier version; the next update starts from there. Labels that came since stay in the journal.

        Raises:
            RunError: there is no such version.
        """
        await asyncio.to_thread(self._rollback, version, reason)

    def _rollback(self, version: int, reason: str) -> None:
        book = self._book
        with book.quiet:
            check_version(version, versions.present(book.folder), book.state.newest)
            book.generation += 1
            book.commit(Rollback(version, reason))
            self._teacher.go_back()
            self._teacher.hand_over()

    def _listen(self) -> None:
        """Do what `foresighted owner` asks by the folder, until the owner is closed."""
        book = self._book
        while True:
            with book.turn:
                if book.turn.wait_for(lambda: book.closed, POLL):
                    return
            wish = wish_of(book.folder)
            if wish is not None:
                try:
                    self._rollback(wish.version, wish.reason)
                except ForesightedError as error:
                    _log.warning("owner: %s", error)

    async def tie(self, run: str, step: int) -> int:
        """Write down which version belongs to a trainer's checkpoint at `step`, and return it."""

        def write() -> int:
            book = self._book
            with book.quiet:  # so that no version takes its place meanwhile
                version = book.state.version
                book.commit(Tie(run, step, version, byte_counts(book.folder, (HELDOUT,))))
                return version

        return await asyncio.to_thread(write)

    async def restore(self, run: str, step: int) -> int:
        """Go back to what the owner was at a trainer's checkpoint, and return the version that belongs to it.

        Groups since then are forgotten, and their records; labels of groups from before are not.

        Raises:
            RunError: nothing is tied to this step.
        """
        return await asyncio.to_thread(self._restore, run, step)

    def _restore(self, run: str, step: int) -> int:
        book = self._book
        with book.quiet:
            if (run, step) not in book.state.ties:
                known = sorted(s for r, s in book.state.ties if r == run)
                told = f"tied are {', '.join(map(str, known[-8:]))}" if known else "none is; tie each checkpoint"
                raise RunError(f"step: nothing is tied to step {step} of run {run!r:.40}; {told}")
            place, tie = book.state.ties[run, step]
            gone = RunError(f"owner: went back to step {step} of run {run!r:.40} meanwhile; ask again")
            self._holding.drop(gone)
            self._desk.drop(gone)
            self._teacher.forget_evaluations(tie.records[HELDOUT])
            book.begin_again(Restore(run, step, tie.version, place))
            if book.state.closed is not None:
                rounds.add(book, book.state.closed, book.state.last)
            else:
                for name in (n for n, size in byte_counts(book.folder, (CANDIDATES, ROUNDS)).items() if size):
                    cut(book.folder / name, 0)
            self._teacher.look_back()
            self._teacher.go_back()
            self._teacher.hand_over()
            return tie.version

    async def close(self) -> None:
        """End: groups that are not whole get an error, those that are get their answers; the folder is free then."""
        if self._book.closed:
            return
        self._holding.drop(RunError("owner: is being closed; the group was not whole yet"))
        self._book.close()
        await asyncio.to_thread(self._desk.join)
        await asyncio.to_thread(self._teacher.join)
        self._teacher.release()
        self._desk.drop(RunError("owner: is closed; ask again when it is open"))
        await asyncio.to_thread(self._listener.join)
        self._lock.close()


def _asker(config: OwnerConfig, labels: Any, device: torch.device) -> Asker | None:
    labels = named_labeller(config.labels, device) if labels is None and config.labels else labels
    if labels is None:
        return None
    found = as_queue(labels)
    found = found if isinstance(found, LabelQueue) else as_labeller("labels", found)
    return Asker(
        found, sampled=config.sampled_labels, seed=config.seed, timeout=config.label_timeout,
        retries=config.label_retries,
    )  # fmt: skip


def _check_place(member: int, size: int) -> None:
    if type(size) is not int or size < 1:
        raise DataError(f"size: got {size!r:.40}, must be a whole number from 1 on")
    if type(member) is not int or not 0 <= member < size:
        raise DataError(f"member: got {member!r:.40} in a group of {size}; number them from 0")


def _check_names(run: Any, group: Any, step: Any) -> None:
    for name, value in (("run", run), ("group", group)):
        if not isinstance(value, str) or not value:
            raise DataError(f"{name}: got {value!r:.60}; give a name, as text")
    if step is not None and (type(step) is not int or step < 0):
        raise DataError(f"step: got {step!r:.60}; give the trainer's step, a whole number from 0 on, or none")


def _check_texts(*texts: Any) -> None:
    for text in texts:
        talk = isinstance(text, list) and bool(text) and all(isinstance(m, dict) and "role" in m for m in text)
        if not (isinstance(text, str) or talk):
            raise DataError(f"prompt and response: got {text!r:.60}; each is text, or a list of messages")
        try:
            json.dumps(text, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:  # of something in a message, or half of a surrogate pair
            told = f"prompt and response: {text!r:.60} cannot be written ({one_line(error)[:80]}); send plain text"
            raise DataError(told) from None
