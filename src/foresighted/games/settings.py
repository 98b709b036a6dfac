"""What all games have settings for, and the settings of the paper's two; a game of yours adds its own in its file.

A setting that is a number with a point is traced: sweeps over it compile once. Any other compiles a program a value.
Nothing here loads JAX, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from foresighted.settings import Settings, each_once, hints, setting
from foresighted.steering.table import READ_LABELS

MOST_ITERATIONS = 1_000_000


@dataclass(frozen=True)
class SweepSettings(Settings):
    """What is played of a game, besides its settings."""

    arms: tuple[str, ...] = setting(
        ("rlhf", "practical", "relaxed", "proximal"),
        "what to play",
        "forms of steering, each with settings of its own: rlhf,proximal:gamma=0.1",
    )
    seeds: tuple[int, ...] = setting(
        tuple(range(16)), "what to play", "seeds of each arm: 0:256 or 0,3,5 (default: 0:16)", low=0, high=2**32 - 1
    )
    sweep: tuple[str, ...] = setting(
        (),
        "what to play",
        "go through values of a setting: gamma=0.001:0.1:log12, action_cost=0:0.3:lin4 or a list; may be repeated",
        repeat=True,
    )
    record_every: int = setting(1, "what to play", "record each K-th iteration and the last", low=1)
    drop_threshold: float = setting(1.0, "what to play", "fall of utility from its peak that counts as dropped", low=0)

    def _rules(self) -> Iterable[tuple[bool, str]]:
        return each_once(self, arms="rlhf,proximal", seeds="0:256 or 0,3,5")


@dataclass(frozen=True)
class GameSettings(Settings):
    """What all games share. A game derives its own settings from this and may change defaults."""

    iterations: int = setting(300, "game", "rounds: a leader step, then a follower step", low=1, high=MOST_ITERATIONS)
    float64: bool = setting(False, "game", "compute in float64 instead of float32")

    gamma: float | None = setting(
        None, "steering", "steering weight, in units of the reward model's step size (default: by game and form)", low=0
    )
    gamma_unit: Literal["raw", "share"] = setting(
        "raw", "steering", "raw, or a share of the spread of rewards among the actions that the leader scores at a time"
    )
    influence: Literal["self", "batch"] = setting(
        "self", "steering", "test point: the action itself (the paper), or the mean of the leader's batch, held fixed"
    )
    steering_labels: Literal["candidate", "baseline"] = setting(
        "candidate",
        "steering",
        f"{READ_LABELS} read the label of every action they score, or the mean label of the"
        " reward model's data (no label of any candidate)",
    )
    label_slope: bool = setting(
        False, "steering", "let the leader's gradient run through the label in the penalty (it sees the slope of U)"
    )
    damping: float = setting(0.1, "steering", "exact, unrolled: added to the Hessian's eigenvalues", above=0)
    unrolled_steps: int = setting(5, "steering", "unrolled: K steps of the reward model", low=1, high=1_000)
    unrolled_rate: float = setting(0.01, "steering", "unrolled: their step size", above=0)
    gradient: Literal["autodiff", "finite-difference"] = setting(
        "autodiff", "policy", "gradient of the leader's objective; forward differences are the published linear game's"
    )
    difference_step: float = setting(0.05, "policy", "step of the forward differences", above=0)

    ensemble: int = setting(1, "baselines", "reward models that differ in their first weights", low=1, high=1_000)
    confidence: float = setting(
        0.0, "baselines", "lower confidence bound: the leader is paid mean - confidence * std of the ensemble", low=0
    )
    shaping: Literal["none", "clip", "par"] = setting(
        "none",
        "baselines",
        "clip: reward at most shaping_scale; par: scale * sigmoid((r - r_ref) / scale), r_ref of the initial policy",
    )
    shaping_scale: float = setting(5.0, "baselines", "bound or scale of the shaping, in units of reward", above=0)
    gradient_regularisation: float = setting(
        0.0, "baselines", "take lambda / 2 * |gradient of the objective|^2 off the leader's objective", low=0
    )
    reward_model_steps: int = setting(
        1, "baselines", "reward-model steps a round (two time scales)", low=1, high=10_000
    )
    labels_per_round: int = setting(1, "baselines", "labels that the reward model gets in a round", low=1, high=10_000)

    control: Literal["none", "trust"] = setting(
        "none",
        "control",
        "trust: the leader's step times tau, driven by how much of what the reward model predicted of the round's new"
        " labels came true; costs no label",
    )
    trust_decay: float = setting(0.9, "control", "trust: memory of predicted and realised gain", low=0, below=1)
    trust_grow_above: float = setting(0.75, "control", "trust: tau grows where more of the prediction came true", low=0)
    trust_shrink_below: float = setting(0.25, "control", "trust: tau shrinks where less of it did")
    trust_grow: float = setting(1.02, "control", "trust: factor by which tau grows in a round", low=1)
    trust_shrink: float = setting(0.95, "control", "trust: factor by which tau shrinks in a round", above=0, high=1)
    trust_evidence: float = setting(
        2.0, "control", "trust: standard errors by which a bound must be passed before tau moves", low=0
    )
    trust_least: float = setting(0.001, "control", "trust: least tau", above=0, high=1)
    trust_most: float = setting(1.0, "control", "trust: greatest tau", above=0)
    trust_start: float = setting(1.0, "control", "trust: tau of the first round", above=0)

    labels: Literal["utility", "noisy", "preference", "sampled"] = setting(
        "utility",
        "labels",
        "utility: U; noisy: U + normal noise; preference: sigmoid of the difference to an action of the initial"
        " policy, with a Bradley-Terry reward model and the pairwise forms; sampled: that preference as one bit",
    )
    label_noise: float = setting(1.0, "labels", "noisy: standard deviation", low=0)
    preference_scale: float = setting(1.0, "labels", "preference, sampled: factor of U(y) - U(y')", above=0)

    def _rules(self) -> Iterable[tuple[bool, str]]:
        """Return what holds between settings, each with what to say if it does not; a game may add its own."""
        differs = self.gradient == "finite-difference"
        yield not differs or self.influence == "self", "influence: batch holds its test point fixed and needs autodiff"
        told = "gamma_unit: share holds gamma fixed as actions shift and needs autodiff"
        yield not differs or self.gamma_unit == "raw", told
        told = "label_slope: forward differences read labels at the shifted actions; set it to true"
        yield not differs or self.label_slope, told
        yield self.confidence == 0 or self.ensemble >= 2, "confidence: needs an ensemble of at least 2"
        low, start, high = self.trust_least, self.trust_start, self.trust_most
        yield low <= start <= high, f"trust_start: got {start}, must lie within trust_least {low} and trust_most {high}"
        low, high = self.trust_shrink_below, self.trust_grow_above
        yield low <= high, f"trust_shrink_below: got {low}, must not exceed trust_grow_above {high}"

    @property
    def pairwise(self) -> bool:
        """Whether labels compare two actions, so that the reward model is Bradley-Terry."""
        return self.labels in ("preference", "sampled")


@dataclass(frozen=True)
class LinearSettings(GameSettings):
    """Settings of the linear game; the defaults are the published ones, with gradients by autodiff."""

    label_slope: bool = setting(
        True, "steering", "let the leader's gradient run through the label in the penalty, as the published code does"
    )
    dimension: int = setting(50, "game", "coordinates of an action", low=1, high=10_000)
    signal_dimension: int = setting(3, "game", "first coordinates, which utility asks for", low=1)
    ideal: float = setting(2.0, "game", "ideal value of each signal coordinate; 0 for all others")
    utility_height: float = setting(10.0, "game", "U = height exp(-sharpness |y - y*|^2)", above=0)
    utility_sharpness: float = setting(0.3, "game", "how fast utility falls with distance: 1 / width^2", above=0)
    action_cost: float = setting(0.1, "baselines", "cost |y|^2 that the leader pays: the KL of these games", low=0)
    policy_step: float = setting(0.02, "policy", "step of the leader", above=0)
    trust_decay: float = setting(0.7, "control", "trust: memory of predicted and realised gain", low=0, below=1)
    trust_shrink: float = setting(0.8, "control", "trust: factor by which tau shrinks in a round", above=0, high=1)
    initial_noise: float = setting(
        0.1, "reward model", "spread of the first weights around the signal direction", low=0
    )
    reward_model_step: float = setting(0.005, "reward model", "step of the reward model", above=0)
    reward_model_decay: float = setting(1e-4, "reward model", "share of the weights lost in a step", low=0)
    reward_model_gradient: Literal["code", "paper"] = setting(
        "code", "reward model", "code: 2 (w y - U) y, as published in the code; paper: half of it, as printed"
    )
    exploration: float = setting(0.0, "labels", "spread of the labelled actions around the leader's", low=0)

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield from super()._rules()
        yield _signal_fits(self)
        told = "gamma_unit: share needs two actions, and this game scores one at a time; use raw"
        yield self.gamma_unit == "raw", told


@dataclass(frozen=True)
class NetworkSettings(GameSettings):
    """Settings of the network game; the defaults are the published ones."""

    iterations: int = setting(
        4000,
        "game",
        "rounds: inner_steps steps of the leader, one label batch, one Adam step",
        low=1,
        high=MOST_ITERATIONS,
    )
    dimension: int = setting(10, "game", "coordinates of an action", low=1, high=10_000)
    signal_dimension: int = setting(2, "game", "first coordinates, which utility asks for", low=1)
    ideal: float = setting(2.5, "game", "ideal value of each signal coordinate; 0 for all others")
    utility_height: float = setting(10.0, "game", "U = height exp(-sharpness |y - y*|^2)", above=0)
    utility_sharpness: float = setting(0.2, "game", "how fast utility falls with distance: 1 / width^2", above=0)
    action_cost: float = setting(0.01, "baselines", "cost |y|^2 that the leader pays: the KL of these games", low=0)
    inner_steps: int = setting(15, "policy", "policy steps a round", low=1, high=10_000)
    policy_samples: int = setting(1, "policy", "M, actions sampled for a policy step", low=1, high=10_000)
    policy_step: float = setting(0.05, "policy", "step of the leader in the first round", above=0)
    final_policy_step: float = setting(0.001, "policy", "step of the leader in the last round", above=0)
    trust_start: float = setting(0.1, "control", "trust: tau of the first round", above=0)
    sigma: float = setting(0.1, "policy", "spread of the policy in the first round", above=0)
    final_sigma: float = setting(0.001, "policy", "spread of the policy in the last round", above=0)
    decay_power: float = setting(4.0, "policy", "both go down as 1 - (round / rounds)^power", above=0)
    gradient_clip: float = setting(1.0, "policy", "each coordinate of the gradient is held within this bound", above=0)
    hidden: int = setting(32, "reward model", "units of each of the two hidden layers", low=1, high=10_000)
    initial_noise: float = setting(0.1, "reward model", "standard deviation of the first weights; biases are 0", low=0)
    reward_model_step: float = setting(0.001, "reward model", "Adam's step", above=0)
    reward_model_decay: float = setting(1e-3, "reward model", "weight decay, added to the gradient", low=0)
    adam_first: float = setting(0.9, "reward model", "Adam's decay of the mean", low=0, below=1)
    adam_second: float = setting(0.999, "reward model", "Adam's decay of the mean square", low=0, below=1)
    adam_epsilon: float = setting(1e-8, "reward model", "Adam's epsilon", above=0)
    labels_per_round: int = setting(5, "baselines", "labels that the reward model gets in a round", low=1, high=10_000)
    buffer_size: int = setting(50, "labels", "newest labels that the reward model learns from", low=1, high=1_000_000)

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield from super()._rules()
        yield _signal_fits(self)
        told = f"buffer_size: got {self.buffer_size}, must hold the {self.labels_per_round} labels of a round"
        yield self.labels_per_round <= self.buffer_size, told
        told = f"gamma_unit: share needs policy_samples of at least 2, got {self.policy_samples}"
        yield self.gamma_unit == "raw" or self.policy_samples >= 2, told


def _signal_fits(s: LinearSettings | NetworkSettings) -> tuple[bool, str]:
    told = f"signal_dimension: got {s.signal_dimension}, must not exceed dimension {s.dimension}"
    return s.signal_dimension <= s.dimension, told


def is_traced(kind: type, name: str) -> bool:
    """Return whether a setting is a number with a point, whose values share one compiled program."""
    hint = hints(kind)[name]
    return hint is float or float in get_args(hint)
