"""What happens to an owner, each a line of its journal: the one source that everything else is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foresighted.errors import DataError
from foresighted.integrations.owner.answer import Answer
from foresighted.store.rows import decode


@dataclass(frozen=True)
class Member:
    """One response of a group, and what it was paid."""

    member: int
    digest: str
    """Of its text: a retry brings the same."""
    text: Any
    tokens: int
    score: float
    """r(x, y)."""
    penalty: float
    reference: float
    """The reward of what it is compared with."""
    gram: float
    """S."""


@dataclass(frozen=True)
class Asked:
    """One pair of a group that a label is asked for: places of its responses, None for the first reference."""

    id: str
    first: int
    second: int | None
    margin: float
    """r(first) - r(second) when the group was scored."""


@dataclass(frozen=True)
class Group:
    """A group was scored; written before anybody is answered."""

    number: int
    run: str
    group: str
    step: int | None
    size: int
    version: int
    foresight: bool
    prompt: Any
    references: list[Any]
    members: list[Member]
    """In order of place; fewer than `size` where the group was incomplete and the bare reward was paid."""
    pairs: list[Asked]
    gamma: float | None
    share: float | None
    cut: int
    """Texts of which the reward model read the prompt without its beginning."""
    spread: float | None
    """Of its rewards, where gamma is a share of it, and"""
    base_size: float | None
    """size of what gamma multiplies, as `steering.spread_and_size` says them."""
    event: Literal["group"] = "group"

    def answers(self) -> dict[int, Answer]:
        """Return what each response was paid, by place."""
        return {
            m.member: Answer(m.score - m.penalty, m.score, m.penalty, self.version, self.foresight)
            for m in self.members
        }

    @property
    def whole(self) -> bool:
        """Whether all responses came in time."""
        return len(self.members) == self.size


@dataclass(frozen=True)
class Label:
    """What is known of a pair."""

    label: float | None
    first_utility: float | None = None
    second_utility: float | None = None


@dataclass(frozen=True)
class Labels:
    """The pairs of a group were labelled, handed to a queue, or the labeller failed."""

    number: int
    """Of the group."""
    known: list[Label]
    """One a pair, in order."""
    failed: bool
    event: Literal["labels"] = "labels"


@dataclass(frozen=True)
class Collected:
    """Labels came into the queue."""

    labels: dict[str, float]
    event: Literal["collected"] = "collected"


@dataclass(frozen=True)
class Round:
    """A round is closed: the reward model learnt from its labels, or had none to learn from."""

    number: int
    version: int | None
    """That the update made; None where there was nothing to learn from."""
    parent: int
    groups: int
    """How many the round has."""
    learnt: list[str]
    """Ids of the pairs that are new to the reward model."""
    labels_sum: float
    """Of their labels, in single precision."""
    labels_total: int
    """Labels read so far."""
    loss: float | None
    drift: float | None
    records: dict[str, int]
    """Size of each record file before the round is added."""
    failed: str | None = None
    """Why the update came to nothing."""
    event: Literal["round"] = "round"


@dataclass(frozen=True)
class Rollback:
    """The reward model went back to an earlier version."""

    version: int
    reason: str
    event: Literal["rollback"] = "rollback"


@dataclass(frozen=True)
class Tie:
    """A trainer wrote its checkpoint of a step."""

    run: str
    step: int
    version: int
    records: dict[str, int]
    event: Literal["tie"] = "tie"


@dataclass(frozen=True)
class Restore:
    """A trainer went on from its checkpoint of a step: what came after the tie is as if it had not been, but for labels
    of groups that were there."""

    run: str
    step: int
    version: int
    place: int
    """Where the tie's line begins, in bytes."""
    event: Literal["restore"] = "restore"


@dataclass(frozen=True)
class Incomplete:
    """Responses of a group got an error, because others did not come in time."""

    run: str
    group: str
    size: int
    members: list[int]
    event: Literal["incomplete"] = "incomplete"


Event = Group | Labels | Collected | Round | Rollback | Tie | Restore | Incomplete
_KINDS: Mapping[str, type[Any]] = {
    kind.__name__.lower(): kind for kind in (Group, Labels, Collected, Round, Rollback, Tie, Restore, Incomplete)
}


def event_of(row: Mapping[str, Any], where: str) -> Event:
    """Return a line of the journal as what it says.

    Raises:
        DataError: it is none.
    """
    kind = _KINDS.get(str(row.get("event")))
    if kind is None:
        raise DataError(f"{where}: event {str(row.get('event'))!r:.40} is not known; restore the file")
    found: Event = decode(row, kind, where)
    return found
