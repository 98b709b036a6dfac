"""From whole groups of texts to what each response is paid."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from foresighted.alignment.foresight import Foresight, Penalty, Scores
from foresighted.alignment.players import named_device
from foresighted.alignment.probed import ProbedFollower, loaded
from foresighted.errors import NumericalError
from foresighted.influence.passes import ROWS
from foresighted.integrations.owner.config import OwnerConfig
from foresighted.integrations.owner.events import Asked, Group, Member
from foresighted.integrations.owner.state import SPREAD_OF, State
from foresighted.labels.pair import Groups, Pair, best_places, every_place
from foresighted.models.reward_model import Each, RewardModel
from foresighted.steering import FORMS, Reference, raw_gamma, spread_and_size
from foresighted.texts import text_of
from foresighted.types import Text

FEWEST = 8
"""Groups of one from which on gamma can be a share of the spread of rewards."""


def digest(text: Text) -> str:
    """Return what a response is known by: the first 16 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(text_of(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def device_of(config: OwnerConfig) -> torch.device:
    """Return where an owner's settings put its reward model; raises a `ConfigError` for a device that is none."""
    if config.device == "auto":
        return named_device("cuda" if torch.cuda.is_available() else "cpu")
    return named_device(config.device)


def placed(config: OwnerConfig) -> RewardModel:
    """Return an owner's reward model, where its settings put it; raises a `ModelError` for one that is none."""
    model = loaded(config.reward_model, None, config, device_map=config.device_map)
    if not hasattr(model.body, "hf_device_map"):
        device = device_of(config)
        model.body.to(device)
        model.head.to(device)
    return model


def side_by_side(threads: int) -> Each:
    """Return what reads batches in so many threads, each on one core.

    All cores on one batch wait for each other after every product, so whatever else runs on one of them (clients, the
    event loop, the learning thread) holds up all.
    """
    pool = ThreadPoolExecutor(threads, "foresighted-reading", initializer=lambda: torch.set_num_threads(1))
    return lambda read, batches: pool.map(torch.no_grad()(read), batches)


@dataclass(frozen=True)
class Texts:
    """A group that is to be scored."""

    run: str
    group: str
    step: int | None
    size: int
    prompt: Text
    responses: dict[int, Text]
    """By place."""
    references: Sequence[Text]
    """Nothing where a response is compared with the others."""
    number: int = 0

    @property
    def whole(self) -> bool:
        """Whether all responses are there."""
        return len(self.responses) == self.size

    @property
    def compared(self) -> bool:
        """Whether it is whole, and there is something that its responses are compared with."""
        return self.whole and bool(self.size > 1 or self.references)

    @property
    def groups(self) -> Groups:
        """Its texts as a round of one prompt."""
        order = [self.responses[place] for place in sorted(self.responses)]
        return Groups([self.prompt], [order], [list(self.references)] if self.references else None)


class Scorer:
    """Reads groups with the reward model of one version.

    Args:
        model: scores; its trained parameters are replaced when the next version comes.
        config: form and scope.
    """

    def __init__(self, model: RewardModel, config: OwnerConfig) -> None:
        self.model = model
        self.config = config
        if model.device.type == "cpu" and torch.get_num_threads() > 1:
            model.each = side_by_side(torch.get_num_threads())
        self.follower = ProbedFollower(model, config)
        self._kinds: dict[tuple[Reference, int], Foresight] = {}
        self.alone: deque[tuple[float, float]] = deque(maxlen=SPREAD_OF)
        """As `State.alone`, and those of the batch that is being scored."""
        self.apart: deque[tuple[float, float]] = deque(maxlen=SPREAD_OF)
        """As `State.apart`, and those of the batch that is being scored."""

    def begin(self, state: State) -> None:
        """Go by what the journal says of the groups before; the caller holds the book's turn."""
        self.alone, self.apart = state.alone.copy(), state.apart.copy()

    def foresight(self, references: int) -> Foresight:
        """Return what prices influence against so many references, or against a group's other responses."""
        kind: Reference = "response" if references else "leave-one-out"
        key = kind, references or 1
        if key not in self._kinds:
            self._kinds[key] = Foresight(self.config, self.model, self.follower.learner.optimizer, *key)
        return self._kinds[key]

    def tokens(self, texts: Sequence[Text]) -> list[int]:
        """Return the length of each text in the reward model's tokens."""
        said = self.model.tokenizer([text_of(text) for text in texts], add_special_tokens=False, verbose=False)
        return [len(ids) for ids in said["input_ids"]]

    def features(self, groups: Sequence[Groups]) -> list[Tensor] | None:
        """Return the head's inputs of each group's responses, read together; None where more than these is needed."""
        if self.config.scope != "head" or not groups:
            return None
        columns = [one.rows() for one in groups]
        prompts, texts = [p for own, _ in columns for p in own], [t for _, own in columns for t in own]
        read = self.model.features(prompts, texts, chunk=self._chunk)
        return list(torch.split(read, [len(own) for _, own in columns]))

    @property
    def _chunk(self) -> int:
        return self.config.influence_chunk or ROWS

    def rewards(
        self, prompts: Sequence[Text], responses: Sequence[Text], features: Sequence[Tensor] | None = None
    ) -> list[float]:
        """Return the bare reward of each row; `features` are the head's inputs, where they were read.

        Raises:
            NumericalError: one that is not finite.
        """
        if features is None:
            found = self.follower.rewards(list(prompts), list(responses))
        else:
            with torch.no_grad():
                found = self.model.rewards(torch.cat(list(features))).tolist()
        for value, text in zip(found, responses, strict=True):
            if not math.isfinite(value):
                raise NumericalError(
                    f"reward_model: reward {value} of response {text_of(text)!r:.60}; check its weights"
                )
        return found

    def read(self, groups: Groups, features: Tensor | None) -> Scores:
        """Return the scores of one whole group; `features` are the head's inputs, where they were read."""
        foresight = self.foresight(len(groups.references[0]) if groups.references else 0)
        if features is None:
            return foresight.score(*groups.rows(), groups=1)
        return foresight.score_features(features, groups=1)

    def scored(
        self, texts: Texts, version: int, features: Tensor | None, asked: Sequence[Pair]
    ) -> tuple[Group, list[Pair]]:
        """Return a whole group with what its responses are paid, and the pairs that are to be labelled.

        Args:
            texts: of the group.
            version: of the reward model.
            features: the head's inputs, where they were read.
            asked: every pair, labelled, where the form reads labels; a label that was not given is None.

        Raises:
            NumericalError: a reward or product that is not finite.
        """
        groups = texts.groups
        foresight = self.foresight(len(texts.references))
        before = self.model.reader.cut
        scores = self.read(groups, features)
        cut = self.model.reader.cut - before
        pairs = list(asked)
        if scores.features is not None and self.model.head_only:
            for pair in pairs:
                pair.features = _features_of(pair, scores.features[0], len(texts.responses))
        label = self.follower.steering_label(self.config, pairs, scores.reward)
        found = None if label is None else self._penalty(foresight, scores, label)
        told = self.apart[-1] if found is not None and self._pools(foresight, scores) else (None, None)
        penalty = Penalty(torch.zeros_like(scores.reward), 0.0, None) if found is None else found
        total = scores.reward - penalty.value
        if not pairs:
            pairs = self._pairs(texts, total, scores)
        margins = self._margins(pairs, scores)
        rows = zip(
            sorted(texts.responses), groups.candidates[0], self.tokens(groups.candidates[0]),
            *(tensor.flatten().tolist() for tensor in (
                scores.reward, penalty.value, scores.reference_reward.expand_as(scores.reward), scores.products.gram,
            )), strict=True,
        )  # fmt: skip
        members = [Member(place, digest(text), text, *values) for place, text, *values in rows]
        event = Group(
            texts.number, texts.run, texts.group, texts.step, texts.size, version, found is not None, texts.prompt,
            list(texts.references), members,
            [Asked(p.id, p.place.first, p.place.second, m) for p, m in zip(pairs, margins, strict=True) if p.place],
            penalty.gamma, penalty.share, cut, *told,
        )  # fmt: skip
        return event, pairs

    def _penalty(self, foresight: Foresight, scores: Scores, label: Tensor) -> Penalty | None:
        """Return the penalty of a group, where gamma may be a share of the spread within the last groups; of a response
        that came alone, of the last ones' margins, which nobody knows until there are `FEWEST` of them: None."""
        if self._pools(foresight, scores):
            return foresight.penalty(scores, label, one_share=self._one_share)
        if not foresight.steers or self.config.unit != "share":
            return foresight.penalty(scores, label)
        gram, spread = scores.products
        self.alone.append((float(scores.margin[0, 0]), float(gram[0, 0])))
        if len(self.alone) < FEWEST:
            return None
        margins, grams = (torch.tensor([column]) for column in zip(*self.alone, strict=True))
        residual = foresight.form.residual(pairwise=True)
        gamma = self.config.weight * float(raw_gamma(1.0, margins, grams, residual=residual))
        value = foresight.form.pairwise(gram, spread, scores.margin, label, gamma=gamma)
        return Penalty(value, gamma, self.config.weight)

    def _pools(self, foresight: Foresight, scores: Scores) -> bool:
        """Return whether gamma is a share of a spread that the groups before tell, too."""
        return foresight.steers and self.config.unit == "share" and scores.reward.numel() > 1

    def _one_share(self, reward: Tensor, base: Tensor) -> float:
        """Return what a gamma of 1 share is: of one group's own spread it would be noise, and of two responses it would
        always take the whole difference, or double it."""
        residual = FORMS[self.config.steering].residual(pairwise=True)
        spread, size = spread_and_size(reward, base, residual=residual)
        self.apart.append((float(spread), float(size)))
        pooled, of = (math.hypot(*column) for column in zip(*self.apart, strict=True))
        return pooled / of if of > 0 else 0.0

    def every_pair(self, texts: Texts) -> list[Pair]:
        """Return the pairs that hold every response of a group, as it is labelled where the form reads labels."""
        groups = texts.groups
        places = every_place(1, len(groups.candidates[0]), with_reference=groups.references is not None)
        return groups.pairs(texts.number, places)

    def _pairs(self, texts: Texts, total: Tensor, scores: Scores) -> list[Pair]:
        referenced = bool(texts.references)
        if self.config.every_pair:
            places = every_place(1, total.shape[1], with_reference=referenced)
        else:
            places = best_places(total, with_reference=referenced)
        features = scores.features if self.model.head_only else None
        return texts.groups.pairs(texts.number, places, features)

    def _margins(self, pairs: Sequence[Pair], scores: Scores) -> list[float]:
        reward, reference = scores.reward.tolist()[0], scores.each_reference.tolist()[0]
        places = [pair.place for pair in pairs if pair.place is not None]
        return [reward[p.first] - (reference[0] if p.second is None else reward[p.second]) for p in places]

    def bare(self, texts: Texts, version: int) -> Group:
        """Return an incomplete group whose responses are paid the bare reward."""
        order = sorted(texts.responses)
        responses = [texts.responses[place] for place in order]
        rewards = self.rewards([texts.prompt] * len(order), responses)
        members = [
            Member(place, digest(text), text, tokens, reward, 0.0, 0.0, 0.0)
            for place, text, tokens, reward in zip(order, responses, self.tokens(responses), rewards, strict=True)
        ]
        return Group(
            texts.number, texts.run, texts.group, texts.step, texts.size, version, False, texts.prompt, [], members, [],
            None, None, 0, None, None,
        )  # fmt: skip


def _features_of(pair: Pair, features: Tensor, size: int) -> Tensor | None:
    """Return the head's inputs of a pair of a group of `size` responses, its references last."""
    if pair.place is None:
        return None
    _, first, second = pair.place
    return features[[first, size if second is None else second]]
