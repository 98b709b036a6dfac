"""What an owner answers, and the one error of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from foresighted.errors import RunError


class GroupIncomplete(RunError):  # noqa: N818  # the interface's name
    """A group whose responses did not all come in time. No response of it was paid anything."""


@dataclass(frozen=True)
class Answer:
    """What a response is paid, and why."""

    reward: float
    """What the policy is paid: `score` - `penalty`."""
    score: float
    """What the reward model says, r(x, y)."""
    penalty: float
    """The steering penalty that was taken off, in units of reward; 0 where none was."""
    version: int
    """Of the reward model, the same for the whole group."""
    foresight: bool
    """False where the bare reward was paid: in evaluation, for an incomplete group where `incomplete` says so, or where
    a label that the form reads was not given."""

    def row(self) -> dict[str, float | int | bool]:
        """Return the same as plain values, for an engine's own logs."""
        return asdict(self)
