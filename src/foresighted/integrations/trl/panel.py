"""Who labels a run's pairs: what is asked on the first process, and what every process makes of the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from foresighted.alignment.foresight import Scores
from foresighted.errors import RunError
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.follower import Follower
from foresighted.integrations.trl.groups import Batch
from foresighted.integrations.trl.labelling import Asker, LabelQueue, Question, again, checked
from foresighted.integrations.trl.pairs import Labelled, Pair, preferences, same
from foresighted.integrations.trl.processes import Processes
from foresighted.texts import text_of
from foresighted.types import Text


class Answers(NamedTuple):
    """What was asked about a round's pairs, and what came back."""

    pairs: list[Pair]
    labels: list[float | None]
    """None where nobody answered, or will later."""
    asked: list[bool]
    """False for two equal texts, whose label is one half."""
    read: int
    failed: int
    utilities: dict[int, float | None]
    """By row of the batch."""

    def means(self, groups: int, size: int) -> list[list[float | None]]:
        """Return the mean label of each response, None where it has none."""
        known = [(pair, label) for pair, label in zip(self.pairs, self.labels, strict=True) if label is not None]
        return preferences([pair for pair, _ in known], [label for _, label in known], groups, size)

    def judged(self, scores: Scores) -> list[tuple[float, float]]:
        """Return the margin r(first) - r(second) and the label of each pair that somebody labelled."""
        reward, reference = scores.reward.tolist(), scores.reference_reward.tolist()
        found = []
        for pair, label, asked in zip(self.pairs, self.labels, self.asked, strict=True):
            if label is not None and asked:
                own = reward[pair.group]
                other = reference[pair.group][0] if pair.second is None else own[pair.second]
                found.append((own[pair.first] - other, label))
        return found


class Panel:
    """Asks for labels of pairs, and hands what it gets to the follower.

    Args:
        labels: a labeller, a queue, or None.
        config: limits.
        follower: learns from the pairs.
        together: the processes that hold the reward model; the first of them asks.
    """

    def __init__(self, labels: Any, config: FPOConfig, follower: Follower, together: Processes) -> None:
        self._queue = labels if isinstance(labels, LabelQueue) else None
        self._asker = None if labels is None or self._queue is not None else Asker(labels, config)
        self._config = config
        self._follower = follower
        self._together = together

    def ask(self, batch: Batch, rows: list[list[int]], pairs: list[Pair], scores: Scores) -> Answers:
        """Have pairs labelled, and hand them to the reward model's buffer; the first process asks for all."""
        follower = self._follower
        if self._asker is None and self._queue is None:
            return Answers(pairs, [None] * len(pairs), [False] * len(pairs), 0, 0, {})
        texts = [_texts(batch, rows, pair) for pair in pairs]
        open_ = [i for i, (_, first, second) in enumerate(texts) if not same(first, second)]
        number = follower.counts.rounds
        labelled = {
            i: Labelled(_id(number, texts[i]), *texts[i], None, _features(scores, pairs[i], follower)) for i in open_
        }
        questions = [Question(labelled[i].id, number, *map(text_of, texts[i])) for i in open_]
        asked = sorted({rows[p.group][n] for p in pairs for n in (p.first, p.second) if n is not None})
        said = self._first_process(lambda: self._answers_of(questions, batch, asked))
        labels: list[float | None] = [0.5] * len(pairs)  # neither of two equal texts is preferred
        for place, i in enumerate(open_):
            labels[i] = None if said["labels"] is None else said["labels"][place]
            labelled[i].label = labels[i]
        utilities = dict(zip(asked, said["utility"], strict=True)) if said["utility"] else {}
        asking = [i in labelled for i in range(len(pairs))]
        failed = len(open_) if said["failed"] else 0
        follower.counts.labels_failed += failed
        follower.counts.rounds_failed = follower.counts.rounds_failed + 1 if failed else 0
        if follower.counts.rounds_failed >= self._config.label_failures:
            raise RunError(
                f"labels: no answer in {follower.counts.rounds_failed} rounds one after the other; the log says why."
                " Mend the labeller and go on from the last checkpoint"
            )
        if failed:
            return Answers(pairs, labels, asking, 0, failed, utilities)
        if self._queue is not None:
            follower.wait_for(list(labelled.values()))
            return Answers(pairs, labels, asking, 0, 0, utilities)
        follower.counts.labels_total += len(open_)
        follower.ready += labelled.values()
        return Answers(pairs, labels, asking, len(open_), 0, utilities)

    def _answers_of(self, questions: list[Question], batch: Batch, asked: list[int]) -> dict[str, Any]:
        queue = self._queue
        if queue is not None:
            done, _ = again(lambda: queue.submit(questions), self._config)
            return {"labels": None, "failed": not done, "utility": []}
        assert self._asker is not None
        columns = [[getattr(q, name) for q in questions] for name in ("prompt", "first", "second")]
        labels = self._asker.preferences(*columns) if questions else []
        rows = [[text_of(texts[i]) for i in asked] for texts in (batch.prompts, batch.responses)]
        return {"labels": labels, "failed": labels is None, "utility": self._asker.utility(*rows)}

    def utilities(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller knows none."""
        asker = self._asker
        if asker is None:
            return [None] * len(prompts)
        texts = [text_of(p) for p in prompts], [text_of(r) for r in responses]
        known: list[float | None] = self._first_process(lambda: asker.utility(*texts))
        return known

    def collect(self) -> None:
        """Take the labels that came into the queue since the last update."""
        follower = self._follower
        queue = self._queue
        if queue is None:
            return
        said = self._first_process(lambda: again(queue.collect, self._config)[1]) or {}
        waiting = {name: said[name] for name in follower.pending if name in said}
        follower.arrived(dict(zip(waiting, checked(list(waiting.values()), len(waiting)), strict=True)))

    def _first_process(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns on the first process, on all that hold the reward model.

        Raises:
            ForesightedError: the first process's own; a `RunError` with the same words elsewhere.
        """
        result = self._together.attempt(lambda: work() if self._together.rank == 0 else None)
        return self._together.broadcast(result)


def _texts(batch: Batch, rows: list[list[int]], pair: Pair) -> tuple[Text, Text, Text]:
    """Return prompt, first and second response of a pair."""
    group = rows[pair.group]
    first = batch.responses[group[pair.first]]
    if pair.second is not None:
        return batch.prompts[group[0]], first, batch.responses[group[pair.second]]
    assert batch.references is not None
    return batch.prompts[group[0]], first, batch.references[group[0]]


def _id(number: int, texts: tuple[Text, Text, Text]) -> str:
    """Return a name that another run's pair, or the same place's pair with other words, does not have."""
    return f"{number}-{hashlib.sha256(json.dumps([text_of(text) for text in texts]).encode()).hexdigest()[:12]}"


def _features(scores: Scores, pair: Pair, follower: Follower) -> Tensor | None:
    """Return the head's inputs of a pair, shape 2 D, where they never change."""
    if scores.features is None or not follower.classifier.head_only:
        return None
    own = scores.features[pair.group]
    return own[[pair.first, -1 if pair.second is None else pair.second]]
