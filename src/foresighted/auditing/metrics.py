"""Metrics without responses: which of them is the reward, which is to be trusted, and what else says something.

Names differ by tracker and engine; `train/` and the like in front count for nothing. What is guessed is shown, and
where several could be trusted nobody guesses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from foresighted.errors import DataError, nearest
from foresighted.inputs import shown
from foresighted.store.aliases import listed
from foresighted.store.trackers.metrics import MetricRun, Metrics

Values = Mapping[int, float]
"""Step -> value."""

REWARDS = (
    "fpo/reward_model", "reward", "rewards", "reward/mean", "rewards/mean", "mean_reward", "reward_mean",
    "critic/score/mean", "critic/rewards/mean", "env/reward_mean", "objective/scores", "objective/rlhf_reward",
    "ppo/mean_scores", "proxy_reward", "score", "return",
)  # fmt: skip
"""Names of what is optimised, best first: without a penalty before with it."""
OTHERS: Mapping[str, tuple[str, ...]] = {
    "kl": ("kl", "objective/kl", "actor/ppo_kl", "actor/kl_loss", "ppo_kl", "approx_kl"),
    "tokens": (
        "completions/mean_length", "response_length/mean", "response_length", "tokens", "mean_length",
        "completion_length",
    ),
    "entropy": ("entropy", "actor/entropy", "actor/entropy_loss", "objective/entropy"),
    "idle": ("frac_reward_zero_std", "groups_without_variance", "zero_variance_groups"),
}  # fmt: skip
"""What else is read, where it is logged: our name -> names of others, best first."""
TRUSTED = re.compile(r"(?:^|[/_.-])(?:gold|true|trusted|oracle|human|utility)(?:$|[/_.-])")
"""What the name of a trusted metric has in it."""
SPREADS = re.compile(r"(?:[/_](?:std|max|min|var)|_std_error)$")
COMPONENT = re.compile(r"rewards/(.+)/mean")
_BEFORE = re.compile(r"^(?:train|eval|val|validation|test|rollout|metrics)[/_]")
_EVALUATED = re.compile(r"^(?:eval|val|validation|test)[/_]")


@dataclass(frozen=True)
class Logged:
    """One run's metrics by role."""

    label: str
    reward: Values
    trusted: Values
    reward_spread: Values
    """Standard deviation over responses, where it is logged beside."""
    trusted_spread: Values
    others: Mapping[str, Values]
    components: Mapping[str, Values] = field(default_factory=dict)
    component_spreads: Mapping[str, Values] = field(default_factory=dict)
    measured_by: str | None = "utility"


def plain(name: str) -> str:
    """Return a metric's name without what trackers and trainers put in front.

    Example:
        >>> plain("train/rewards/gold/mean"), plain("eval_reward")
        ('rewards/gold/mean', 'reward')
    """
    return _BEFORE.sub("", name.strip().lower())


def spread_beside(name: str) -> str:
    """Return the name under which a metric's standard deviation over responses is logged beside its mean."""
    return name.removesuffix("/mean") + "/std" if name.endswith("/mean") else f"{name}_std"


@dataclass(frozen=True)
class Roles:
    """Which metric is what."""

    reward: tuple[str, ...]
    """Those that are added up; none where nothing is known to be one."""
    trusted: str | None
    guessed: tuple[str, ...]
    others: Mapping[str, str]


def roles_of(metrics: Metrics, told: Mapping[str, str], where: str) -> Roles:
    """Return which metric is what.

    Args:
        metrics: what was read.
        told: `reward` and `utility` by name; an empty name: none.
        where: the path, for messages.

    Raises:
        DataError: a name that is not there, or several that may be trusted, with what there is.
    """
    names = list(dict.fromkeys(name for run in metrics.runs for name in run.metrics))
    guessed = []
    if "utility" in told:
        trusted = _named("trusted", told["utility"], names, where)[0] if told["utility"] else None
    elif trusted := _trusted(names, where):
        guessed.append("utility")
    if "reward" in told:
        reward = _named("reward", told["reward"], names, where) if told["reward"] else ()
    else:
        evaluated = bool(trusted and _EVALUATED.match(trusted))
        found = _best(REWARDS, [name for name in names if name != trusted], evaluated=evaluated)
        reward = (found,) if found else ()
        guessed += ["reward"] if reward else []
    if trusted and reward == (trusted,):
        raise DataError(
            f"{where}: {trusted} is both the reward and the trusted metric, so that no fall would show; name another"
            f" with --reward or --trusted; there are {listed(names, 40)}"
        )
    _check_numbers(metrics, [*reward, *filter(None, [trusted])], where)
    others = {ours: found for ours, known in OTHERS.items() if (found := _best(known, names, evaluated=False))}
    return Roles(reward, trusted, tuple(guessed), others)


def _check_numbers(metrics: Metrics, names: Sequence[str], where: str) -> None:
    """Refuse a value of what is judged that is no number: none is passed over because it is bad."""
    for run, name in ((run, name) for run in metrics.runs for name in names if name in run.odd):
        step, value = run.odd[name]
        raise DataError(
            f"{where}: {name} at step {step} of {run.name} is {shown(value)}, expected a number; mend it, or name"
            " another metric with --reward or --trusted"
        )


def _named(flag: str, text: str, names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the metrics that a user named, one or several that are added up."""
    found = _as_written(text, names)
    if found:
        return (found,)
    parts = [_as_written(part.strip(), names) for part in text.split("+")]
    if flag == "reward" and len(parts) > 1 and all(parts):
        return tuple(part for part in parts if part)
    raise DataError(
        f"{where}: no metric {text!r} for --{flag}{nearest(text, names)}; there are {listed(sorted(names), 40)}"
    )


def _as_written(text: str, names: Sequence[str]) -> str | None:
    if text in names:
        return text
    same = [name for name in names if plain(name) == plain(text)]
    return same[0] if len(same) == 1 else None


def _best(known: Iterable[str], names: Sequence[str], *, evaluated: bool) -> str | None:
    """Return the first known metric that is there; of training before that of evaluation, unless `evaluated`."""
    order = sorted(names, key=lambda name: bool(_EVALUATED.match(name)) is not evaluated)
    return next((name for one in known for name in order if plain(name) == one), None)


def _trusted(names: Sequence[str], where: str) -> str | None:
    found = [name for name in names if TRUSTED.search(plain(name)) and not SPREADS.search(plain(name))]
    alike = list(dict.fromkeys(plain(name) for name in found))
    if len(alike) > 1:
        raise DataError(
            f"{where}: {listed(found)} may each be the metric to trust; say which with --trusted NAME (--trusted= for"
            " none)"
        )
    return min(found, key=lambda name: bool(_EVALUATED.match(name)), default=None)


def named_apart(runs: Sequence[MetricRun]) -> list[MetricRun]:
    """Return runs with a number behind each name that several have."""
    names = [run.name for run in runs]
    counted = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [
        MetricRun(f"{run.name} ({turn})" if names.count(run.name) > 1 else run.name, run.metrics)
        for run, turn in zip(runs, counted, strict=True)
    ]


def logged(run: MetricRun, roles: Roles) -> Logged:
    """Return a run's metrics by role."""
    own, trusted = run.metrics, roles.trusted or ""
    parts = [own.get(name, {}) for name in roles.reward]
    steps = set.intersection(*(set(part) for part in parts)) if parts else set()
    reward = {step: sum(part[step] for part in parts) for step in steps}
    beside = own.get(spread_beside(roles.reward[0]), {}) if len(roles.reward) == 1 else {}
    components = dict(zip(roles.reward, parts, strict=True)) if len(parts) > 1 else _components(own, trusted)
    return Logged(
        run.name, reward, own.get(trusted, {}), beside, own.get(spread_beside(trusted), {}),
        {ours: own.get(name, {}) for ours, name in roles.others.items()}, components,
        {name: own[spread_beside(name)] for name in components if spread_beside(name) in own},
        "utility" if trusted in own else None,
    )  # fmt: skip


def _components(own: Mapping[str, Values], trusted: str) -> Mapping[str, Values]:
    """Return what TRL logs of each reward function in training, but for the trusted one."""
    return {
        name: values
        for name, values in own.items()
        if COMPONENT.fullmatch(plain(name)) and not _EVALUATED.match(name) and name != trusted
    }
