"""Where preferences come from. A labeller is any callable of `types.Labeller`; five ship.

The follower's only differentiable channel to the policy is the *distribution* of its training data. A label is read
once, as a number in [0, 1]; whether it came from a model, a person, or a coin flip makes no difference to any formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from foresighted.errors import ConfigError, DataError
from foresighted.models import embedded, noise
from foresighted.models.loading import load_encoder, load_gold_reward
from foresighted.models.policy import Policy
from foresighted.models.reward_model import RewardModel, mean_pooled
from foresighted.settings import TrainConfig
from foresighted.statistics.numbers import sigmoid
from foresighted.store.python_files import load_from_file
from foresighted.texts import repetition, words
from foresighted.types import Labeller, Utility

RELEVANCE_WEIGHT = 8.0
REPETITION_WEIGHT = 4.0
_STEM = 3  # letters
_ENDINGS = ("", "s", "es", "d", "ed", "ing", "r", "er", "ly", "e", "y", "ies", "ied", "'s")


class Labels(NamedTuple):
    """Labels of some rows: preferences of the responses over their references, and utilities where there are any."""

    preference: list[float]
    utility: list[float | None]


class Utilities:
    """Base of labellers that know a utility: the preference is sigmoid(U(x, first) - U(x, second))."""

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the true utility of each response, shape rows."""
        raise NotImplementedError

    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
        """Return the preference for `first` over `second` of each row, in [0, 1]."""
        pairs = zip(self.utility(prompts, first), self.utility(prompts, second), strict=True)
        return [sigmoid(a - b) for a, b in pairs]


class LikelihoodLabels(Utilities):
    """The paper's oracle: mean token log-likelihood under the frozen policy, plus 5, clipped to [-15, 5]."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the clipped mean log-likelihood, in nats a token."""
        return [min(5.0, max(-15.0, value + 5.0)) for value in fluency(self._policy, prompts, responses)]


class GoldRewardLabels(Utilities):
    """A gold reward model, as in reward over-optimisation studies (Gao et al. 2023)."""

    def __init__(self, model: RewardModel) -> None:
        self._model = model

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the gold reward."""
        values: list[float] = self._model.rewards(self._model.features(prompts, responses)).tolist()
        return values


class RelevanceLabels(Utilities):
    """Relevance of what the response *adds*, plus fluency, minus repetition, on the embedded models.

        U = 8 cos(e(x), e(y without the words of x)) + mean log pi_ref(y | x) - 4 share of repeated word pairs

    An answer that echoes the question, inflected or not, adds nothing and earns no relevance; one that stuffs keywords
    is not fluent.
    Ours; docs/concepts.md shows what it thinks of answers a person can judge.
    """

    def __init__(self, policy: Policy, device: torch.device) -> None:
        self._policy = policy
        self._encoder, self._tokenizer = load_encoder(embedded.encoder_source(), device)

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        device = next(self._encoder.parameters()).device
        batch = self._tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            states = self._encoder(**batch.to(device)).last_hidden_state
        return mean_pooled(states, batch["attention_mask"])

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return U of each response; about 1 to 4 for a sound answer of the embedded policy, negative for nonsense."""
        additions = [added(p, r) for p, r in zip(prompts, responses, strict=True)]
        cosine = (self._embed(prompts) * self._embed(additions)).sum(-1).tolist()
        relevance = [c if addition else 0.0 for c, addition in zip(cosine, additions, strict=True)]
        fluent = fluency(self._policy, prompts, responses)
        return [
            RELEVANCE_WEIGHT * r + f - REPETITION_WEIGHT * repetition(text)
            for r, f, text in zip(relevance, fluent, responses, strict=True)
        ]


class CallableLabels:
    """A plain Python function (prompt, first, second) -> preference for `first`, in [0, 1]."""

    def __init__(self, function: Callable[[str, str, str], float]) -> None:
        self._function = function

    def __call__(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
        """Return the function's value for each row."""
        return [self._function(p, a, b) for p, a, b in zip(prompts, first, second, strict=True)]


def added(prompt: str, response: str) -> str:
    """Return the response's words that its prompt does not have, in order; another inflection is the same word."""
    known = set(words(prompt))
    return " ".join(word for word in words(response) if not any(_same_word(word, other) for other in known))


def _same_word(one: str, other: str) -> bool:
    """Return whether two words are equal or differ by an English ending: float, floats, floating."""
    stem = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one == other or (stem >= _STEM and one[stem:] in _ENDINGS and other[stem:] in _ENDINGS)


def fluency(policy: Policy, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Return the mean token log-likelihood of each response under the frozen policy, in nats a token."""
    rollout = policy.encode_responses(responses)
    total = policy.log_likelihood(prompts, rollout, frozen=True).tolist()
    return [value / length for value, length in zip(total, rollout.lengths(), strict=True)]


class LabelSource:
    """Reads labels for the loop: checks them, and turns them into bits where the configuration asks for it.

    Args:
        labeller: anything that compares two responses; one with a `utility` also fills the records' true utility.
        sampled: replace each preference p by 1 with probability p, else 0.
        seed: of those draws; a draw is a function of seed, prompt and both texts.
    """

    def __init__(self, labeller: Labeller, *, sampled: bool = False, seed: int = 0) -> None:
        self._labeller = labeller
        self._sampled = sampled
        self._seed = seed

    def utility(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Return the true utility of each response, None where the labeller has none.

        Raises:
            DataError: a utility that is not finite.
        """
        if not isinstance(self._labeller, Utility):
            return [None] * len(responses)
        values = [float(value) for value in self._labeller.utility(prompts, responses)]
        for prompt, response, value in zip(prompts, responses, values, strict=True):
            if not math.isfinite(value):
                raise DataError(f"labels: utility {value} for response {response!r} to {prompt!r}; must be finite")
        return list(values)

    def read(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        references: Sequence[str],
        reference_utility: Sequence[float | None],
    ) -> Labels:
        """Read one label a row: the preference of each response over its reference.

        Raises:
            DataError: the wrong number of labels, or one outside [0, 1].
        """
        utility = self.utility(prompts, responses)
        if isinstance(self._labeller, Utilities):  # the same as calling it, with the reference read once a run
            pairs = zip(utility, reference_utility, strict=True)
            preference = [sigmoid((u or 0.0) - (v or 0.0)) for u, v in pairs]
        else:
            preference = [float(value) for value in self._labeller(prompts, responses, references)]
        if len(preference) != len(responses):
            raise DataError(f"labels: got {len(preference)} for {len(responses)} pairs; return one a pair")
        for prompt, value in zip(prompts, preference, strict=True):
            if not 0 <= value <= 1:
                raise DataError(f"labels: got {value} for a pair of prompt {prompt!r}; a preference lies in [0, 1]")
        if self._sampled:
            rows = zip(preference, prompts, responses, references, strict=True)
            preference = [float(noise.uniform(self._seed, "label", *texts) < p) for p, *texts in rows]
        return Labels(preference, utility)


def load_labels(config: TrainConfig, policy: Policy, device: torch.device) -> LabelSource:
    """Return the label source that a configuration names.

    Raises:
        ConfigError: an unknown source.
    """
    return LabelSource(_labeller(config, policy, device), sampled=config.sampled_labels, seed=config.seed)


def _labeller(config: TrainConfig, policy: Policy, device: torch.device) -> Labeller:
    name = config.labels
    if name == "relevance":
        return RelevanceLabels(policy, device)
    if name == "likelihood":
        return LikelihoodLabels(policy)
    if name.startswith("reward:"):
        return GoldRewardLabels(load_gold_reward(config, device, name.removeprefix("reward:")))
    if not name.rpartition(":")[0].endswith(".py"):
        raise ConfigError(f"labels: got {name!r}; expected relevance, likelihood, reward:MODEL or FILE.py:FUNCTION")
    return own_labels("labels", name)


def own_labels(setting: str, text: str) -> Labeller:
    """Return the labeller FILE.py:NAME: as it stands if it has a utility, else called one row at a time.

    Args:
        setting: what it was given for; error messages begin with it.
        text: a Python file, which is run, and the name of a function in it.

    Raises:
        ConfigError: as `files.load_from_file`.
    """
    own = load_from_file(setting, text, "function", callable)
    if isinstance(own, Labeller) and isinstance(own, Utility):
        return own
    return CallableLabels(own)
