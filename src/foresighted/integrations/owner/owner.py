"""RewardOwner: one process that has the reward model, answers for groups of responses, and keeps learning."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from foresighted.alignment.players import named_device
from foresighted.alignment.probed import ProbedFollower, loaded
from foresighted.errors import DataError, RunError
from foresighted.integrations.owner import rounds, versions
from foresighted.integrations.owner.answer import Answer
from foresighted.integrations.owner.book import Book
from foresighted.integrations.owner.config import MAY_CHANGE, OwnerConfig
from foresighted.integrations.owner.desk import Desk, Question
from foresighted.integrations.owner.events import Restore, Rollback, Tie
from foresighted.integrations.owner.holding import Holding
from foresighted.integrations.owner.scoring import Scorer
from foresighted.integrations.owner.teacher import Teacher
from foresighted.integrations.owner.twin import twin
from foresighted.labels.asking import Asker
from foresighted.labels.labellers import as_labeller
from foresighted.labels.queue import LabelQueue, as_queue
from foresighted.settings import check_labels, to_yaml
from foresighted.store.directory import Claim, claimed
from foresighted.store.environment import write_environment
from foresighted.store.files import byte_counts, cut
from foresighted.store.records import CANDIDATES, HELDOUT, ROUNDS
from foresighted.types import Text


class RewardOwner:
    """Has a reward model with foresight, pays for groups of responses, has some labelled, and retrains meanwhile.

    Open one with `open`. Its folder is a run directory: `config.yaml`, `rounds.jsonl`, `candidates.jsonl`; beside them
    `journal.jsonl`, from which everything else is made, and `versions/`. One that died is opened again and goes on.
    """

    def __init__(self, book: Book, desk: Desk, teacher: Teacher, held: ExitStack) -> None:
        self._book, self._desk, self._teacher, self._lock = book, desk, teacher, held
        self._holding = Holding(book, desk)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], config: OwnerConfig, labels: Any = None) -> RewardOwner:
        """Take up what lies in a folder, or begin there.

        Args:
            folder: made if need be; kept from every other process until `close`.
            config: settings; those of a folder that is taken up must be the same, but for some (docs/clusters.md).
            labels: who labels, in place of `config.labels`: a function of (prompts, first, second) or of one pair, an
                object with a utility too, or a `LabelQueue`.

        Raises:
            ConfigError: a form whose labels nobody gives in time.
            ModelError: a reward model that is none.
            RunError: another process has the folder, or it holds something else, another configuration, or damage.
        """
        folder, config = Path(folder), config.resolved()
        asker = _asker(config, labels)
        queued = asker is not None and asker.queue is not None
        check_labels(config, asker is not None, queued)
        with ExitStack() as stack:
            claim = Claim("owner", to_yaml(config), MAY_CHANGE)
            stack.enter_context(claimed(claim, folder, resume=True))
            device = named_device("cpu" if config.device == "auto" and not _accelerated() else _device(config))
            write_environment(folder, device)
            model = loaded(config.reward_model, None, config)
            if not hasattr(model.body, "hf_device_map"):
                model.body.to(device)
                model.head.to(device)
            scorer, student = Scorer(model, config), ProbedFollower(twin(model), config)
            book = Book(
                folder, config, labelled=asker is not None, queued=asker is not None and asker.queue is not None
            )
            teacher = Teacher(book, scorer, student, asker)
            if not versions.present(folder):
                versions.save(folder, 0, student, [])
            for left in (v for v in versions.present(folder) if v > book.state.newest):
                shutil.rmtree(versions.folder_of(folder, left))  # its round was not closed when the owner died
            teacher.go_back()
            teacher.hand_over()
            if book.state.closed is not None:
                rounds.add(book, book.state.closed, book.state.last)
            desk = Desk(book, scorer, teacher)
            teacher.start()
            desk.start()
            return cls(book, desk, teacher, stack.pop_all())

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
        return answers[0 if evaluation else member]

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
        _check_texts(prompt, *responses.values(), *(references or ()))
        future: Future[dict[int, Answer]]
        if evaluation:
            question = Question([prompt] * len(responses), list(responses.values()))
            self._desk.take(question)
            future = question.answers
        else:
            future = self._holding.add(run, group, size, prompt, responses, step=step, references=references)
        return await asyncio.shield(asyncio.wrap_future(future))

    async def status(self) -> dict[str, Any]:
        """Return what the owner has done and what it waits for, as plain values."""
        book = self._book
        with book.turn:
            state, counts = book.state, book.state.buffer.counts
            held = self._holding.waiting
            return {
                "version": state.version, "versions": versions.present(book.folder), "rounds": state.rounds,
                "groups": state.groups, "responses": state.responses, "held": len(held),
                "held_responses": sum(len(one.responses) for one in held), "retrains": len(state.made),
                "rollbacks": state.rollbacks, "labels": counts.labels_total, "labels_failed": counts.labels_failed,
                "unlabelled_groups": len(state.unlabelled), "pairs_ready": len(state.buffer.ready),
                "pairs_pending": len(state.buffer.pending), "pairs_given_up": counts.given_up,
                "bare_responses": state.bare, "refused_responses": state.refused,
                "last_error": str(book.fault or book.last_error), "closed": book.closed,
            }  # fmt: skip

    async def rollback(self, version: int, reason: str) -> None:
        """Go back to an earlier version; the next update starts from there. Labels that came since stay in the journal.

        Raises:
            RunError: there is no such version.
        """
        await asyncio.to_thread(self._rollback, version, reason)

    def _rollback(self, version: int, reason: str) -> None:
        book = self._book
        with book.quiet:
            check_version(book.folder, book.state.newest, version)
            book.generation += 1
            book.commit(Rollback(version, reason))
            self._teacher.go_back()
            self._teacher.hand_over()

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
            if byte_counts(book.folder, (HELDOUT,))[HELDOUT] > tie.records[HELDOUT]:
                cut(book.folder / HELDOUT, tie.records[HELDOUT])
            book.begin_again(Restore(run, step, tie.version, place))
            if book.state.closed is not None:
                rounds.add(book, book.state.closed, book.state.last)
            else:
                for name in (n for n, size in byte_counts(book.folder, (CANDIDATES, ROUNDS)).items() if size):
                    cut(book.folder / name, 0)
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
        self._desk.drop(RunError("owner: is closed; ask again when it is open"))
        self._lock.close()


def check_version(folder: Path, newest: int, version: int) -> None:
    """Refuse a version that is not on disk, or that no closed round made.

    Raises:
        RunError: names those that are.
    """
    known = [one for one in versions.present(folder) if one <= newest]
    if version not in known:
        told = ", ".join(map(str, known[-8:])) or "none"
        raise RunError(f"version: got {version}; on disk are {'..., ' if len(known) > 8 else ''}{told}")


def _asker(config: OwnerConfig, labels: Any) -> Asker | None:
    if labels is None:
        return None
    found = as_queue(labels)
    found = found if isinstance(found, LabelQueue) else as_labeller("labels", found)
    return Asker(
        found, sampled=config.sampled_labels, seed=config.seed, timeout=config.label_timeout,
        retries=config.label_retries,
    )  # fmt: skip


def _accelerated() -> bool:
    import torch

    return torch.cuda.is_available()


def _device(config: OwnerConfig) -> str:
    return "cuda" if config.device == "auto" else config.device


def _check_place(member: int, size: int) -> None:
    if type(size) is not int or size < 1:
        raise DataError(f"size: got {size!r:.40}, must be a whole number from 1 on")
    if type(member) is not int or not 0 <= member < size:
        raise DataError(f"member: got {member!r:.40} in a group of {size}; number them from 0")


def _check_texts(*texts: Any) -> None:
    for text in texts:
        talk = isinstance(text, list) and bool(text) and all(isinstance(m, dict) and "role" in m for m in text)
        if not (isinstance(text, str) or talk):
            raise DataError(f"prompt and response: got {text!r:.60}; each is text, or a list of messages")
