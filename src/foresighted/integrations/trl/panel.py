"""Who labels a run's pairs: what is asked on the first process, and what every process makes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from foresighted.alignment.foresight import Scores
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.follower import Follower
from foresighted.integrations.trl.groups import Batch, Text, text_of
from foresighted.integrations.trl.labelling import Asker, LabelQueue, Question, checked
from foresighted.integrations.trl.pairs import Labelled, Pair, preferences, same
from foresighted.integrations.trl.processes import Processes


class Answers(NamedTuple):
    """What was asked about a round's pairs, and what came back."""

    pairs: list[Pair]
    labels: list[float | None]
    """None where nobody answered, or will later."""
    read: int
    failed: int
    utilities: dict[int, float | None]
    """By row of the batch."""

    def means(self, groups: int, size: int) -> list[list[float | None]]:
        """Return the mean label of each response, None where it has none."""
        known = [(pair, label) for pair, label in zip(self.pairs, self.labels, strict=True) if label is not None]
        return preferences([pair for pair, _ in known], [label for _, label in known], groups, size)

    def judged(self, scores: Scores) -> list[tuple[float, float]]:
        """Return the margin r(first) - r(second) and the label of each labelled pair."""
        reward, reference = scores.reward.tolist(), scores.reference_reward.tolist()
        found = []
        for pair, label in zip(self.pairs, self.labels, strict=True):
            if label is not None:
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
        self._follower = follower
        self._together = together

    def ask(self, batch: Batch, rows: list[list[int]], pairs: list[Pair], scores: Scores) -> Answers:
        """Have pairs labelled, and hand them to the reward model's buffer; the first process asks for all."""
        follower = self._follower
        if self._asker is None and self._queue is None:
            return Answers(pairs, [None] * len(pairs), 0, 0, {})
        texts = [_texts(batch, rows, pair) for pair in pairs]
        open_ = [i for i, (_, first, second) in enumerate(texts) if not same(first, second)]
        number = follower.counts.rounds
        labelled = {i: Labelled(f"{number}-{i}", *texts[i], None, _features(scores, pairs[i], follower)) for i in open_}
        questions = [Question(labelled[i].id, number, *map(text_of, texts[i])) for i in open_]
        asked = sorted({rows[p.group][n] for p in pairs for n in (p.first, p.second) if n is not None})
        said = self._first_process(lambda: self._answers_of(questions, batch, asked))
        labels: list[float | None] = [0.5] * len(pairs)  # neither of two equal texts is preferred
        for place, i in enumerate(open_):
            labels[i] = None if said["labels"] is None else said["labels"][place]
            labelled[i].label = labels[i]
        utilities = dict(zip(asked, said["utility"], strict=True)) if said["utility"] else {}
        if self._queue is not None:
            follower.wait_for(list(labelled.values()))
            return Answers(pairs, labels, 0, 0, utilities)
        failed = len(open_) if said["labels"] is None else 0
        follower.counts.labels_failed += failed
        if not failed:
            follower.counts.labels_total += len(open_)
            follower.ready += labelled.values()
        return Answers(pairs, labels, len(open_) - failed, failed, utilities)

    def _answers_of(self, questions: list[Question], batch: Batch, asked: list[int]) -> dict[str, Any]:
        if self._queue is not None:
            self._queue.submit(questions)
            return {"labels": None, "utility": []}
        assert self._asker is not None
        columns = [[getattr(q, name) for q in questions] for name in ("prompt", "first", "second")]
        labels = self._asker.preferences(*columns) if questions else []
        rows = [[text_of(texts[i]) for i in asked] for texts in (batch.prompts, batch.responses)]
        return {"labels": labels, "utility": self._asker.utility(*rows)}

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
        said = self._first_process(queue.collect)
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


def _features(scores: Scores, pair: Pair, follower: Follower) -> Tensor | None:
    """Return the head's inputs of a pair, shape 2 D, where they never change."""
    if scores.features is None or not follower.classifier.head_only:
        return None
    own = scores.features[pair.group]
    return own[[pair.first, -1 if pair.second is None else pair.second]]
