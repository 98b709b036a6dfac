"""Who labels a run's pairs: what is asked on the first process, and what every process makes of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from foresighted.alignment.foresight import Scores
from foresighted.errors import RunError
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.groups import Batch
from foresighted.integrations.trl.processes import Processes
from foresighted.labels.asking import Asker, LabellerError
from foresighted.labels.buffer import Buffer
from foresighted.labels.pair import Pair, Place, pair_id
from foresighted.texts import text_of
from foresighted.types import Text

_log = logging.getLogger(__name__)


class Panel:
    """Asks for labels of pairs, and hands what it gets to the reward model's buffer.

    Args:
        labels: a labeller, a queue, or None.
        config: limits.
        buffer: of the follower.
        together: the processes that hold the reward model; the first of them asks.
    """

    def __init__(self, labels: Any, config: FPOConfig, buffer: Buffer, together: Processes) -> None:
        self._asker: Asker | None = None
        if labels is not None:
            self._asker = Asker(
                labels, sampled=config.sampled_labels, seed=config.seed, timeout=config.label_timeout,
                retries=config.label_retries,
            )  # fmt: skip
        self._most_failures = config.label_failures
        self._buffer = buffer
        self._together = together

    def ask(
        self, batch: Batch, rows: list[list[int]], places: Sequence[Place], scores: Scores, *, keep_features: bool
    ) -> tuple[list[Pair], int]:
        """Have pairs labelled, and hand them to the buffer.

        Args:
            batch: rows of all processes.
            rows: of each group.
            places: of the pairs.
            scores: of the round.
            keep_features: the head's inputs of a text never change.

        Returns:
            The pairs, and how many labels were asked for and not given.

        Raises:
            RunError: too many rounds without any answer.
        """
        buffer, asker = self._buffer, self._asker
        number = buffer.counts.rounds
        features = scores.features if keep_features else None
        pairs = [_pair(number, batch, rows, place) for place in places]
        if asker is None:
            return pairs, 0
        for pair, (group, first, second) in zip(pairs, places, strict=True):
            pair.asked = text_of(pair.first) != text_of(pair.second)
            pair.label = None if pair.asked else 0.5  # neither of two equal texts is preferred
            pair.features = None if features is None else features[group, [first, -1 if second is None else second]]
        asked = [pair for pair in pairs if pair.asked]
        said = self._first_process(lambda: self._answers(asker, batch, rows, pairs, number))
        for pair, (label, first, second) in zip(pairs, said["pairs"], strict=True):
            pair.label, pair.first_utility, pair.second_utility = label, first, second
        if said["failed"]:
            buffer.fail(len(asked))
            if buffer.counts.rounds_failed >= self._most_failures:
                raise RunError(
                    f"labels: no answer in {buffer.counts.rounds_failed} rounds one after the other; the log says why."
                    " Mend the labeller and go on from the last checkpoint"
                )
            return pairs, len(asked)
        if asker.queue is None:
            buffer.add(asked, read=len(asked))
        else:
            buffer.wait_for(asked)
        return pairs, 0

    def _answers(
        self, asker: Asker, batch: Batch, rows: list[list[int]], pairs: list[Pair], number: int
    ) -> dict[str, Any]:
        """Return label and utilities of each pair, and whether the labeller failed, as JSON."""
        failed = False
        if asker.queue is None:
            _read_utilities(asker, batch, rows, pairs)
        try:
            asker.ask([pair for pair in pairs if pair.asked], number)
        except LabellerError as error:  # whatever a labeller's network or model does, training goes on
            _log.warning("%s; round %d is skipped", error, number)
            failed = True
        known = [(pair.label, pair.first_utility, pair.second_utility) for pair in pairs]
        return {"pairs": known, "failed": failed}

    def utilities(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller knows none."""
        asker = self._asker
        if asker is None:
            return [None] * len(prompts)
        known: list[float | None] = self._first_process(lambda: _utility(asker, prompts, responses))
        return known

    def collect(self) -> None:
        """Take the labels that came into the queue since the last update."""
        asker = self._asker
        if asker is not None:
            self._buffer.arrived(self._first_process(lambda: self._collected(asker)))

    def _collected(self, asker: Asker) -> dict[str, float]:
        try:
            return asker.collect(self._buffer.pending)
        except LabellerError as error:
            _log.warning("%s; no label is taken this time", error)
            return {}

    def _first_process(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns on the first process, on all that hold the reward model.

        Raises:
            ForesightedError: the first process's own; a `RunError` with the same words elsewhere.
        """
        result = self._together.attempt(lambda: work() if self._together.rank == 0 else None)
        return self._together.broadcast(result)


def _pair(number: int, batch: Batch, rows: list[list[int]], place: Place) -> Pair:
    group, references = rows[place.group], batch.references
    texts = batch.responses if place.second is not None else references
    if texts is None:
        raise RunError("reference: this round has none; it is compared with the group's other responses")
    prompt, first = batch.prompts[group[0]], batch.responses[group[place.first]]
    second = texts[group[0 if place.second is None else place.second]]
    return Pair(pair_id(number, prompt, first, second), prompt, first, second, place=place)


def _read_utilities(asker: Asker, batch: Batch, rows: list[list[int]], pairs: Sequence[Pair]) -> None:
    """Fill in the utilities of a round's own responses, each read once."""
    places = [pair.place for pair in pairs if pair.place is not None]
    wanted = sorted({rows[p.group][n] for p in places for n in (p.first, p.second) if n is not None})
    found = _utility(asker, [batch.prompts[i] for i in wanted], [batch.responses[i] for i in wanted])
    known = dict(zip(wanted, found, strict=True))
    for pair, place in zip(pairs, places, strict=True):
        pair.first_utility = known[rows[place.group][place.first]]
        if place.second is not None:
            pair.second_utility = known[rows[place.group][place.second]]


def _utility(asker: Asker, prompts: Sequence[Text], responses: Sequence[Text]) -> list[float | None]:
    """Return utilities; they are for the records, so a labeller that fails is no reason to stop."""
    try:
        return asker.utility([text_of(p) for p in prompts], [text_of(r) for r in responses])
    except LabellerError as error:
        _log.warning("%s; no utility this time", error)
        return [None] * len(prompts)
