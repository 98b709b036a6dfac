"""CollapseMonitor: watches what a trainer logs; warns, stops, or goes back to the last good checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from foresighted.errors import ConfigError, nearest
from foresighted.integrations.monitoring.monitor import SYMPTOMS, MetricsMonitor, Symptom, Verdict
from foresighted.models.pretrained import load_weights
from foresighted.statistics.series import ALPHA, WINDOW

_log = logging.getLogger(__name__)


class CollapseMonitor(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Watches a trainer's own metrics for collapse: a trusted metric falls while the optimised one does not.

    Without a trusted metric nothing can be called collapse: symptoms are named as suspicious, and only warned of.

    Args:
        gold: metric to trust: a reward of weight 0 (`rewards/gold/mean`), the same in evaluation
            (`eval_rewards/gold/mean`), or `fpo/utility`. None: symptoms only.
        proxy: metric that is optimised; default `fpo/reward_model` (the reward without our penalty) where it is logged,
            else `reward`, or `eval_reward` for a gold metric of evaluation.
        action: on collapse warn, stop training, or stop with the weights of the last checkpoint before the fall.
        window: logs that are averaged; a check is made each time as many are there.
        alpha: chance of a false alarm over the whole run.
        threshold: see `MetricsMonitor`.
        symptoms: metrics to warn of.
        webhook: http(s) address that each verdict is sent to as JSON.

    Raises:
        ConfigError: a window below 3, an alpha outside (0, 1), an unknown action, an address that is none.

    Example:
        >>> monitor = CollapseMonitor(gold="rewards/gold/mean", action="rollback")
        >>> trainer = GRPOTrainer(..., reward_funcs=[reward_model, gold], callbacks=[monitor])

    References:
        Ours (docs/trl.md).
    """

    def __init__(
        self,
        gold: str | None = None,
        proxy: str | None = None,
        *,
        action: Literal["warn", "stop", "rollback"] = "warn",
        window: int = WINDOW,
        alpha: float = ALPHA,
        threshold: float | None = None,
        symptoms: Sequence[Symptom] = SYMPTOMS,
        webhook: str | None = None,
    ) -> None:
        if action not in ("warn", "stop", "rollback"):
            close = nearest(str(action), ("warn", "stop", "rollback"))
            raise ConfigError(f"action: got {action!r}{close}, expected warn, stop or rollback")
        if gold is None and action != "warn":
            raise ConfigError(
                f"gold: got none; {action} needs a metric to trust, without which nothing is called collapse"
            )
        self._watched = MetricsMonitor(
            gold, proxy, window=window, alpha=alpha, threshold=threshold, symptoms=symptoms, webhook=webhook
        )
        self.gold = gold
        self.action = action
        self._checkpoints: list[int] = []

    @property
    def verdict(self) -> Verdict | None:
        """The collapse that was seen; None so far."""
        return self._watched.verdict

    @property
    def proxy(self) -> str:
        """Metric that is optimised."""
        return self._watched.proxy

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read again what was logged before a resumed run went on."""
        self._watched.out = Path(args.output_dir)
        self._watched.take_up(state.log_history)
        steps = [path.name.rpartition("-")[2] for path in Path(args.output_dir).glob("checkpoint-*")]
        self._checkpoints = [int(step) for step in steps if step.isdigit() and int(step) <= state.global_step]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember a checkpoint."""
        self._checkpoints.append(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Judge the metrics so far, and act on a collapse once."""
        said = self._watched.log(state.global_step, logs or {}, speak=state.is_world_process_zero)
        fall = next((verdict for verdict in said if verdict.verdict == "collapsed"), None)
        if fall is None:
            return
        if self.action != "warn":
            control.should_training_stop = True
        if self.action == "rollback":
            control.should_save = False  # weights of one step and the optimiser of another are no checkpoint
            self._roll_back(args, fall.since, kwargs["model"])

    def _roll_back(self, args: Any, since: int, model: Any) -> None:
        good = [step for step in self._checkpoints if step <= since]
        folders = [Path(args.output_dir) / f"checkpoint-{step}" for step in sorted(good, reverse=True)]
        folder = next((path for path in folders if path.is_dir()), None)
        if folder is None:
            _log.warning("no checkpoint up to step %d is left: training stops with the weights it has", since)
            return
        if sharded():
            _log.warning("weights are sharded: training stops; go on from resume_from_checkpoint=%r", str(folder))
            return
        load_weights(model, folder)
        _log.warning("training stops with the weights of %s; to go on, resume_from_checkpoint=%r", folder, str(folder))


def sharded() -> bool:
    """Return whether FSDP or DeepSpeed shards the trainer's weights."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    kinds = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    return bool(AcceleratorState._shared_state) and AcceleratorState().distributed_type in kinds
