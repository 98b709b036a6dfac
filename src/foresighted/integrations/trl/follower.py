"""The follower inside a trainer: one of several equal replicas."""

from __future__ import annotations

from foresighted.alignment.probed import ProbedFollower
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.processes import Processes
from foresighted.models.reward_model import RewardModel


class Replica(ProbedFollower):
    """The reward model of a run as one process holds it.

    Args:
        reward_model: the reward model, on its device.
        config: how it learns.
        together: the processes that hold a replica.
    """

    def __init__(self, reward_model: RewardModel, config: FPOConfig, together: Processes) -> None:
        super().__init__(reward_model, config, share=together.share, reduce=together.sum)
        self.config = config
        self.together = together

    def update(self) -> float | None:
        """Learn as every `Follower` does, the same on every process.

        Raises:
            NumericalError: a loss that is not finite.
            RunError: replicas that differ afterwards.
        """
        loss = super().update()
        if loss is not None:
            when = f"update {self.buffer.counts.updates}"
            self.together.check_equal(self.learner.parameters, "reward model", when)
        return loss
