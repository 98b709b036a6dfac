"""What every arm of a seed starts from and shares: reference responses, and a reward model fitted to initial pairs.

All of it comes from the frozen policy, so it is the same whatever the arm does later; arms of a comparison read one
folder, and the first to arrive fills it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock

from foresighted.alignment.follower import Follower
from foresighted.errors import DataError, RunError
from foresighted.labels.asking import Asker
from foresighted.labels.pair import Groups, Pair, every_place
from foresighted.models import noise
from foresighted.models.learner import reward_model_learner
from foresighted.models.policy import Policy
from foresighted.models.reward_model import RewardModel
from foresighted.prompts import order
from foresighted.settings import TrainConfig
from foresighted.store import records
from foresighted.store.files import Pins, make_folder, pinned, replacing
from foresighted.store.records import PairRow, ReferenceRow
from foresighted.store.rows import read, read_sealed, write, write_sealed
from foresighted.store.tensors import read_tensors, save_tensors
from foresighted.types import Prompt

_log = logging.getLogger(__name__)
BLOCK_ROWS = 64
"""References written in one generate call: fixed, since a batch's shape can change the last bit."""
_INITIAL_EPOCH = 2**32  # an order of its own, that no epoch of training uses
_FIT_BATCH = 16
REWARD_MODEL = "reward_model.safetensors"
HASHES = "hashes.json"
"""How long the files of a start are, and a hash of each."""
_KEPT = (records.REFERENCES, records.INITIAL_PAIRS, REWARD_MODEL)


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
        self._directory = directory
        self._lock = FileLock(directory / ".lock")
        self._config = config
        self._policy = policy
        self._labels = labels
        self._prompts = prompts
        self._rows: list[ReferenceRow] = []

    def prompts_of(self, number: int) -> list[Prompt]:
        """Return the B prompts of round `number` (1, 2, ...): the seed's order, epoch after epoch."""
        count, size = len(self._prompts), self._config.prompts_per_round
        places = range((number - 1) * size, number * size)
        orders = {e: order(count, seed=self._config.seed, epoch=e) for e in {place // count for place in places}}
        return [self._prompts[orders[place // count][place % count]] for place in places]

    def check(self) -> None:
        """Check everything that is kept here; nothing is written.

        Raises:
            RunError: a file is not as it was written, or belongs to other prompts or settings.
        """
        if self._directory.is_dir():
            with self._lock:
                pins = self._pins()
                self._kept_references(pins)
                self._kept_pairs(pins)

    def references(self, number: int) -> list[ReferenceRow]:
        """Return the reference of each prompt of a round, sampling and saving the next block if need be."""
        size = self._config.prompts_per_round
        if len(self._rows) < number * size:
            with self._lock:
                pins = self._pins()
                pins.cut_back(self._directory)
                self._rows = self._kept_references(pins)
                while len(self._rows) < number * size:
                    self._rows += self._block(len(self._rows) // size + 1)
                    write(self._directory / records.REFERENCES, self._rows)
                    self._pin(records.REFERENCES)
        return self._rows[(number - 1) * size : number * size]

    def _pins(self) -> Pins:
        """Return how long the files here are and what they hold, checked. A file that is not pinned was being written
        when its process died, and is made again; only of an earlier version, which pinned none, all are taken."""
        path, again = self._directory / HASHES, f"restore the file, or remove {self._directory}: it is made again"
        if not path.exists():
            return pinned(self._directory, [name for name in _KEPT if (self._directory / name).exists()])
        try:
            pins, _ = read_sealed(path, Pins, what="hashes", again=again, since="records_sha256")
        except DataError as error:
            raise RunError(str(error)) from None
        if wrong := pins.changed(self._directory):
            raise RunError(f"{wrong}; {again}")
        return pins

    def _pin(self, *names: str) -> None:
        known = self._pins().records if (self._directory / HASHES).exists() else {}
        write_sealed(self._directory / HASHES, pinned(self._directory, dict.fromkeys((*known, *names))))

    def _kept_references(self, pins: Pins) -> list[ReferenceRow]:
        path, size = self._directory / records.REFERENCES, self._config.prompts_per_round
        if not pins.records.get(path.name):
            return []
        rows = read(path, ReferenceRow)
        rounds = range(1, len(rows) // size + 1)
        asked = [(number, prompt) for number in rounds for prompt in self.prompts_of(number)]
        for line, (row, (number, prompt)) in enumerate(zip(rows, asked, strict=False), start=1):
            if (row.round, row.prompt_id, row.prompt) != (number, prompt.id, prompt.text):
                raise RunError(
                    f"{path}, line {line}: is of round {row.round} and prompt {row.prompt_id!r}, and this run asks"
                    f" {prompt.id!r} in round {number}; give the prompts and settings it was made with, or choose"
                    " another --out"
                )
        return rows[: len(asked)]

    def _kept_pairs(self, pins: Pins) -> list[PairRow]:
        path, count = self._directory / records.INITIAL_PAIRS, self._config.initial_pairs
        if not count or REWARD_MODEL not in pins.records:
            return []
        rows = read(path, PairRow)
        if len(rows) != count:
            raise RunError(
                f"{path}: holds {len(rows)} pairs, and initial_pairs is {count}; restore the file, or remove"
                f" {self._directory}: it is made again"
            )
        return rows

    def _block(self, first: int) -> list[ReferenceRow]:
        rounds = range(first, first + max(1, BLOCK_ROWS // self._config.prompts_per_round))
        places = [(number, prompt) for number in rounds for prompt in self.prompts_of(number)]
        texts = [prompt.text for _, prompt in places]
        keys = [noise.key(self._config.seed, "reference", number, prompt.id) for number, prompt in places]
        rollout = self._policy.sample(texts, 1, keys, frozen=True)
        utility = self._labels.utility(texts, rollout.texts)
        rows = zip(places, rollout.texts, rollout.lengths(), utility, strict=True)
        return [ReferenceRow(n, p.id, p.text, text, length, u) for (n, p), text, length, u in rows]

    def fit(self, reward_model: RewardModel) -> list[float]:
        """Bring a reward model to its state before the first round; return the labels that took.

        K pairs of frozen-policy responses are labelled and the trainable part is fitted to them once; later calls
        read the fitted weights.
        """
        path = self._directory / REWARD_MODEL
        parameters = reward_model.trainable()
        make_folder(self._directory)
        with self._lock:
            pins = self._pins()
            pins.cut_back(self._directory)
            if not (self._directory / HASHES).exists():
                if pins.records:
                    _log.warning("%s: of an earlier version, which kept no hashes: taken as it is", self._directory)
                self._pin(*pins.records)  # before the first file: without one, a later process would take what it finds
            if self._config.initial_pairs and REWARD_MODEL not in pins.records:
                self._fit(reward_model)
                with replacing(path) as temporary:
                    save_tensors(temporary, parameters)
                self._pin(records.INITIAL_PAIRS, REWARD_MODEL)
            if not self._config.initial_pairs:
                return []
            read_tensors(path, parameters, f"{path}: of another reward model; use another --out")
            return [row.label for row in self._kept_pairs(self._pins())]

    def _fit(self, reward_model: RewardModel) -> None:
        pairs = self._pairs()
        if reward_model.head_only:
            prompts = [pair.prompt for pair in pairs]
            sides = [reward_model.features(prompts, [getattr(p, side) for p in pairs]) for side in ("first", "second")]
            for pair, features in zip(pairs, torch.stack(sides, 1), strict=True):
                pair.features = features
        follower = Follower(reward_model, reward_model_learner(reward_model.trainable(), self._config), steps=1)
        batches = [pairs[s : s + _FIT_BATCH] for s in range(0, len(pairs), _FIT_BATCH)]
        for step in range(self._config.initial_steps):
            follower.learn(pairs if reward_model.head_only else batches[step % len(batches)])

    def _pairs(self) -> list[Pair]:
        config, count = self._config, len(self._prompts)
        places = order(count, seed=config.seed, epoch=_INITIAL_EPOCH)
        chosen = [self._prompts[places[k % count]] for k in range(config.initial_pairs)]
        keys = [noise.key(config.seed, "initial", k, side) for k in range(len(chosen)) for side in (0, 1)]
        texts = [prompt.text for prompt in chosen]
        rollout = self._policy.sample(texts, 2, keys, frozen=True)
        first, second = rollout.texts[::2], rollout.texts[1::2]
        pairs = Groups(texts, [[text] for text in first], second).pairs(
            0, every_place(len(texts), 1, with_reference=True)
        )
        for pair, utility in zip(pairs, self._labels.utility(texts, second), strict=True):
            pair.second_utility = utility
        said = zip(chosen, first, second, self._labels.read(pairs), strict=True)
        rows = [PairRow(prompt.id, prompt.text, a, b, label) for prompt, a, b, label in said]
        write(self._directory / records.INITIAL_PAIRS, rows)
        return pairs
