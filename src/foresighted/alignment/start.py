"""What every arm of a seed starts from and shares: reference responses, and a reward model fitted to initial pairs.

All of it comes from the frozen policy, so it is the same whatever the arm does later; arms of a comparison read one
folder, and the first to arrive fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from foresighted.alignment.follower import Follower
from foresighted.alignment.kept import REWARD_MODEL, Kept
from foresighted.labels.asking import Asker
from foresighted.labels.pair import Groups, Pair, every_place, pair_id
from foresighted.labels.preferences import read_preferences
from foresighted.labels.waiting import ask_and_wait
from foresighted.models import noise
from foresighted.models.learner import reward_model_learner
from foresighted.models.memory import at_once
from foresighted.models.policy import Policy
from foresighted.models.reward_model import RewardModel
from foresighted.prompts import INITIAL_EPOCH, order
from foresighted.settings import TrainConfig
from foresighted.store import records
from foresighted.store.files import make_folder, replacing
from foresighted.store.records import PairRow, ReferenceRow
from foresighted.store.rows import write
from foresighted.store.tensors import read_tensors, save_tensors
from foresighted.types import Prompt

BLOCK_ROWS = 64
"""References written in one generate call on a CPU; fixed for a device, as a batch's shape can change the last bit."""
_FIT_BATCH = 16


class Start:
    """References and first reward model of one seed, kept in a folder.

    Args:
        directory: the folder, shared by arms; made when something is kept in it.
        config: of any of these arms (they agree in everything that is read here).
        policy: whose frozen initial model writes the references.
        labels: where labels of the initial pairs and utilities of references are read.
        prompts: the training prompts.
    """

    def __init__(
        self, directory: Path, config: TrainConfig, policy: Policy, labels: Asker, prompts: Sequence[Prompt]
    ) -> None:
        self._kept = Kept(directory, config, prompts)
        self._config = config
        self._policy = policy
        self._labels = labels
        self._prompts = prompts
        self._block_rows = at_once(policy.device, BLOCK_ROWS)
        self._rows: list[ReferenceRow] = []

    def references(self, number: int) -> list[list[ReferenceRow]]:
        """Return the M references of each prompt of a round, sampling and saving the next block if need be."""
        each = self._config.references
        size = self._config.prompts_per_round * each
        if len(self._rows) < number * size:
            with self._kept.lock:
                self._rows = self._kept.references(self._kept.open())
                while len(self._rows) < number * size:
                    self._rows += self._block(len(self._rows) // size + 1)
                    write(self._kept.directory / records.REFERENCES, self._rows)
                    self._kept.pin(records.REFERENCES)
        starts = range((number - 1) * size, number * size, each)
        return [self._rows[start : start + each] for start in starts]

    def _block(self, first: int) -> list[ReferenceRow]:
        each = self._config.references
        rounds = range(first, first + max(1, self._block_rows // (self._config.prompts_per_round * each)))
        asked = [(number, prompt) for number in rounds for prompt in self._kept.prompts_of(number)]
        places = [(number, prompt, n) for number, prompt in asked for n in range(each)]
        keys = [noise.key(self._config.seed, "reference", number, p.id, *([n] if n else [])) for number, p, n in places]
        rollout = self._policy.sample([prompt.text for _, prompt in asked], each, keys, frozen=True)
        read = self._labels.utility([prompt.text for _, prompt in asked], rollout.texts[::each])  # labels read no other
        utility = [value if n == 0 else None for value in read for n in range(each)]
        rows = zip(places, rollout.texts, rollout.lengths(), utility, strict=True)
        return [ReferenceRow(number, p.id, p.text, text, length, u, n) for (number, p, n), text, length, u in rows]

    def fit(self, reward_model: RewardModel) -> list[Pair]:
        """Bring a reward model to its state before the first round; return the labelled pairs that took.

        K pairs of frozen-policy responses are labelled and the trainable part is fitted to them once; later calls
        read the fitted weights.
        """
        kept, path, parameters = self._kept, self._kept.directory / REWARD_MODEL, reward_model.trainable()
        make_folder(kept.directory)  # of the lock
        with kept.lock:
            pins = kept.open()
            if not self._config.initial_pairs:
                return []
            if REWARD_MODEL not in pins.records:
                self._fit(reward_model)
                with replacing(path) as temporary:
                    save_tensors(temporary, parameters)
                kept.pin(records.INITIAL_PAIRS, REWARD_MODEL)
            read_tensors(path, parameters, f"{path}: of another reward model; use another --out")
            rows = kept.pairs(kept.pins())
        pairs = [_labelled(row) for row in rows]
        return with_features(pairs, reward_model) if self._config.fit.buffer else pairs

    def _fit(self, reward_model: RewardModel) -> None:
        pairs, learner = self._pairs(), reward_model_learner(reward_model.trainable(), self._config)
        follower = Follower(reward_model, learner, config=self._config, steps=1)
        if reward_model.head_only:
            with_features(pairs, reward_model)
        batches = [pairs[s : s + _FIT_BATCH] for s in range(0, len(pairs), _FIT_BATCH)]
        for step in range(self._config.initial_steps):
            follower.learn(pairs if reward_model.head_only else batches[step % len(batches)])

    def _pairs(self) -> list[Pair]:
        """Return the labelled pairs of the first fit, once they are written down."""
        config = self._config
        if config.initial_preferences is not None:
            rows = read_preferences(Path(config.initial_preferences), config.initial_pairs, config.seed)
            pairs = [_labelled(row) for row in rows]
        else:
            rows, pairs = self._asked()
        write(self._kept.directory / records.INITIAL_PAIRS, rows)
        return pairs

    def _asked(self) -> tuple[list[PairRow], list[Pair]]:
        """Have the frozen policy write two responses to each of K prompts, the same prompt again where there are fewer,
        and have them labelled."""
        config, count = self._config, len(self._prompts)
        places = order(count, seed=config.seed, epoch=INITIAL_EPOCH)
        chosen = [self._prompts[places[k % count]] for k in range(config.initial_pairs)]
        texts, size = [prompt.text for prompt in chosen], self._block_rows // 2
        written: list[str] = []
        for start in range(0, len(chosen), size):
            block = range(start, min(start + size, len(chosen)))
            keys = [noise.key(config.seed, "initial", k, side) for k in block for side in (0, 1)]
            written += self._policy.sample([texts[k] for k in block], 2, keys, frozen=True).texts
        first, second = written[::2], written[1::2]
        pairs = Groups(texts, [[text] for text in first], [[text] for text in second]).pairs(
            0, every_place(len(texts), 1, with_reference=True)
        )
        for pair, utility in zip(pairs, self._labels.utility(texts, second), strict=True):
            pair.second_utility = utility
        if self._labels.queue is None:
            self._labels.read(pairs)
        else:
            ask_and_wait(self._labels, pairs, 0)
        said = zip(chosen, first, second, [pair.label for pair in pairs], strict=True)
        rows = [PairRow(prompt.id, prompt.text, a, b, label) for prompt, a, b, label in said if label is not None]
        return rows, [pair for pair in pairs if pair.label is not None]


def _labelled(row: PairRow) -> Pair:
    texts = row.prompt, row.first, row.second
    return Pair(pair_id(0, *texts), *texts, row.label)


def with_features(pairs: list[Pair], reward_model: RewardModel) -> list[Pair]:
    """Return pairs with the head's inputs, shape 2 D, where these never change."""
    if reward_model.head_only:
        prompts = [pair.prompt for pair in pairs]
        sides = [reward_model.features(prompts, [getattr(p, side) for p in pairs]) for side in ("first", "second")]
        for pair, features in zip(pairs, torch.stack(sides, 1), strict=True):
            pair.features = features
    return pairs
