"""Configuration: one flat frozen dataclass a command, validated when it is made.

A setting has the same name in code, YAML (`policy_learning_rate`), on the command line (`--policy-learning-rate`) and
in the docs; its help text stands beside its default, and `--help` and the reference page are made from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from foresighted.errors import ConfigError, nearest

Steering = Literal["rlhf", "practical", "relaxed", "exact", "unrolled", "proximal"]
READS_LABELS = ("relaxed", "exact", "unrolled", "proximal")
"""Forms whose penalty holds the label of every candidate, or a baseline in its place."""

GROUPS = ("run", "policy", "sampling", "reward model", "labels", "steering", "held-out")
"""Order of the groups of settings in help, files and docs; groups of other configurations follow as they stand."""

SCOPE = re.compile(r"(?P<kind>head|last(?=:)|lora(?!:)|all(?!:))(?::(?P<count>[1-9]\d*))?")
"""How a scope is written: head, head:K, last:K, lora or all."""


def setting(default: Any, group: str, text: str) -> Any:
    """Return a dataclass field that is a setting: its default, its group in help, and its help text."""
    return field(default=default, metadata={"group": group, "help": text})


@dataclass(frozen=True)
class SteeringConfig:
    """What steers, and over which parameters of the reward model: the part that every loop's configuration shares.

    Raises:
        ConfigError: one line that names every setting that is out of range, what it got and what it may be.
    """

    reward_model_train: Literal["head", "lora", "all"] = setting("head", "reward model", "what is trained of it")
    steering: Steering = setting("practical", "steering", "form of the penalty")
    gamma: float = setting(
        0.3,
        "steering",
        "steering weight, in gamma_unit; raw, it is in units of the reward model's step size (exact and unrolled:"
        " 1 is the whole term)",
    )
    gamma_unit: Literal["raw", "share"] = setting(
        "raw",
        "steering",
        "raw, or a share of the spread of rewards within a prompt: gamma 1 makes a penalty of residual 1 as large",
    )
    scope: str = setting(
        "head",
        "steering",
        "parameters whose influence is counted: head, head:K (from the K-th last linear layer on), last:K (blocks),"
        " lora or all",
    )
    influence: Literal["self", "batch"] = setting(
        "self", "steering", "whose reward a candidate is charged for: its own (the paper), or the round's mean"
    )
    paid: Literal["reward", "margin"] = setting(
        "reward", "steering", "what is asked about there: the reward (the paper), or its margin over the reference's"
    )
    steering_labels: Literal["candidate", "baseline"] = setting(
        "candidate",
        "steering",
        "what relaxed, proximal, exact and unrolled read: each candidate's label (N a prompt), or in place of it the"
        " mean label that the reward model was trained on so far (none)",
    )
    curvature: Literal["gauss-newton", "hessian", "adamw"] = setting(
        "gauss-newton",
        "steering",
        "of exact: Gauss-Newton matrix (the Hessian for scope head; closed form), full Hessian (conjugate gradients),"
        " or the diagonal that AdamW divides by",
    )
    damping: float = setting(0.1, "steering", "of exact: added to the eigenvalues of the curvature")
    unrolled_steps: int = setting(5, "steering", "of unrolled: AdamW steps that are differentiated through")
    influence_chunk: int = setting(
        64, "steering", "most responses in a pass of the reward model for a scope beyond head; bounds memory"
    )

    def __post_init__(self) -> None:
        _check_types(self)
        problems = [text for ok, text in self._rules() if not ok]
        if problems:
            raise ConfigError("; ".join(problems))

    def _rules(self) -> list[tuple[bool, str]]:
        return [
            *at_least(self, gamma=0, unrolled_steps=1, influence_chunk=2),
            *positive(self, "damping"),
            (
                SCOPE.fullmatch(self.scope) is not None,
                f"scope: got {self.scope!r}, expected head, head:K, last:K, lora or all",
            ),
            (
                self.scope != "lora" or self.reward_model_train == "lora",
                f"scope: lora selects no parameters with reward_model_train {self.reward_model_train}; use"
                " --reward-model-train lora, or another scope",
            ),
        ]

    @property
    def reads_labels(self) -> bool:
        """Whether the penalty of a candidate reads that candidate's own label."""
        return self.steering in READS_LABELS and self.gamma > 0 and self.steering_labels == "candidate"


def at_least(config: Any, **least: float) -> list[tuple[bool, str]]:
    """Return a rule a setting: finite and at least this."""
    return [
        (math.isfinite(got := getattr(config, name)) and got >= low, f"{name}: got {got}, must be at least {low:g}")
        for name, low in least.items()
    ]


def positive(config: Any, *names: str) -> list[tuple[bool, str]]:
    """Return a rule a setting: finite and above 0."""
    return [
        (math.isfinite(got := getattr(config, name)) and got > 0, f"{name}: got {got}, must be above 0")
        for name in names
    ]


@dataclass(frozen=True)
class TrainConfig(SteeringConfig):
    """One run of iterative RLHF on a language model. Defaults suit the embedded models on two CPU cores.

    Raises:
        ConfigError: one line that names every setting that is out of range, what it got and what it may be.
    """

    seed: int = setting(0, "run", "seed of prompt order, sampling noise, initial weights and sampled labels")
    rounds: int = setting(30, "run", "rounds of write, label, retrain, optimise")
    prompts: str = setting(
        "bundled",
        "run",
        "'bundled', a .jsonl file (key 'prompt'; optional 'id', 'kind', 'split'), a .txt file with one a line,"
        " 'truthfulqa', or hub:DATASET[@CONFIGURATION]:SPLIT:COLUMN",
    )
    prompt_limit: int | None = setting(None, "run", "use only the first K training prompts of the file")
    prompts_per_round: int = setting(4, "run", "B, prompts answered in a round")
    device: str = setting("auto", "run", "'auto' (what Accelerate finds), 'cpu', 'cuda', 'cuda:1', 'mps'")
    threads: int | None = setting(
        None, "run", "CPU threads of torch; sums depend on it in the last bit (default: all in train, 1 in compare)"
    )
    checkpoint_every: int = setting(1, "run", "rounds between checkpoints")
    keep_checkpoints: int = setting(2, "run", "newest checkpoints kept on disk")
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = setting(
        "none", "run", "Accelerate tracker that also gets the round's numbers"
    )

    policy: str = setting("embedded", "policy", "causal LM: 'embedded' (SmolLM2-135M-Instruct), a folder or a hub id")
    policy_train: Literal["lora", "all"] = setting(
        "lora", "policy", "train a LoRA adapter, or all weights (needs a frozen second copy as reference)"
    )
    lora_rank: int = setting(16, "policy", "rank of every LoRA adapter")
    lora_alpha: int = setting(32, "policy", "LoRA scale is alpha / rank")
    lora_dropout: float = setting(0.0, "policy", "dropout on the adapter's input while training")
    lora_targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj"), "policy", "modules that get an adapter, or 'all-linear'"
    )
    quantization: Literal["none", "8bit", "4bit"] = setting(
        "none", "policy", "load the frozen base in 8 bit or 4 bit (NF4) through bitsandbytes"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "policy", "precision of loaded weights")
    policy_learning_rate: float = setting(5e-4, "policy", "AdamW learning rate of the policy")
    policy_steps: int = setting(1, "policy", "optimiser steps a round on the winners' log-likelihood")
    accumulation_steps: int = setting(1, "policy", "micro-batches a step, for policy and reward model")
    max_grad_norm: float = setting(1.0, "policy", "gradient norm above which the policy's gradient is scaled down")
    optimizer: Literal["adamw", "paged_adamw_8bit"] = setting(
        "adamw", "policy", "paged_adamw_8bit comes from bitsandbytes"
    )
    system_prompt: str | None = setting(None, "policy", "system message; default: what the chat template puts there")

    candidates: int = setting(4, "sampling", "N, responses sampled for each prompt")
    max_new_tokens: int = setting(20, "sampling", "longest response in tokens")
    min_new_tokens: int = setting(5, "sampling", "shortest response in tokens")
    temperature: float = setting(0.8, "sampling", "softmax temperature")
    top_p: float = setting(0.9, "sampling", "nucleus: smallest set of tokens with at least this probability")

    reward_model: str = setting(
        "embedded",
        "reward model",
        "'embedded' (MiniLM encoder + linear head), a folder or hub id of a sequence classifier with one label,"
        " or encoder:FOLDER for another encoder",
    )
    reward_model_input: Literal["pair", "response"] = setting(
        "pair", "reward model", "read prompt and response, or the response alone (as the published code does)"
    )
    feature_scale: float = setting(4.0, "reward model", "length of the encoder's pooled feature vector")
    reward_model_learning_rate: float = setting(5e-3, "reward model", "AdamW learning rate of the reward model")
    reward_model_steps: int = setting(1, "reward model", "optimiser steps a round on the labelled pairs")
    reward_model_pairs: Literal["winner", "all"] = setting(
        "winner", "reward model", "learn from winner against reference, or from every candidate (N labels a prompt)"
    )
    initial_pairs: int = setting(32, "reward model", "K labelled pairs of the reference policy to fit it on first")
    initial_steps: int = setting(100, "reward model", "optimiser steps of that first fit")

    labels: str = setting(
        "relevance",
        "labels",
        "'relevance' (embedded encoder + fluency), 'likelihood' (frozen policy, the paper's oracle), reward:MODEL"
        " (a gold reward model), or FILE.py:NAME, a function(prompt, first, second) -> [0, 1] or a types.Labeller",
    )
    sampled_labels: bool = setting(False, "labels", "turn each preference p into one bit: 1 with probability p")

    kl_coefficient: float = setting(
        0.0, "steering", "beta: also take beta * log(pi / pi_ref) of the response, in nats, off its score"
    )
    selection: Literal["reward", "labels"] = setting(
        "reward", "steering", "winner = best score (reward - penalty), or best label (the ceiling: N labels a prompt)"
    )

    heldout_every: int = setting(5, "held-out", "rounds between held-out evaluations (also before the first)")
    heldout_prompts: int = setting(16, "held-out", "held-out prompts answered each time")
    heldout_seed: int = setting(0, "held-out", "seed of their sampling noise: the same in every round, arm and run")

    def _rules(self) -> list[tuple[bool, str]]:
        return [
            *at_least(
                self,
                seed=0,
                rounds=1,
                prompts_per_round=1,
                checkpoint_every=1,
                keep_checkpoints=1,
                lora_rank=1,
                lora_alpha=1,
                policy_steps=1,
                accumulation_steps=1,
                max_new_tokens=1,
                min_new_tokens=1,
                reward_model_steps=1,
                initial_pairs=0,
                initial_steps=0,
                heldout_every=1,
                heldout_prompts=1,
                heldout_seed=0,
                kl_coefficient=0,
            ),
            *positive(
                self,
                "temperature",
                "policy_learning_rate",
                "reward_model_learning_rate",
                "feature_scale",
                "max_grad_norm",
            ),
            *super()._rules(),
            (self.candidates >= 2, f"candidates: got {self.candidates}, best of N needs at least 2"),
            (0 < self.top_p <= 1, f"top_p: got {self.top_p}, must be above 0 and at most 1"),
            (0 <= self.lora_dropout < 1, f"lora_dropout: got {self.lora_dropout}, must be in [0, 1)"),
            (self.min_new_tokens <= self.max_new_tokens, "min_new_tokens: must not exceed max_new_tokens"),
            (self.threads is None or self.threads >= 1, f"threads: got {self.threads}, must be at least 1"),
            (
                self.prompt_limit is None or self.prompt_limit >= 1,
                f"prompt_limit: got {self.prompt_limit}, must be at least 1",
            ),
            (
                self.quantization == "none" or self.policy_train == "lora",
                "policy_train: a quantised policy can only be trained with lora",
            ),
        ]


@dataclass(frozen=True)
class CompareConfig:
    """Several arms and seeds of one `TrainConfig`, everything else held fixed.

    An arm is a form of steering, with settings of its own after colons: `rlhf`, `practical:gamma=0.3`,
    `rlhf:reward_model_pairs=all`, `rlhf:selection=labels`. The first arm is the baseline.
    """

    train: TrainConfig
    arms: tuple[str, ...] = setting(
        ("rlhf", "practical"), "comparison", "forms of steering, each with settings of its own: rlhf,relaxed:gamma=1"
    )
    seeds: tuple[int, ...] = setting((0,), "comparison", "seeds of each arm: 0,1,2 or 0:3")
    jobs: int | None = setting(None, "comparison", "runs at a time (default: one a CPU core; one on an accelerator)")

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.arms:
            raise ConfigError("arms: got none, name at least one, for example rlhf,practical")
        if not self.seeds:
            raise ConfigError("seeds: got none, give a list or a range, for example 0,1 or 0:3")
        for name, values in (("arms", self.arms), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ConfigError(f"{name}: {','.join(map(str, values))} names one twice; name each once")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs: got {self.jobs}, must be at least 1")
        for arm in self.arms:
            self.arm(arm, self.seeds[0])

    def arm(self, arm: str, seed: int) -> TrainConfig:
        """Return the settings of one run.

        Raises:
            ConfigError: the arm's form or one of its settings is unknown, or would change what arms share.
        """
        form, overrides = arm_from_text(arm, TrainConfig, OF_AN_ARM, f"one of {', '.join(OF_AN_ARM)}")
        threads = 1 if self.train.threads is None else self.train.threads
        return replace(self.train, **{**overrides, "steering": form, "seed": seed, "threads": threads})


OF_AN_ARM = (
    "gamma", "gamma_unit", "scope", "influence", "paid", "steering_labels", "curvature", "damping", "unrolled_steps",
    "kl_coefficient", "selection", "reward_model_pairs", "policy_learning_rate", "policy_steps",
    "reward_model_learning_rate", "reward_model_steps", "max_grad_norm",
)  # fmt: skip
"""What an arm of a comparison may set: nothing that would change the references or the first reward model."""

MAY_CHANGE_ON_RESUME = ("rounds", "checkpoint_every", "keep_checkpoints", "report_to")
"""Settings that do not touch what a round computes, so a resumed run may change them."""

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "arms": ("rlhf", "practical:gamma=0.3"),  # both read one label a prompt
        "seeds": (0,),
        "rounds": 30,
        "system_prompt": "",
        "max_new_tokens": 20,
        "reward_model_input": "response",
        "heldout_every": 10,
        "heldout_prompts": 24,
    },
    "paper": {
        "rounds": 125,
        "prompts": "hub:HuggingFaceH4/ultrafeedback_binarized:train_prefs:prompt",
        "prompt_limit": 500,
        "prompts_per_round": 4,
        "policy": "meta-llama/Llama-3.2-1B-Instruct",
        "quantization": "4bit",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "policy_learning_rate": 2e-5,
        "accumulation_steps": 4,
        "optimizer": "paged_adamw_8bit",
        "candidates": 8,
        "max_new_tokens": 32,
        "min_new_tokens": 5,
        "temperature": 0.8,
        "top_p": 0.9,
        "reward_model": "OpenAssistant/reward-model-deberta-v3-base",
        "reward_model_train": "head",
        "reward_model_input": "response",
        "reward_model_learning_rate": 5e-5,
        "initial_pairs": 0,
        "labels": "likelihood",
        "steering": "relaxed",
        "gamma": 10.0,
    },
}
"""Named starting points; `--preset NAME`, then the file of `--config`, then flags."""


def settings(kind: type) -> dict[str, Field[Any]]:
    """Return the settings of a configuration class by name, group by group as `GROUPS` orders them (not the nested
    configuration of a comparison)."""
    found = [item for item in fields(kind) if "help" in item.metadata]
    place = {group: index for index, group in enumerate(GROUPS)}
    return {item.name: item for item in sorted(found, key=lambda item: place.get(item.metadata["group"], len(GROUPS)))}


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def preset(name: str, *, compare: bool) -> dict[str, Any]:
    """Return what a preset sets for `foresighted train`, or for `foresighted compare`."""
    known = {*settings(TrainConfig), *(settings(CompareConfig) if compare else ())}
    return {item: value for item, value in PRESETS[name].items() if item in known}


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    names = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing",
        tuple[str, ...]: "a list of names", tuple[int, ...]: "a list of whole numbers",
    }  # fmt: skip
    return names.get(hint) or " or ".join(_describe(part) for part in get_args(hint))


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type):
        return isinstance(value, hint)
    return any(_fits(value, part) for part in get_args(hint))


def _check_types(config: Any) -> None:
    problems = []
    for name in settings(type(config)):
        value, hint = getattr(config, name), _hints(type(config))[name]
        if not _fits(value, hint):
            hidden = nearest(str(value), get_args(hint)) if get_origin(hint) is Literal else ""
            problems.append(f"{name}: got {value!r}{hidden}, expected {_describe(hint)}")
    if problems:
        raise ConfigError("; ".join(problems))


def _seeds(text: str) -> tuple[int, ...]:
    start, colon, stop = text.partition(":")
    return tuple(range(int(start), int(stop))) if colon else tuple(int(part) for part in text.split(","))


def from_text(kind: type, name: str, text: str) -> Any:
    """Return the value of setting `name` written as text on a command line; text that does not fit is returned as is,
    for the validation of the configuration class to name."""
    hint = _hints(kind)[name]
    parsers: dict[Any, Callable[[str], Any]] = {
        int: int,
        float: float,
        bool: {"true": True, "false": False}.__getitem__,
        tuple[str, ...]: lambda value: tuple(part for part in value.split(",") if part),
        tuple[int, ...]: _seeds,
    }
    if text.lower() in ("none", "null") and type(None) in get_args(hint):
        return None
    for part in (hint, *get_args(hint)):
        if part in parsers:
            try:
                return parsers[part](text)
            except (ValueError, KeyError):
                return text
    return text


def arm_from_text(arm: str, kind: type, known: Sequence[str], told: str) -> tuple[str, dict[str, Any]]:
    """Return form and own settings of an arm: `rlhf`, `practical:gamma=0.3`.

    Args:
        arm: as it is written.
        kind: configuration class of its settings.
        known: settings that an arm may have.
        told: what these are, for the message.

    Raises:
        ConfigError: an unknown form, or a setting that an arm cannot have.
    """
    form, *texts = arm.split(":")
    forms = get_args(Steering)
    if form not in forms:
        raise ConfigError(f"arms: unknown arm {form!r}{nearest(form, forms)}; known are {', '.join(forms)}")
    own: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ConfigError(
                f"arms: {arm!r} sets {text!r}; after a colon comes NAME=VALUE with NAME {told}{nearest(name, known)}"
            )
        own[name] = from_text(kind, name, value)
    return form, own


def from_mapping(mapping: Mapping[str, Any], *, compare: bool) -> TrainConfig | CompareConfig:
    """Make a configuration from a flat mapping (YAML file, preset and flags already merged).

    Raises:
        ConfigError: an unknown name, with the nearest known one; or what the class itself refuses.
    """
    known = [*settings(TrainConfig), *(settings(CompareConfig) if compare else ())]
    unknown = [f"{name}: unknown setting{nearest(str(name), known)}" for name in mapping if name not in known]
    if unknown:
        raise ConfigError("; ".join(unknown))
    values = {name: _plain(name, value, compare) for name, value in mapping.items()}
    train = TrainConfig(**{name: values[name] for name in settings(TrainConfig) if name in values})
    if not compare:
        return train
    return CompareConfig(train, **{name: values[name] for name in settings(CompareConfig) if name in values})


def _plain(name: str, value: Any, compare: bool) -> Any:
    kind = CompareConfig if compare and name in settings(CompareConfig) else TrainConfig
    if isinstance(value, str):  # YAML 1.1 reads 5e-4 as text
        return from_text(kind, name, value)
    return tuple(value) if isinstance(value, list) else value


def to_mapping(config: SteeringConfig | CompareConfig) -> dict[str, Any]:
    """Return a configuration as the flat mapping that `from_mapping` reads."""
    own = {name: getattr(config, name) for name in settings(type(config))}
    values = own | (to_mapping(config.train) if isinstance(config, CompareConfig) else {})
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def to_yaml(config: SteeringConfig | CompareConfig) -> str:
    """Return a configuration as YAML that can be run again with `--config`."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a flat YAML mapping.

    Raises:
        ConfigError: the file cannot be read, is no YAML or no mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {path} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"config: {path} must be a mapping of settings, got {type(loaded).__name__}")
    return loaded


def default(item: Field[Any]) -> Any:
    """Return a setting's default (every setting has one)."""
    assert item.default is not MISSING
    return item.default
