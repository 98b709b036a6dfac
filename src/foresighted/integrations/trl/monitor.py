"""CollapseMonitor: watches what a trainer logs; warns, stops, or goes back to the last good checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from foresighted.errors import ConfigError, nearest
from foresighted.models.pretrained import load_weights
from foresighted.statistics.collapse import Fall
from foresighted.statistics.series import check_fall, counts_from, cut
from foresighted.store.rows import append

_log = logging.getLogger(__name__)
VERDICTS = "collapse.jsonl"


@dataclass(frozen=True)
class Verdict:
    """What the monitor saw at one log."""

    step: int
    verdict: Literal["collapsed", "suspicious"]
    since: int
    """Step of the best window's end."""
    reason: str


@dataclass(frozen=True)
class Symptom:
    """A metric whose move says that somebody should look, not that anything is wrong."""

    metric: str
    worse: Literal["higher", "lower"]
    share: float
    """Move that counts, as a share of its first window's mean."""


SYMPTOMS = (
    Symptom("completions/mean_length", "higher", 0.5),
    Symptom("completions/mean_length", "lower", 0.5),
    Symptom("kl", "higher", 3.0),
    Symptom("entropy", "lower", 0.5),
    Symptom("reward_std", "lower", 0.7),
    Symptom("fpo/overconfidence", "higher", 1.0),
    Symptom("fpo/reward_model_accuracy", "lower", 0.25),
)
"""Metrics of GRPO, RLOO and FPOReward; those that a trainer does not log are passed over."""


class CollapseMonitor(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Watches a trainer's own metrics for collapse: a trusted metric falls while the optimised one does not.

    Without a trusted metric nothing can be called collapse: symptoms are named as suspicious, and only warned of.

    Args:
        gold: metric to trust: a reward of weight 0 (`rewards/gold/mean`), the same in evaluation
            (`eval_rewards/gold/mean`), or `fpo/utility`. None: symptoms only.
        proxy: metric that is optimised; default `fpo/reward_model` (the reward without our penalty) where it is logged,
            else `reward`, or `eval_reward` for a gold metric of evaluation.
        action: on collapse warn, stop training, or stop with the weights of the last checkpoint before the fall.
        window: logs that are averaged; a check is made each time as many are full.
        alpha: chance of a false alarm over the whole run.
        threshold: fall of the gold metric that counts; default half of its spread over responses (the `/std` that TRL
            logs beside a `/mean`), or of its first window's spread over logs.
        symptoms: metrics to warn of.

    Raises:
        ConfigError: a window below 3, an alpha outside (0, 1), an unknown action.

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
        window: int = 5,
        alpha: float = 0.01,
        threshold: float | None = None,
        symptoms: Sequence[Symptom] = SYMPTOMS,
    ) -> None:
        if action not in ("warn", "stop", "rollback"):
            close = nearest(str(action), ("warn", "stop", "rollback"))
            raise ConfigError(f"action: got {action!r}{close}, expected warn, stop or rollback")
        if window < 3 or not 0 < alpha < 1:
            raise ConfigError(f"window: got {window}, must be at least 3; alpha: got {alpha}, must be in (0, 1)")
        if gold is None and action != "warn":
            raise ConfigError(
                f"gold: got none; {action} needs a metric to trust, without which nothing is called collapse"
            )
        self.gold = gold
        self._proxy = proxy
        self.action = action
        self.window = window
        self.alpha = alpha
        self.symptoms = tuple(symptoms)
        self._threshold = threshold
        self._logs: list[dict[str, float]] = []
        """What was logged, finite numbers only."""
        self._seen: set[str] = set()
        """Metrics of these logs."""
        self._checkpoints: list[int] = []
        self._warned: set[str] = set()
        self.verdict: Verdict | None = None
        """The collapse that was seen; None so far."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read again what was logged before a resumed run went on."""
        self._logs = [_finite(entry) for entry in state.log_history]
        self._seen = set().union(*self._logs)
        steps = [path.name.rpartition("-")[2] for path in Path(args.output_dir).glob("checkpoint-*")]
        self._checkpoints = [int(step) for step in steps if step.isdigit() and int(step) <= state.global_step]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember a checkpoint."""
        self._checkpoints.append(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Judge the metrics so far, and act on a collapse once."""
        self._logs.append(_finite({"step": state.global_step, **(logs or {})}))
        self._seen |= self._logs[-1].keys()
        self._say_missing()
        for symptom in self._new_symptoms():
            self._say(args, state, symptom)
        if self.gold is None or self.verdict is not None or self.gold not in self._logs[-1]:
            return
        points = self._points(self.gold)
        fall = self._fall(points, self.gold)
        if fall is None or not fall.collapsed:
            return
        change = fall.reward_change.mean if fall.reward_change else math.nan
        since = int(points[fall.best + cut(len(points), self.window).size - 1]["step"])
        self.verdict = Verdict(
            state.global_step, "collapsed", since,
            f"{self.gold} fell by {fall.fall.mean:.3g} (at least {fall.fall.low:.3g}; {fall.threshold:.3g} counts)"
            f" since step {since}, while {self.proxy} changed by {change:+.3g}",
        )  # fmt: skip
        self._say(args, state, self.verdict)
        if self.action != "warn":
            control.should_training_stop = True
        if self.action == "rollback":
            control.should_save = False  # weights of one step and the optimiser of another are no checkpoint
            self._roll_back(args, since, kwargs["model"])

    @property
    def proxy(self) -> str:
        """Metric that is optimised."""
        if self._proxy:
            return self._proxy
        if (self.gold or "").startswith("eval_"):
            return "eval_reward"
        return "fpo/reward_model" if "fpo/reward_model" in self._seen else "reward"

    def _say_missing(self) -> None:
        """Warn once, after a window of logs, of a metric that nobody logs."""
        if len(self._logs) < self.window:
            return
        evaluated = any(name.startswith("eval_") for name in self._seen)
        for metric in (self.gold, self.proxy):
            due = evaluated or not (metric or "").startswith("eval_")
            if metric and due and metric not in self._seen and metric not in self._warned:
                self._warned.add(metric)
                _log.warning(
                    "no log holds a number under %r%s: nothing can be judged by it", metric, nearest(metric, self._seen)
                )

    def _points(self, gold: str) -> list[dict[str, float]]:
        """Return the logs that hold both metrics."""
        both = (gold, self.proxy)
        return [entry for entry in self._logs if entry.keys() >= set(both)]

    def _fall(self, points: list[dict[str, float]], gold: str) -> Fall | None:
        values = [[entry[metric] for entry in points] for metric in (gold, self.proxy)]
        usual, proxy = (_counts_from(points, metric, self.window) for metric in (gold, self.proxy))
        threshold = usual if self._threshold is None else self._threshold
        return check_fall(*values, window=self.window, alpha=self.alpha, threshold=threshold, proxy_threshold=proxy)

    def _new_symptoms(self) -> list[Verdict]:
        """Return the symptoms that show for the first time: a whole window beyond its share of the first one's mean."""
        found = []
        for symptom in self.symptoms:
            name = f"{symptom.metric} {symptom.worse}"
            if name in self._warned or symptom.metric not in self._seen:
                continue
            points = [entry for entry in self._logs if symptom.metric in entry]
            if len(points) < 2 * self.window:
                continue
            values = [point[symptom.metric] for point in points]
            start, now = sum(values[: self.window]) / self.window, values[-self.window :]
            sign = 1 if symptom.worse == "higher" else -1
            if start and all(sign * (value - start) > symptom.share * abs(start) for value in now):
                self._warned.add(name)
                mean = sum(now) / len(now)
                reason = f"{symptom.metric} went from {start:.3g} to {mean:.3g}; read some responses"
                step, since = (int(points[i]["step"]) for i in (-1, self.window - 1))
                found.append(Verdict(step, "suspicious", since, reason))
        return found

    def _say(self, args: Any, state: Any, verdict: Verdict) -> None:
        if state.is_world_process_zero:
            _log.warning("step %d: %s: %s", verdict.step, verdict.verdict, verdict.reason)
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            append(Path(args.output_dir) / VERDICTS, [asdict(verdict)])

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


def _finite(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a log: TRL logs NaN where a judge abstained or a group had one response."""
    return {name: value for name, value in entry.items() if isinstance(value, int | float) and math.isfinite(value)}


def sharded() -> bool:
    """Return whether FSDP or DeepSpeed shards the trainer's weights."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    kinds = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    return bool(AcceleratorState._shared_state) and AcceleratorState().distributed_type in kinds


def _counts_from(points: list[dict[str, float]], metric: str, window: int) -> float:
    """Return from which fall on a metric's falls count; TRL logs a `/std` beside a `/mean`."""
    beside = metric.removesuffix("/mean") + "/std" if metric.endswith("/mean") else f"{metric}_std"
    first = [entry[beside] for entry in points[:window] if beside in entry]
    return counts_from([entry[metric] for entry in points], window, first)
