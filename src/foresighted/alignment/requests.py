"""What a round asks of the models, the labeller and the optimisers: each a request that is awaited.

A round is a coroutine. One that is played alone gets its answers at once; of several that are played side by side, the
requests of one kind are carried out together (`together.py`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from foresighted.labels.pair import Pair
from foresighted.models.rollout import Rollout

T = TypeVar("T")
Played = Coroutine["Request[Any]", Any, T]
"""Something that is played by having its requests answered, and ends in a T."""


@dataclass(frozen=True, eq=False)
class Request(Generic[T]):
    """Something to be done for one experiment."""

    stage: ClassVar[int]
    """Its turn: of experiments that wait, those of the lowest stage are answered first, so that the others of their
    round catch up with those that are ahead."""

    def __await__(self) -> Generator[Request[T], T, T]:
        return (yield self)


@dataclass(frozen=True, eq=False)
class Sample(Request[Rollout]):
    """Let the policy write `n` responses to each prompt; arguments as `Policy.sample`."""

    stage: ClassVar[int] = 0
    prompts: Sequence[str]
    n: int
    keys: Sequence[int]

    @property
    def shape(self) -> tuple[int, int]:
        """What requests must have in common to be one batch: prompts, and responses to each."""
        return len(self.prompts), self.n


@dataclass(frozen=True, eq=False)
class Features(Request[Tensor]):
    """Read the inputs of the reward model's head, shape R D."""

    stage: ClassVar[int] = 1
    prompts: Sequence[Any]
    texts: Sequence[Any]


@dataclass(frozen=True, eq=False)
class TokenLogP(Request[Tensor]):
    """Read what the policy, in training mode, says of each token of each response, in nats, shape R T."""

    stage: ClassVar[int] = 2
    prompts: Sequence[str]
    responses: Rollout
    share: bool = True
    """Equal prompts are read once; else one pass over whole sequences."""
    gradient: bool = True

    @property
    def shape(self) -> tuple[int, bool, bool]:
        """What requests must have in common to be one batch: rows, and how they are read."""
        return len(self.prompts), self.share, self.gradient


@dataclass(frozen=True, eq=False)
class LogLikelihood(Request[Tensor]):
    """Read what the policy, or the frozen one, says of each response, in nats, shape R."""

    stage: ClassVar[int] = 3
    prompts: Sequence[str]
    responses: Rollout
    frozen: bool


@dataclass(frozen=True, eq=False)
class Utilities(Request[list[float | None]]):
    """Read the true utility of each response."""

    stage: ClassVar[int] = 4
    prompts: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True, eq=False)
class Labels(Request[None]):
    """Have pairs measured and labelled; what is said is filled in."""

    stage: ClassVar[int] = 5
    pairs: Sequence[Pair]


@dataclass(frozen=True, eq=False)
class Questions(Request[None]):
    """Put pairs of a round into the queue of people who answer rounds later."""

    stage: ClassVar[int] = 6
    pairs: Sequence[Pair]
    number: int


@dataclass(frozen=True, eq=False)
class Arrivals(Request[None]):
    """Hand the follower what people have answered since, once as many labels as the configuration waits for are in."""

    stage: ClassVar[int] = 7


@dataclass(frozen=True, eq=False)
class Fit(Request[float | None]):
    """Let the follower learn from what is new; its loss before, None where nothing is."""

    stage: ClassVar[int] = 8


@dataclass(frozen=True, eq=False)
class Backward(Request[None]):
    """Add a loss's gradient to what it depends on."""

    stage: ClassVar[int] = 9
    loss: Tensor
