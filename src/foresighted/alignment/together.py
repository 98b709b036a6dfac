"""Experiments side by side: their rounds go on until each waits for something, and what waits is done in one batch.

An experiment that fails ends alone. The rows of a batch do not meet, so the others go on as if it had never been there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foresighted.alignment.requests import (
    Arrivals,
    Backward,
    Features,
    Fit,
    Labels,
    LogLikelihood,
    Played,
    Questions,
    Request,
    Sample,
    T,
    TokenLogP,
    Utilities,
)  # fmt: skip
from foresighted.alignment.round import Loop
from foresighted.errors import ForesightedError, NumericalError
from foresighted.labels.asking import merged, read_together, utility_together
from foresighted.labels.waiting import arrivals, never
from foresighted.models.memory import at_once
from foresighted.models.policy import NOT_FINITE, Policy
from foresighted.models.reward_model import RewardModel
from foresighted.models.rollout import Rollout, ids_of
from foresighted.models.stacked import Stack

ROWS = 128
"""Most rows of one pass over whole responses, on a CPU; bounds memory: the logits are rows x T x vocabulary."""
SAMPLED = 512
"""Most rows of one generate call, on a CPU."""
Turn = Mapping[int, Any]
"""Requests of one stage, by the place of their experiment."""


def play(
    tasks: Mapping[int, Played[T]], carry_out: Callable[[Turn], Mapping[int, Any]]
) -> dict[int, T | ForesightedError]:
    """Play coroutines to their ends, those of the lowest stage first; return what each comes to.

    Args:
        tasks: one an experiment, by place.
        carry_out: does what requests of one stage ask, and returns an answer for each.

    Raises:
        ForesightedError: what `carry_out` raises. What an experiment raises, or is answered, ends it alone, and is
            returned.
    """
    ended: dict[int, T | ForesightedError] = {}
    waiting: dict[int, Request[Any]] = {}

    def go_on(place: int, answer: Any = None) -> None:
        task = tasks[place]
        try:
            waiting[place] = task.throw(answer) if isinstance(answer, ForesightedError) else task.send(answer)
        except StopIteration as done:
            ended[place] = done.value
        except ForesightedError as error:
            ended[place] = error

    try:
        for place in tasks:
            go_on(place)
        while waiting:
            stage = min(request.stage for request in waiting.values())
            turn = {place: waiting[place] for place in sorted(waiting) if waiting[place].stage == stage}
            answers = carry_out(turn)
            for place in turn:
                del waiting[place]
                go_on(place, answers[place])
    finally:
        for task in tasks.values():
            task.close()
    return {place: ended[place] for place in tasks}


class Alone:
    """Does what one experiment asks, with its own players.

    Args:
        loop: of the experiment.
        stopping: asked while people are waited for whether to stop.
    """

    def __init__(self, loop: Loop, stopping: Callable[[], bool] = never) -> None:
        self._loop = loop
        self._stopping = stopping

    def __call__(self, turn: Turn) -> dict[int, Any]:
        """Return the answer of each request, or why there is none."""
        return {place: self._answer(request) for place, request in turn.items()}

    def _answer(self, request: Request[Any]) -> Any:
        try:
            return self._done(request)
        except NumericalError as error:  # of this experiment alone
            return error

    def _done(self, request: Request[Any]) -> Any:
        loop, policy = self._loop, self._loop.policy
        match request:
            case Sample():
                return policy.sample(request.prompts, request.n, request.keys)
            case Features():
                return loop.follower.reward_model.features(request.prompts, request.texts)
            case TokenLogP():
                return token_log_p(policy, request.prompts, request.responses, request)
            case LogLikelihood():
                return policy.log_likelihood(request.prompts, request.responses, frozen=request.frozen)
            case Utilities():
                return loop.labels.utility(request.prompts, request.texts)
            case Labels():
                return loop.labels.read(request.pairs)
            case Questions():
                return loop.labels.ask(request.pairs, request.number)
            case Arrivals():
                least, buffer = loop.config.wait_for_labels, loop.follower.buffer
                buffer.arrived(arrivals(loop.labels, buffer.pending, at_least=least, stopping=self._stopping))
                return None
            case Fit():
                return loop.follower.update()
            case Backward():
                return request.loss.backward()  # type: ignore[no-untyped-call]
        raise TypeError(f"nobody does {request}")


def token_log_p(policy: Policy, prompts: Sequence[str], responses: Rollout, asked: TokenLogP) -> Tensor:
    """Return what a policy says of each token, as a request asks it."""
    policy.model.train()
    try:
        with torch.set_grad_enabled(asked.gradient):
            return policy.token_log_p(prompts, responses, share=asked.share)
    finally:
        policy.model.eval()


class Together:
    """Does what experiments ask that share a policy's frozen model, and a reward model's body where it has a head each.

    Args:
        loops: the experiments, by place; their policy is one object, and the labeller that they ask, too.
        stack: of that policy.
        reward_model: reads the inputs of everybody's head; None where reward models are trained further down.
    """

    def __init__(self, loops: Sequence[Loop], stack: Stack, reward_model: RewardModel | None) -> None:
        self._loops = loops
        self._policy = loops[0].policy
        self._stack = stack
        self._reward_model = reward_model
        self.stopping: Callable[[], bool] = never
        """Asked while people are waited for whether to stop."""

    def __call__(self, turn: Turn) -> Mapping[int, Any]:
        """Return the answer of each request."""
        places = list(turn)
        asked: list[Any] = list(turn.values())
        loops = [self._loops[place] for place in places]
        match asked[0]:
            case Sample() | TokenLogP():
                return self._in_batches(turn)
            case LogLikelihood():
                return self._likelihoods(turn)
            case Features() if self._reward_model is not None:
                answers: Sequence[Any] = self._read(loops, asked, self._reward_model)
            case Utilities():
                answers = utility_together([(x.labels, r.prompts, r.texts) for x, r in zip(loops, asked, strict=True)])
            case Labels():
                answers = read_together([(x.labels, r.pairs) for x, r in zip(loops, asked, strict=True)])
            case Backward():
                torch.stack([request.loss for request in asked]).sum().backward()  # type: ignore[no-untyped-call]
                answers = [None] * len(asked)
            case _:
                answers = [
                    Alone(loop, self.stopping)({0: request})[0] for loop, request in zip(loops, asked, strict=True)
                ]
        return dict(zip(places, answers, strict=True))

    def _in_batches(self, turn: Turn) -> dict[int, Any]:
        """Answer requests in batches of experiments that ask for as many rows each."""
        answers: dict[int, Any] = {}
        for places in batches(turn, self._policy.device):
            asked: list[Any] = [turn[place] for place in places]
            adapters = [self._loops[place].policy_learner.parameters for place in places]
            prompts = [prompt for request in asked for prompt in request.prompts]
            with self._policy.side_by_side(self._stack, adapters):
                first = asked[0]
                if isinstance(first, Sample):
                    keys = [key for request in asked for key in request.keys]
                    said: Any = _parted(self._policy.sample(prompts, first.n, keys), len(asked))
                else:
                    responses = _joined([request.responses for request in asked])
                    rows = token_log_p(self._policy, prompts, responses, first).chunk(len(asked))
                    said = [own[:, : r.responses.tokens.shape[1]] for own, r in zip(rows, asked, strict=True)]
            answers |= dict(zip(places, said, strict=True))
        return answers

    def _likelihoods(self, turn: Turn) -> dict[int, Any]:
        """Answer requests of log-likelihoods: the frozen policy is the same for all experiments."""
        own = {p: TokenLogP(r.prompts, r.responses, gradient=False) for p, r in turn.items() if not r.frozen}
        answers = {place: said.sum(-1) for place, said in self._in_batches(own).items()}
        frozen = {place: request for place, request in turn.items() if request.frozen}
        if frozen:
            prompts = [prompt for request in frozen.values() for prompt in request.prompts]
            responses = _joined([request.responses for request in frozen.values()])
            rows = list(zip(prompts, map(tuple, ids_of(responses.tokens, responses.mask)), strict=True))
            places = {row: place for place, row in reversed(list(enumerate(rows)))}  # where arms still agree, most do
            once = sorted(places.values())
            asked = [prompts[place] for place in once]
            read = self._policy.log_likelihood(
                asked, responses.rows(once), frozen=True, chunk=at_once(self._policy.device, ROWS)
            )
            found = dict(zip(once, read, strict=True))
            said = torch.stack([found[places[row]] for row in rows])
            parts = torch.split(said, [len(request.prompts) for request in frozen.values()])
            answers |= dict(zip(frozen, parts, strict=True))
        return answers

    def _read(self, loops: Sequence[Loop], asked: Sequence[Features], model: RewardModel) -> list[Tensor]:
        rows, places = merged([list(zip(request.prompts, request.texts, strict=True)) for request in asked])
        before = model.reader.cut
        said = model.features([prompt for prompt, _ in rows], [text for _, text in rows])
        if model.reader.cut > before:  # whose they were is only then worth another look
            for loop, request in zip(loops, asked, strict=True):
                loop.follower.reward_model.reader.count_cut(request.prompts, request.texts)
        return [said[own] for own in places]


def batches(turn: Turn, device: torch.device) -> Iterator[list[int]]:
    """Yield the places of experiments whose requests make one batch: of one shape, no more rows than suit a device."""
    alike: dict[Any, list[int]] = {}
    for place, request in turn.items():
        alike.setdefault(request.shape, []).append(place)
    for places in alike.values():
        first: Any = turn[places[0]]
        most, n = (SAMPLED, first.n) if isinstance(first, Sample) else (ROWS, 1)
        parts = -(-len(places) // max(1, at_once(device, most) // (len(first.prompts) * n)))
        bounds = [len(places) * part // parts for part in range(parts + 1)]
        yield from (places[start:stop] for start, stop in itertools.pairwise(bounds))


def _parted(rollout: Rollout, count: int) -> list[Rollout | NumericalError]:
    """Return the rollouts of `count` experiments, each as wide as its longest response, or why there is none."""
    size = len(rollout.texts) // count
    found: list[Rollout | NumericalError] = []
    for start in range(0, len(rollout.texts), size):
        rows = slice(start, start + size)
        lengths = rollout.mask[rows].sum(-1)
        width = int(lengths.max())
        own = Rollout(rollout.tokens[rows, :width], rollout.mask[rows, :width], rollout.texts[rows])
        found.append(own if bool(lengths.all()) else NumericalError(NOT_FINITE))
    return found


def _joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Return the rows of several rollouts as one, padded to the widest of them."""
    width = max(own.tokens.shape[1] for own in rollouts)

    def padded(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.nn.functional.pad(own, (0, width - own.shape[1])) for own in tensors])

    tokens, masks = padded([own.tokens for own in rollouts]), padded([own.mask for own in rollouts])
    return Rollout(tokens, masks, [text for own in rollouts for text in own.texts])
