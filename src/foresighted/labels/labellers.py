"""Where preferences come from. A labeller is any callable of `types.Labeller`; five ship.

The follower's only differentiable channel to the policy is the *distribution* of its training data. A label is read
once, as a number in [0, 1]; whether it came from a model, a person, or a coin flip makes no difference to any formula.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from foresighted.errors import ConfigError, nearest
from foresighted.inputs import shown
from foresighted.labels.queue import FileQueue, LabelQueue, is_folder
from foresighted.settings import TrainConfig
from foresighted.statistics.numbers import sigmoid
from foresighted.store.python_files import load_from_file
from foresighted.texts import repetition, words
from foresighted.types import Labeller, Utility

if TYPE_CHECKING:  # a labeller of one's own needs no model library
    import torch

    from foresighted.models.policy import Policy
    from foresighted.models.reward_model import RewardModel

RELEVANCE_WEIGHT = 8.0
REPETITION_WEIGHT = 4.0
_STEM = 3  # letters
_ENDINGS = ("", "s", "es", "d", "ed", "ing", "r", "er", "ly", "e", "y", "ies", "ied", "'s")


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
        from foresighted.models.loading import reward_model

        self._policy = policy
        self._encoder = reward_model("embedded", device=device, layout="beginning", max_length=256)

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        return self._encoder.features(texts, texts, chunk=len(texts))

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


_by_row: WeakSet[Any] = WeakSet()
"""What `one_by_one` made: its signature is that of the plain function, and it must not be made again."""


def one_by_one(function: Callable[..., Any]) -> Any:
    """Return the labeller that calls a plain function (prompt, first, second) -> preference for `first` on each row.

    An async function is called on all rows at once and awaited.
    """

    def each(prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[Any]:
        return [function(p, a, b) for p, a, b in zip(prompts, first, second, strict=True)]

    async def gathered(prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*map(contained, each(prompts, first, second)))

    made = gathered if inspect.iscoroutinefunction(function) else each
    _by_row.add(made)
    return update_wrapper(made, function, assigned=(), updated=())  # messages say where it stands


class Left(Exception):  # noqa: N818  # no error of ours
    """A labeller left an event loop by `sys.exit`, or some such thing that would have ended the loop with it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


async def contained(work: Awaitable[Any]) -> Any:
    """Return what `work` comes to; the loop that awaits it outlives a `sys.exit`.

    Raises:
        Left: in place of what is no `Exception`.
    """
    try:
        return await work
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise Left(error) from error


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


def load_labeller(config: TrainConfig, policy: Policy, device: torch.device) -> Labeller | LabelQueue:
    """Return the labeller, or the queue, that a configuration names; raises a `ConfigError` for an unknown one."""
    name = config.labels
    if name == "relevance":
        return RelevanceLabels(policy, device)
    if name == "likelihood":
        return LikelihoodLabels(policy)
    return named_labeller(name, device, ("relevance", "likelihood"))


def named_labeller(name: str, device: torch.device, others: Sequence[str] = ()) -> Labeller | LabelQueue:
    """Return a labeller, or a queue, that needs no policy; a `ConfigError` for an unknown one names `others`, too."""
    if name.startswith("reward:"):
        from foresighted.models.loading import load_gold_reward

        return GoldRewardLabels(load_gold_reward(name.removeprefix("reward:"), device))
    if is_folder(name):
        return FileQueue(name)
    if not name.rpartition(":")[0].endswith(".py"):
        near = nearest(name, (*others, "reward:"))
        known = ", ".join((*others, "reward:MODEL", "FILE.py:FUNCTION, or FOLDER/ for people"))
        raise ConfigError(f"labels: got {shown(name)}{near}; expected {known}")
    return own_labels("labels", name)


def knows_utility(name: str, given: Labeller | None = None) -> bool:
    """Return whether the labeller that a configuration names, or that was given in its place, has a true utility.

    Raises:
        ConfigError: a file of one's own that fails or lacks that function; or a queue, which answers too late for it.
    """
    if given is None and is_folder(name):
        raise ConfigError(f"labels: people answer {name} rounds later, and here labels are read at once; give a judge")
    own = name.rpartition(":")[0].endswith(".py") and not name.startswith("reward:")
    found = given if given is not None or not own else own_labels("labels", name)
    return found is None or isinstance(found, Utility)


def own_labels(setting: str, text: str) -> Labeller:
    """Return the labeller FILE.py:NAME, given for `setting`; raises what `load_from_file` and `as_labeller` do."""
    return as_labeller(setting, load_from_file(setting, text, "function", callable))


def as_labeller(setting: str, own: Any) -> Labeller:
    """Return a labeller of one's own: as it stands if it has a utility or its first parameter is called `prompts`, else
    as a function of one pair.

    Raises:
        ConfigError: it cannot be called with (prompt, first, second).
    """
    first = first_parameter(setting, own, "(prompt, first, second)", "for a queue give its folder")
    ready = isinstance(own, Utility) or first == "prompts" or (inspect.isfunction(own) and own in _by_row)
    found: Labeller = own if ready else one_by_one(own)
    return found


def first_parameter(setting: str, labels: Any, wanted: str, queue: str) -> str:
    """Return what the first parameter of a labeller is called; nothing where it has no signature.

    Args:
        setting: what it was given for; error messages begin with it.
        labels: what is to be called with three arguments.
        wanted: those, in words.
        queue: what the error says of a queue.

    Raises:
        ConfigError: it cannot be called so.
    """
    if not callable(labels):
        raise ConfigError(f"{setting}: got {labels!r:.60}; give a function of {wanted}; {queue}")
    try:
        return next(iter(inspect.signature(labels).bind(None, None, None).arguments))
    except TypeError as error:
        name = getattr(labels, "__name__", type(labels).__name__)
        raise ConfigError(f"{setting}: {name} cannot be called with {wanted}: {error}") from None
    except ValueError:  # some callables have no signature
        return ""
