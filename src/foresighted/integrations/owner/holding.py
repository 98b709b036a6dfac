"""Groups whose responses come one by one, from many places: held until they are whole, or until their deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from foresighted.errors import DataError, ForesightedError
from foresighted.integrations.owner.answer import Answer, GroupIncomplete
from foresighted.integrations.owner.book import Book
from foresighted.integrations.owner.desk import Desk, Job
from foresighted.integrations.owner.events import Incomplete
from foresighted.integrations.owner.scoring import Texts, digest
from foresighted.prompts import prompt_id
from foresighted.texts import text_of
from foresighted.types import Text


@dataclass
class Held:
    """A group that is coming together, or is being scored."""

    run: str
    group: str
    size: int
    prompt: Text
    step: int | None
    references: list[Text] = field(default_factory=list)
    responses: dict[int, tuple[str, Text]] = field(default_factory=dict)
    """By place: digest and text."""
    answers: Future[dict[int, Answer]] = field(default_factory=Future)
    timer: asyncio.TimerHandle | None = None
    taken: bool = False
    """It is being scored."""
    late: int | None = None
    """Place of a single response that came when its group had been paid."""

    @property
    def key(self) -> tuple[str, str, int | None]:
        """Return what it is known by."""
        return self.run, self.group, self.late


class Holding:
    """Holds groups, and hands them to the desk.

    Args:
        book: what was answered before.
        desk: scores.
    """

    def __init__(self, book: Book, desk: Desk) -> None:
        self._book, self._desk = book, desk
        self._held: dict[tuple[str, str, int | None], Held] = {}

    @property
    def waiting(self) -> list[Held]:
        """Groups that are not whole yet."""
        with self._book.turn:
            return [held for held in self._held.values() if not held.taken]

    def add(
        self, run: str, group: str, size: int, prompt: Text, responses: dict[int, Text], *, step: int | None,
        references: Sequence[Text] | None,
    ) -> dict[int, Future[dict[int, Answer]]]:  # fmt: skip  # one argument a line says no more
        """Return what will come of responses of a group, by place; the last of them has it scored.

        Raises:
            DataError: they do not go with what came of the group before.
        """
        digests = {place: digest(text) for place, text in responses.items()}
        given = list(references or ())
        with self._book.turn:
            known = {place: self._book.known(run, group, place, own) for place, own in digests.items()}
            found = {
                place: _answered(place, answer) for place, answer in known.items() if answer is not None
            }  # retries
            rest = {place: (digests[place], text) for place, text in responses.items() if place not in found}
            if not rest:
                return found
            self._check_references(run, group, size, self._references(prompt, given))
            held = self._held.get((run, group, None))
            if found or self._passed(run, group, size, held, rest):
                for place, own in rest.items():
                    found[place] = self._late(Held(run, group, size, prompt, step, given, {place: own}, late=place))
                return found
            if held is None:
                held = self._held[run, group, None] = Held(run, group, size, prompt, step)
                deadline = self._book.config.group_deadline
                held.timer = asyncio.get_running_loop().call_later(deadline, self._expire, held)
            self._check(held, size, prompt, digests)
            held.responses |= rest
            held.references = held.references or given
            if len(held.responses) == held.size and not held.taken:
                self._score(held)
            return dict.fromkeys(rest, held.answers)

    def _passed(self, run: str, group: str, size: int, held: Held | None, rest: Collection[int]) -> bool:
        """Return whether a group was paid, or is being paid, without some responses that come now."""
        if held is None:
            return size > 1 and self._book.passed(run, group)
        return held.taken and any(place not in held.responses for place in rest)

    def _late(self, held: Held) -> Future[dict[int, Answer]]:
        """Return what will come of a response that came when its group was paid: the bare reward, once."""
        before = self._held.setdefault(held.key, held)
        if before is held:
            self._score(held)
        return before.answers

    def _check(self, held: Held, size: int, prompt: Text, digests: dict[int, str]) -> None:
        where = f"group {held.group!r:.60} of run {held.run!r:.40}"
        if size != held.size:
            raise DataError(f"size: got {size} for {where}, of which others said {held.size}; name one size a group")
        if text_of(prompt) != text_of(held.prompt):
            raise DataError(f"prompt: {where} came with two; a group has one prompt, give another its own group")
        for place, own in digests.items():
            if held.responses.get(place, (own, ""))[0] != own:
                raise DataError(
                    f"member: {place} of {where} came with two texts; number the responses of a group from 0, each once"
                )

    def _score(self, held: Held) -> None:
        """Hand a group to the desk. The caller holds the book's turn."""
        held.taken = True
        if held.timer is not None:
            held.timer.cancel()
        state = self._book.state
        state.number += 1
        texts = Texts(
            held.run, held.group, held.step, held.size, held.prompt,
            {place: text for place, (_, text) in held.responses.items()},
            self._references(held.prompt, held.references), state.number,
        )  # fmt: skip
        job = Job(texts, held.answers)
        held.answers.add_done_callback(lambda _: self._done(held))
        self._desk.take(job)

    def _references(self, prompt: Text, given: list[Text]) -> list[Text]:
        """Return the references of a prompt: those that came with it, or that came with it before."""
        kept = self._book.state.references.get(prompt_id(prompt), [])
        return [] if self._book.config.reference == "leave-one-out" else given or kept

    def _check_references(self, run: str, group: str, size: int, found: list[Text]) -> None:
        config, where = self._book.config, f"group {group!r:.60} of run {run!r:.40}"
        if not found and config.reference == "given":
            raise DataError(f"references: none came with {where}, nor with its prompt before; send some")
        if not found and size == 1 and config.form.needs != "nothing":
            raise DataError(
                f"size: {where} has one response and no reference to compare it with; send references of its prompt, or"
                " several responses a prompt, or use steering rlhf"
            )

    def _done(self, held: Held) -> None:
        with self._book.turn:
            if self._held.get(held.key) is held:
                del self._held[held.key]

    def _expire(self, held: Held) -> None:
        """End a group whose deadline is there."""
        with self._book.turn:
            if held.taken or self._held.get(held.key) is not held:
                return
            if self._book.config.incomplete == "bare":
                self._score(held)
                return
            del self._held[held.key]
        if self._book.fault is not None:
            held.answers.set_exception(self._book.fault)
            return
        members = sorted(held.responses)
        self._book.commit(Incomplete(held.run, held.group, held.size, members))
        held.answers.set_exception(
            GroupIncomplete(
                f"group: {held.group!r:.60} of run {held.run!r:.40} has {len(members)} of {held.size} responses"
                f" {self._book.config.group_deadline:g} s after its first one; see why the others did not come, raise"
                " group_deadline, or have the bare reward paid with incomplete bare"
            )
        )

    def drop(self, error: ForesightedError) -> None:
        """Answer every group that is not whole with an error."""
        with self._book.turn:
            left = [held for held in self._held.values() if not held.taken]
            self._held = {key: held for key, held in self._held.items() if held.taken}
        for held in left:
            if held.timer is not None:
                held.timer.cancel()
            held.answers.set_exception(error)


def _answered(place: int, answer: Answer) -> Future[dict[int, Answer]]:
    done: Future[dict[int, Answer]] = Future()
    done.set_result({place: answer})
    return done
