"""The records of a TRL run: the same files as a run of ours, in a folder of the trainer's output_dir."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import pstdev

import torch

from foresighted.alignment.rows import Evaluated, Round, heldout_rows, recorded
from foresighted.integrations.trl.config import FPOConfig
from foresighted.labels.pair import utilities
from foresighted.settings import to_yaml
from foresighted.statistics.calibration import accuracy, overconfidence
from foresighted.statistics.numbers import mean
from foresighted.store import records
from foresighted.store.directory import CONFIG
from foresighted.store.environment import write_environment
from foresighted.store.files import fsync, make_folder, write
from foresighted.store.records import HeldoutRow
from foresighted.store.rows import append, read

_log = logging.getLogger(__name__)


class Journal:
    """Appends to the records of a run; only the first process has one.

    Args:
        folder: of the records.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, config: FPOConfig, device: torch.device) -> None:
        """Make the folder for a run that begins anew; records of an earlier run there move aside."""
        if any((self.folder / name).exists() for name in records.RECORD_FILES):
            number = next(n for n in range(1, 10**6) if not self._aside(n).exists())
            self.folder.rename(self._aside(number))
            fsync(self.folder.parent)
            _log.warning("%s: records of an earlier run moved to %s", self.folder, self._aside(number).name)
        make_folder(self.folder)
        write(self.folder / CONFIG, to_yaml(config))
        write_environment(self.folder, device, ("trl", "datasets"))

    def _aside(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}-{number}")

    def add_round(self, played: Round) -> None:
        """Append the candidates of a round, then the round."""
        candidates, row = recorded(played)
        append(self.folder / records.CANDIDATES, candidates)
        append(self.folder / records.ROUNDS, [row])

    def evaluated(self) -> set[int]:
        """Return the rounds whose evaluation is recorded."""
        path = self.folder / records.HELDOUT
        return {row.round for row in read(path, HeldoutRow)} if path.exists() else set()

    def add_evaluation(self, number: int, answers: Sequence[Evaluated]) -> None:
        """Append an evaluation: one row a prompt, the first answer's text, means over its answers."""
        append(self.folder / records.HELDOUT, heldout_rows(number, answers))


def metrics(played: Round) -> dict[str, float]:
    """Return what TRL logs of a round; what is unknown is left out, never logged as NaN."""
    known = [u for row in utilities(played.pairs, *played.score.shape) for u in row if u is not None]
    values: dict[str, float | None] = {
        "reward_model": float(played.scores.reward.mean()),
        "penalty": float(played.penalty.value.mean()),
        "influence": -float(played.penalty.value.mean()),
        "gamma_share": played.penalty.share,
        "kl": None if played.kl is None else float(played.kl.mean()),
        "overconfidence": overconfidence(played.judged),
        "reward_model_loss": played.reward_model_loss,
        "reward_model_accuracy": accuracy(played.judged),
        "reward_model_drift": played.reward_model_drift,
        "reward_model_std": float(played.scores.reward.std(correction=0)),
        "utility": mean(known),
        "utility_std": pstdev(known) if len(known) > 1 else None,
        "labels_total": float(played.counts.labels_total),
        "labels_failed": float(played.labels_failed),
        "given_up": float(played.counts.given_up) or None,
        "prompts_cut": float(played.prompts_cut) or None,
    }
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
