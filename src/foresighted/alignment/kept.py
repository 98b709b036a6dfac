"""What arms of a seed share, as it lies on disk: reference responses, initial pairs and the fitted first reward model.

`hashes.json` says how long each file is and what it holds. A file that it does not name was being written when its
process died, and is made again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from foresighted.errors import DataError, RunError
from foresighted.prompts import order
from foresighted.settings import TrainConfig
from foresighted.store import records
from foresighted.store.files import Pins, make_folder, pinned
from foresighted.store.records import PairRow, ReferenceRow
from foresighted.store.rows import read, read_sealed, write_sealed
from foresighted.types import Prompt

_log = logging.getLogger(__name__)
REWARD_MODEL = "reward_model.safetensors"
HASHES = "hashes.json"
_KEPT = (records.REFERENCES, records.INITIAL_PAIRS, REWARD_MODEL)


class Kept:
    """The folder of a start.

    Args:
        directory: the folder; it need not be there.
        config: of any arm.
        prompts: the training prompts.
    """

    def __init__(self, directory: Path, config: TrainConfig, prompts: Sequence[Prompt]) -> None:
        self.directory = directory
        self.lock = FileLock(directory / ".lock")
        self._config = config
        self._prompts = prompts

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
        if self.directory.is_dir():
            with self.lock:
                pins = self.pins()
                self.references(pins)
                self.pairs(pins)

    def open(self) -> Pins:
        """Return the files that are whole, once what is not pinned was cut off; the caller holds the lock.

        Raises:
            RunError: a file is not as it was written.
        """
        make_folder(self.directory)
        pins = self.pins()
        pins.cut_back(self.directory)
        if not (self.directory / HASHES).exists():
            if pins.records:
                _log.warning("%s: of an earlier version, which kept no hashes: taken as it is", self.directory)
            self.pin(*pins.records)  # before the first file: without one, a later process would take what it finds
        return pins

    def pins(self) -> Pins:
        """Return how long the files here are and what they hold, checked. A file that is not pinned was being written
        when its process died, and is made again; only of an earlier version, which pinned none, all are taken."""
        path, again = self.directory / HASHES, f"restore the file, or remove {self.directory}: it is made again"
        if not path.exists():
            return pinned(self.directory, [name for name in _KEPT if (self.directory / name).exists()])
        try:
            pins, _ = read_sealed(path, Pins, what="hashes", again=again, since="records_sha256")
        except DataError as error:
            raise RunError(str(error)) from None
        if wrong := pins.changed(self.directory):
            raise RunError(f"{wrong}; {again}")
        return pins

    def pin(self, *names: str) -> None:
        """Write down that files are whole as they are now, and those that were pinned before."""
        known = self.pins().records if (self.directory / HASHES).exists() else {}
        write_sealed(self.directory / HASHES, pinned(self.directory, dict.fromkeys((*known, *names))))

    def references(self, pins: Pins) -> list[ReferenceRow]:
        """Return the references that are kept, whole rounds of them.

        Raises:
            RunError: they belong to other prompts or to rounds of another size.
        """
        path, each = self.directory / records.REFERENCES, self._config.references
        size = self._config.prompts_per_round * each
        if not pins.records.get(path.name):
            return []
        rows = read(path, ReferenceRow)
        rounds = range(1, len(rows) // size + 1)
        asked = [(number, p, n) for number in rounds for p in self.prompts_of(number) for n in range(each)]
        for line, (row, (number, prompt, n)) in enumerate(zip(rows, asked, strict=False), start=1):
            if (row.round, row.prompt_id, row.prompt, row.reference) != (number, prompt.id, prompt.text, n):
                raise RunError(
                    f"{path}, line {line}: is of round {row.round} and prompt {row.prompt_id!r}, and this run asks"
                    f" {prompt.id!r} in round {number}; give the prompts and settings it was made with, or choose"
                    " another --out"
                )
        return rows[: len(asked)]

    def pairs(self, pins: Pins) -> list[PairRow]:
        """Return the initial pairs, if the reward model that was fitted to them is kept.

        Raises:
            RunError: another number of pairs than the settings ask for.
        """
        path, count = self.directory / records.INITIAL_PAIRS, self._config.initial_pairs
        if not count or REWARD_MODEL not in pins.records:
            return []
        rows = read(path, PairRow)
        if len(rows) != count:
            raise RunError(
                f"{path}: holds {len(rows)} pairs, and initial_pairs is {count}; restore the file, or remove"
                f" {self.directory}: it is made again"
            )
        return rows
