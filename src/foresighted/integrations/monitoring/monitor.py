"""MetricsMonitor: what a loop logs, judged as it is logged; knows no engine."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from foresighted.errors import ConfigError, nearest
from foresighted.integrations.monitoring.webhook import check_address, post
from foresighted.statistics.series import ALPHA, WINDOW, check_fall, counts_from, cut, paired
from foresighted.statistics.wording import fall_of_logs
from foresighted.store.directory import VERDICTS
from foresighted.store.rows import append

_log = logging.getLogger("foresighted.monitor")


@dataclass(frozen=True)
class Verdict:
    """What the monitor saw at one log."""

    step: int
    verdict: Literal["collapsed", "suspicious"]
    since: int
    """Step of the best block's end."""
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
    Symptom("entropy", "lower", 0.5),
    Symptom("reward_std", "lower", 0.7),
    Symptom("fpo/overconfidence", "higher", 1.0),
    Symptom("fpo/reward_model_accuracy", "lower", 0.25),
)
"""Metrics of GRPO, RLOO and FPOReward; those that a trainer does not log are passed over. KL is none: it starts near 0
and grows in every healthy run, so that its first window is no measure (docs/audit.md)."""
PROXIES = ("fpo/reward_model", "critic/score/mean", "reward")
"""What is optimised where nobody says, best first: the reward without a penalty, of TRL and OpenRLHF, and of verl."""


class MetricsMonitor:
    """Judges metrics for collapse as they are logged: a trusted metric falls while the optimised one does not.

    Without a trusted metric nothing can be called collapse: symptoms are named as suspicious, and only warned of.

    Args:
        gold: metric to trust; None: symptoms only.
        proxy: metric that is optimised; default `fpo/reward_model` (the reward without our penalty) where it is logged,
            else `critic/score/mean` (verl), else `reward`, or `eval_reward` for a gold metric of evaluation.
        window: logs that are averaged, at least 3; a check is made each time as many are there.
        alpha: chance of a false alarm over the whole run, in (0, 1).
        threshold: fall of the gold metric that counts; default half of its spread over responses (the `/std` that TRL
            logs beside a `/mean`), or of its first window's spread over logs.
        symptoms: metrics to warn of.
        out: directory for `collapse.jsonl`; None keeps none.
        webhook: http(s) address that is sent each verdict; see `webhook.post`.

    Raises:
        ConfigError: a window below 3, an alpha outside (0, 1), an address that is none.

    Example:
        >>> monitor = MetricsMonitor(gold="gold", proxy="reward")
        >>> for step in range(40):
        ...     said = monitor.log(step, {"gold": 1.0 if step < 20 else 0.0, "reward": 0.1 * step})
        >>> monitor.verdict.verdict
        'collapsed'
    """

    def __init__(
        self,
        gold: str | None = None,
        proxy: str | None = None,
        *,
        window: int = WINDOW,
        alpha: float = ALPHA,
        threshold: float | None = None,
        symptoms: Sequence[Symptom] = SYMPTOMS,
        out: Path | None = None,
        webhook: str | None = None,
    ) -> None:
        if window < 3 or not 0 < alpha < 1:
            raise ConfigError(f"window: got {window}, must be at least 3; alpha: got {alpha}, must be in (0, 1)")
        if webhook is not None:
            check_address(webhook)
        self.gold = gold
        self._proxy = proxy
        self.window = window
        self.alpha = alpha
        self.symptoms = tuple(symptoms)
        self.out = out
        self._webhook = webhook
        self._threshold = threshold
        self._logs: list[dict[str, float]] = []
        """What was logged, finite numbers only."""
        self._seen: set[str] = set()
        """Metrics of these logs."""
        self._warned: set[str] = set()
        self.verdict: Verdict | None = None
        """The collapse that was seen; None so far."""

    def take_up(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Read again what was logged before a resumed run went on, without judging it."""
        self._logs = [_finite(entry) for entry in history if "step" in entry]
        self._seen = set().union(*self._logs)

    def log(self, step: int, values: Mapping[str, Any], *, speak: bool = True) -> list[Verdict]:
        """Take in one log, judge all so far, and say what is new.

        Args:
            step: of the trainer; what is logged of one step in several logs goes together.
            values: what was logged; what is no finite number is passed over.
            speak: whether this process warns, writes and sends; of several that see the same logs, one does.

        Returns:
            What is new: symptoms, and the collapse once.
        """
        self._logs.append(_finite({**values, "step": step}))
        self._seen |= self._logs[-1].keys()
        self._say_missing()
        found = self._new_symptoms()
        if (fall := self._new_fall()) is not None:
            self.verdict = fall
            found.append(fall)
        for verdict in found if speak else ():
            self._say(verdict)
        return found

    @property
    def proxy(self) -> str:
        """Metric that is optimised."""
        if self._proxy:
            return self._proxy
        if (self.gold or "").startswith("eval_"):
            return "eval_reward"
        return next((name for name in PROXIES if name in self._seen), PROXIES[-1])

    def _new_fall(self) -> Verdict | None:
        if self.gold is None or self.verdict is not None or self.gold not in self._logs[-1]:
            return None
        steps, gold, proxy = paired(self._values(self.gold), self._values(self.proxy))
        thresholds = [
            counts_from(values, self.window, self._spreads(metric, steps))
            for values, metric in ((gold, self.gold), (proxy, self.proxy))
        ]
        fall = check_fall(
            gold, proxy, window=self.window, alpha=self.alpha, proxy_threshold=thresholds[1],
            threshold=thresholds[0] if self._threshold is None else self._threshold,
        )  # fmt: skip
        if fall is None or not fall.collapsed:
            return None
        since = steps[fall.best + cut(len(steps), self.window).size - 1]
        return Verdict(steps[-1], "collapsed", since, fall_of_logs(fall, self.gold, self.proxy, steps))

    def _values(self, metric: str) -> dict[int, float]:
        """Return a metric by step."""
        return {int(entry["step"]): entry[metric] for entry in self._logs if metric in entry}

    def _spreads(self, metric: str, steps: Sequence[int]) -> list[float]:
        """Return the standard deviations over responses in the first window: TRL logs a `/std` beside a `/mean`."""
        beside = metric.removesuffix("/mean") + "/std" if metric.endswith("/mean") else f"{metric}_std"
        known = self._values(beside) if beside in self._seen else {}
        return [known[step] for step in steps[: self.window] if step in known]

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

    def _say(self, verdict: Verdict) -> None:
        _log.warning("step %d: %s: %s", verdict.step, verdict.verdict, verdict.reason)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            append(self.out / VERDICTS, [asdict(verdict)])
        if self._webhook is not None and (fault := post(self._webhook, asdict(verdict))):
            _log.warning("%s", fault)


def _finite(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a log: TRL logs NaN where a judge abstained or a group had one response."""
    return {name: value for name, value in entry.items() if isinstance(value, int | float) and math.isfinite(value)}
