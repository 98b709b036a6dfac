"""Runs while they are played, one or several side by side: round after round, evaluated, recorded and saved."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foresighted.alignment import checkpoint
from foresighted.alignment.players import fit
from foresighted.alignment.requests import Features, Sample, Utilities
from foresighted.alignment.round import Loop, log_ratio, play_round
from foresighted.alignment.together import Turn, play
from foresighted.errors import ForesightedError, NumericalError, Stopped
from foresighted.models import noise
from foresighted.store import records
from foresighted.store.files import hashes, new_folder
from foresighted.store.records import HeldoutRow, RoundRow
from foresighted.store.rows import append, write_json
from foresighted.texts import distinct
from foresighted.types import Prompt

_log = logging.getLogger(__name__)
POLICY = "policy"
MANIFEST = "manifest.json"


@dataclass
class Playing:
    """A run and its directory."""

    name: str
    """For messages."""
    loop: Loop
    out: Path
    held: Sequence[Prompt]
    """Held-out prompts of an evaluation."""
    prompts: str
    """`checkpoint.prompts_digest` of all its prompts."""
    done: int = field(default=0, init=False)
    """Rounds that were played."""
    failed: ForesightedError | None = field(default=None, init=False)

    def begin(self, found: checkpoint.Found | None) -> None:
        """Bring the players to where the run goes on: to its start, or to a checkpoint; records are cut back to it."""
        fit(self.loop)
        self.done = checkpoint.restore(self.out, self.loop, found)

    async def play(self, shared: int) -> RoundRow:
        """Play the next round, evaluate where it is time, and write the records.

        Args:
            shared: runs that play it side by side: the seconds that are written down are a share of theirs.

        Raises:
            NumericalError: see `play_round`; names the directory that holds the newest checkpoint.
        """
        config, number = self.loop.config, self.done + 1
        if number == 1:
            append(self.out / records.HELDOUT, await self._evaluated(0))
        began = time.perf_counter()
        try:
            candidates, row = await play_round(self.loop, number)
        except NumericalError as error:
            where = "" if str(error).startswith("round") else f"round {number}: "
            raise NumericalError(f"{where}{error}; the newest checkpoint in {self.out} is whole") from None
        seconds = (time.perf_counter() - began) / shared
        append(self.out / records.CANDIDATES, candidates)
        append(self.out / records.ROUNDS, [row])
        if number % config.heldout_every == 0 or number == config.rounds:
            append(self.out / records.HELDOUT, await self._evaluated(number))
        append(self.out / records.TIMINGS, [{"round": number, "seconds": seconds, "candidates": len(candidates)}])
        self.done = number
        return row

    async def _evaluated(self, number: int) -> list[HeldoutRow]:
        """Answer held-out prompts after `number` rounds, with the same noise in every round and arm, and measure the
        answers. Reads no label that training uses."""
        loop, prompts = self.loop, self.held
        texts = [prompt.text for prompt in prompts]
        answers = await Sample(texts, 1, [noise.key(loop.config.heldout_seed, "held-out", p.id) for p in prompts])
        rewards = loop.follower.reward_model.rewards(await Features(texts, answers.texts)).tolist()
        ratios = (await log_ratio(texts, answers)).tolist()
        utility = await Utilities(texts, answers.texts)
        columns = zip(prompts, answers.texts, answers.lengths(), rewards, utility, ratios, strict=True)
        return [
            HeldoutRow(number, p.id, p.text, p.kind, text, length, reward, u, kl, distinct(text, 1), distinct(text, 2))
            for p, text, length, reward, u, kl in columns
        ]

    def save(self) -> None:
        """Write a checkpoint."""
        checkpoint.save(self.out, self.loop, self.done, self.prompts)

    def export(self) -> None:
        """Leave the trained policy in the directory."""
        loop = self.loop
        adapter = {} if loop.config.policy_train == "all" else {"save_embedding_layers": False}  # asks no hub
        if loop.policy.stack is not None:
            loop.policy.stack.hold(loop.policy_learner.parameters)
        with new_folder(self.out / POLICY) as folder:
            loop.policy.model.save_pretrained(folder, **adapter)
            loop.policy.tokenizer.save_pretrained(folder)
            write_json(folder / MANIFEST, {"sha256": hashes(folder)})


def play_rounds(
    runs: Sequence[Playing],
    carry_out: Callable[[Turn], Mapping[int, Any]],
    on_round: Callable[[Playing, RoundRow], None],
    stopping: Callable[[], bool],
) -> None:
    """Play runs of one number of rounds to their ends, those that are behind first; leave their trained policies.

    A run with an error of its own ends there, is named in a warning, and keeps the error in `failed`.

    Args:
        runs: at their beginnings.
        carry_out: does what they ask; places are theirs.
        on_round: called after each round of each run.
        stopping: asked after each round whether to stop.

    Raises:
        ForesightedError: what concerns all runs.
        Stopped: it was asked to stop; finished rounds are saved.
    """
    config = runs[0].loop.config
    for number in range(min(run.done for run in runs) + 1, config.rounds + 1):
        playing = {p: run for p, run in enumerate(runs) if run.done == number - 1 and run.failed is None}
        if not playing:
            break
        found = play({place: run.play(len(playing)) for place, run in playing.items()}, carry_out)
        rows: list[tuple[Playing, RoundRow]] = []
        for place, row in found.items():
            if isinstance(row, ForesightedError):
                runs[place].failed = row
                _log.warning("%s ends: %s", runs[place].name, row)
            else:
                rows.append((runs[place], row))
        saved = number % config.checkpoint_every == 0 or number == config.rounds
        if saved:
            _save([run for run, _ in rows])
        for run, row in rows:
            on_round(run, row)
        if stopping():
            if not saved:
                _save([run for run, _ in rows])
            raise Stopped(number)
    for run in runs:
        if run.failed is None:
            run.export()


def _save(runs: Sequence[Playing]) -> None:
    """Write a checkpoint of each run, then drop old ones: as long as not all have theirs, all can go on from one."""
    for run in runs:
        run.save()
    for run in runs:
        checkpoint.prune(run.out, run.loop.config.keep_checkpoints)
