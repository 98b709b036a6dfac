"""Who judges: questions in, replies out. An endpoint is in `endpoint`; here are judges that run in this process."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from foresighted.errors import DataError, one_line
from foresighted.judging.key import without_keys
from foresighted.statistics.numbers import sigmoid
from foresighted.types import Labeller

if TYPE_CHECKING:
    from foresighted.judging.settings import EvaluateConfig
    from foresighted.labels.asking import Asker

Verdict = Literal["first", "second", "tie"]
_CHUNK = 32
_SHOWN = 300  # characters of an error


class Question(NamedTuple):
    """Two answers to one prompt, in the order in which the judge sees them."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True)
class Reply:
    """A verdict, or the kind of failure in its place; `text` is what an endpoint wrote."""

    verdict: Verdict | None = None
    reason: str | None = None
    failure: str | None = None
    detail: str | None = None
    tokens_prompt: int | None = None
    tokens_completion: int | None = None
    cached: bool = False
    text: str | None = None
    cut: bool = False
    """Whether the reply ended where no more tokens were allowed."""


class Judge(Protocol):
    """Anything that compares two answers."""

    def estimate(self, question: Question) -> int:
        """Return about how many tokens a question costs, both ways; 0 where nobody counts."""
        ...

    def ask(self, questions: Iterable[Question]) -> Iterator[Reply]:
        """Yield one reply a question, in order. A failure is a reply, too; what no question can mend raises."""
        ...


class LocalJudge:
    """A reward model, a likelihood, or a function of the user's.

    One with a utility U(x, y) prefers the answer with the larger one. Any other gives a preference for the first answer
    in [0, 1]: above 1/2 it wins, within `tie_margin` of 1/2 it is a tie.

    Args:
        source: where utilities or preferences are read.
        tie_margin: of preferences, below 1/2. Utilities u and v count as the preference sigma(u - v).
    """

    def __init__(self, source: Asker, tie_margin: float) -> None:
        self._source = source
        self._tie_margin = tie_margin
        self._utilities: dict[tuple[str, str], float | None] = {}
        self._preferences: dict[Question, float] = {}

    def estimate(self, question: Question) -> int:
        """Return 0: nobody counts."""
        return 0

    def ask(self, questions: Iterable[Question]) -> Iterator[Reply]:
        """Yield one reply a question. An exception of the user's own function is a failure of kind `error`."""
        remaining = iter(questions)
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            with contextlib.suppress(Exception, SystemExit):  # of a user's function: one at a time shows on which text
                self._read_utilities(chunk)
                self._read_preferences(chunk)
            yield from (self._alone(question) for question in chunk)

    def _alone(self, question: Question) -> Reply:
        try:
            self._read_utilities([question])
            self._read_preferences([question])
            return self._reply(question)
        except DataError as error:
            return Reply(failure="malformed", detail=without_keys(one_line(error))[:_SHOWN])
        except (Exception, SystemExit) as error:  # anything that a user's function may raise
            return Reply(failure="error", detail=without_keys(one_line(error))[:_SHOWN])

    def _read_utilities(self, chunk: Sequence[Question]) -> None:
        texts = {(q.prompt, text): None for q in chunk for text in (q.first, q.second)}
        new = [pair for pair in texts if pair not in self._utilities]
        if new:
            values = self._source.utility([prompt for prompt, _ in new], [text for _, text in new])
            self._utilities |= dict(zip(new, values, strict=True))

    def _read_preferences(self, chunk: Sequence[Question]) -> None:
        """Read the preferences of questions about texts whose utility is not known, all in one call."""
        texts = {q: ((q.prompt, q.first), (q.prompt, q.second)) for q in chunk if q not in self._preferences}
        new = [q for q, both in texts.items() if None in map(self._utilities.get, both)]
        if new:
            columns = zip(*new, strict=True)
            self._preferences |= dict(zip(new, self._source.preferences(*map(list, columns)), strict=True))

    def _reply(self, question: Question) -> Reply:
        prompt, first, second = question
        u, v = (self._utilities[prompt, text] for text in (first, second))
        if u is None or v is None:
            preference = self._preferences[question]
            margin, reason = preference - 0.5, f"preference {preference:.4g}"
        else:
            margin, reason = u - v, f"utility {u:.4g} against {v:.4g}"
            preference = sigmoid(margin)
        # sigma saturates: without a margin two large utilities that differ are no tie
        tie = abs(preference - 0.5) <= self._tie_margin if self._tie_margin else margin == 0
        return Reply("tie" if tie else "first" if margin > 0 else "second", reason)


def local_judge(config: EvaluateConfig) -> LocalJudge:
    """Return the judge of a configuration that is no endpoint.

    Raises:
        ConfigError: a file that fails or lacks that function.
        ModelError: a reward model or policy that cannot be loaded.
    """
    from foresighted.judging.policies import find_device, plain_policy
    from foresighted.labels.asking import Asker
    from foresighted.labels.labellers import GoldRewardLabels, LikelihoodLabels, own_labels

    labels: Labeller
    kind, _, source = (config.judge or "").partition(":")
    if "judge" in config.own_files:
        labels = own_labels("judge", config.judge or "")
    elif kind == "likelihood":
        labels = LikelihoodLabels(plain_policy(config, source or "embedded", setting="judge"))
    else:
        from foresighted.models.loading import load_gold_reward

        longest = config.reward_model_max_length
        labels = GoldRewardLabels(load_gold_reward(source, find_device(config), setting="judge", max_length=longest))
    return LocalJudge(Asker(labels, setting="judge"), config.tie_margin)
