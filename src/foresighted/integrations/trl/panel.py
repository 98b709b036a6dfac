"""Who labels a run's pairs: what is asked on the first process, and what every process makes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from foresighted.errors import RunError
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.processes import Processes
from foresighted.labels.asking import Asker, forgiven
from foresighted.labels.buffer import Buffer
from foresighted.labels.pair import Pair, unequal
from foresighted.labels.waiting import arrivals
from foresighted.texts import text_of
from foresighted.types import Text


class Panel:
    """Asks for labels of pairs, and hands what it gets to the reward model's buffer.

    Args:
        labels: a labeller, a queue, or None.
        config: limits.
        buffer: of the follower.
        together: the processes that hold the reward model; the first of them asks.
    """

    def __init__(self, labels: Any, config: FPOConfig, buffer: Buffer, together: Processes) -> None:
        self._asker = None if labels is None else Asker(
            labels, sampled=config.sampled_labels, seed=config.seed, timeout=config.label_timeout,
            retries=config.label_retries,
        )  # fmt: skip
        self._most_failures = config.label_failures
        self._wait_for = config.wait_for_labels
        self._buffer = buffer
        self._together = together

    def ask(self, pairs: list[Pair]) -> int:
        """Have a round's pairs labelled, and hand them to the buffer; return how many labels failed to come.

        Raises:
            RunError: too many rounds without any answer.
        """
        buffer, asker = self._buffer, self._asker
        if asker is None:
            return 0
        asked = unequal(pairs)
        said = self._first_process(lambda: self._answers(asker, pairs, asked))
        for pair, (label, first, second) in zip(pairs, said["known"], strict=True):
            pair.label, pair.first_utility, pair.second_utility = label, first, second
        if not said["failed"]:
            if asker.queue is None:
                buffer.add(asked, read=len(asked))
            else:
                buffer.wait_for(asked)
            return 0
        buffer.fail(len(asked))
        if buffer.counts.rounds_failed >= self._most_failures:
            raise RunError(
                f"labels: no answer in {buffer.counts.rounds_failed} rounds one after the other; the log says why."
                " Mend the labeller and go on from the last checkpoint"
            )
        return len(asked)

    def _answers(self, asker: Asker, pairs: list[Pair], asked: list[Pair]) -> dict[str, Any]:
        """Return label and utilities of each pair, and whether the labeller failed, as JSON."""
        if asker.queue is None:
            forgiven(lambda: asker.measure(pairs), None, "the records lack utilities")
        failed = forgiven(lambda: asker.ask(asked, self._buffer.counts.rounds), True, "this round is skipped")
        return {"known": [(p.label, p.first_utility, p.second_utility) for p in pairs], "failed": bool(failed)}

    def utilities(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller knows none."""
        asker, none = self._asker, [None] * len(prompts)
        if asker is None:
            return list(none)
        texts = [text_of(p) for p in prompts], [text_of(r) for r in responses]
        found = self._first_process(lambda: forgiven(lambda: asker.utility(*texts), none, "the records lack them"))
        return list(found)

    def collect(self) -> None:
        """Take the labels that came into the queue since the last update, once as many are there as are waited for."""
        asker, buffer = self._asker, self._buffer
        if asker is not None and asker.queue is not None:
            said = "no label is taken this time"
            came = lambda: arrivals(asker, buffer.pending, at_least=self._wait_for)  # noqa: E731
            buffer.arrived(self._first_process(lambda: forgiven(came, {}, said)))

    def _first_process(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns on the first process, on all that hold the reward model.

        Raises:
            ForesightedError: the first process's own; a `RunError` with the same words elsewhere.
        """
        result = self._together.attempt(lambda: work() if self._together.rank == 0 else None)
        return self._together.broadcast(result)
