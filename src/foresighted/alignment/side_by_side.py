"""Runs of a comparison in one process: as many side by side as memory holds, the rest after one another."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from foresighted.alignment import checkpoint
from foresighted.alignment.given import PROMPTS, Given
from foresighted.alignment.players import Shared
from foresighted.alignment.playing import Playing, play_rounds
from foresighted.alignment.requests import TokenLogP
from foresighted.alignment.run import check_kept, finished, first_by_hash, interrupts, memory, run_claim
from foresighted.alignment.together import ROWS, SAMPLED, token_log_p
from foresighted.errors import ConfigError, RunError
from foresighted.models import noise
from foresighted.models.memory import at_once, free_memory, kept_by
from foresighted.models.stacked import Stack
from foresighted.prompts import PromptSet
from foresighted.settings import TrainConfig
from foresighted.store.directory import claimed
from foresighted.store.environment import write_environment
from foresighted.store.rows import write, write_json

_log = logging.getLogger(__name__)
SIDE_BY_SIDE = "side_by_side.json"
"""How many runs a comparison plays at a time: a resumed one plays as many, since the shape of a batch can change the
last bit."""
_SHARE = 0.8
"""Of free memory, that is used."""


@dataclass
class Run:
    """One arm and seed: where it is written and how far it got."""

    arm: str
    seed: int
    directory: Path
    rounds_done: int = 0

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"arm {self.arm}, seed {self.seed}"


class Apart(Exception):  # noqa: N818  # not an error
    """Why runs cannot be played side by side."""


class SideBySide:
    """Plays runs of one comparison in batches.

    Args:
        config: what the runs have in common; its `threads` are those of the process.
        given: objects in place of names.
        prompts: of the comparison.

    Raises:
        Apart: the runs cannot share what they would have to.
        ForesightedError: models or labels that cannot be loaded.
    """

    def __init__(self, config: TrainConfig, given: Given, prompts: PromptSet) -> None:
        if config.report_to != "none":
            raise Apart(f"report_to {config.report_to} follows one run a process")
        if config.policy_train != "lora" or config.lora_dropout or config.quantization != "none":
            raise Apart("only LoRA adapters without dropout on a policy that is not quantised share one")
        self._shared = Shared(config, given, prompts.train)
        stack = self._shared.policy.stack
        if stack is None:
            raise Apart("the policy's adapter is no plain LoRA on linear layers, or draws dropout")
        self._stack: Stack = stack
        self._config, self._prompts, self._given = config, prompts, given.prompts
        self._held = first_by_hash(prompts.heldout, config.heldout_prompts)
        self._digest = checkpoint.prompts_digest(prompts)

    def at_a_time(self, out: Path, asked: int | None, count: int) -> int:
        """Return how many of `count` runs are played at a time: as asked, as before, or as many as memory holds.

        Raises:
            ConfigError: more were asked for than memory holds.
        """
        path = out / SIDE_BY_SIDE
        before = json.loads(path.read_bytes())["runs"] if path.exists() else None
        if asked is None and before is not None:
            return int(before)
        most = min(count, asked or count)
        fit = self._most(most)
        if asked is not None and fit < most:
            raise ConfigError(f"side_by_side: got {asked}, and the memory that is free holds {fit} runs; give {fit}")
        write_json(path, {"runs": fit})
        if fit < count:
            _log.warning("side_by_side: memory holds %d of %d runs at a time; the rest follow", fit, count)
        return fit

    def _most(self, count: int) -> int:
        """Return how many of `count` runs fit into memory, from what the gradient pass of one keeps."""
        config, policy = self._config, self._shared.policy
        texts = [prompt.text for prompt in self._prompts.train[: config.prompts_per_round]]
        every = [text for text in texts for _ in range(config.candidates)]
        said = policy.sample(texts, config.candidates, [noise.key("memory", i) for i in range(len(every))])
        with kept_by(policy.model.parameters()) as kept:
            token_log_p(policy, every, said, TokenLogP(every, said))
        adapter = sum(p.numel() * p.element_size() for p in policy.trainable().values())
        row = policy.model.config.get_text_config().vocab_size * 4 * 3  # logits, their exponentials, their gradient
        rows = max(SAMPLED, 0 if policy.head.apart() else ROWS * said.tokens.shape[1])
        once = row * at_once(self._shared.device, rows)
        spare = _SHARE * free_memory(self._shared.device) - once
        return max(1, min(count, int(spare / (sum(kept.values()) + 4 * adapter))))

    def play(
        self, runs: Sequence[Run], configs: Sequence[TrainConfig], starts: Sequence[Path], on_round: Callable[[], None]
    ) -> list[str]:
        """Play some runs to their ends; return what those said that ended with an error.

        Raises:
            ForesightedError: what concerns all of them.
            Stopped: after an interrupt, with every finished round saved.
        """
        loops, together = self._shared.loops(configs, starts, self._stack)
        playing = [
            Playing(run.name, loop, run.directory, self._held, self._digest)
            for run, loop in zip(runs, loops, strict=True)
        ]
        found = self._states(runs, configs, starts)
        by_directory = {run.directory: run for run in runs}

        def told(one: Playing, _row: object) -> None:
            by_directory[one.out].rounds_done = one.done
            on_round()

        with self._claimed(runs, configs), memory(), interrupts() as stop:
            together.stopping = stop.is_set
            for one, state in zip(playing, found, strict=True):
                one.begin(state)
                by_directory[one.out].rounds_done = one.done
            play_rounds(playing, together, told, stop.is_set)
        return [f"{one.name}: {one.failed}" for one in playing if one.failed is not None]

    def _states(
        self, runs: Sequence[Run], configs: Sequence[TrainConfig], starts: Sequence[Path]
    ) -> list[checkpoint.Found | None]:
        """Return what each run goes on from: all from one round, where a process died while it saved them."""
        newest = [
            check_kept(config, run.directory, self._prompts, start)
            for run, config, start in zip(runs, configs, starts, strict=True)
        ]
        asked = [(run.directory, config, self._digest) for run, config in zip(runs, configs, strict=True)]
        rounds = [0 if found is None else found.state.round for found in newest]
        least = min(rounds)
        states = []
        for one, found, done in zip(asked, newest, rounds, strict=True):
            back = 0 < done - least <= self._config.checkpoint_every
            states.append((checkpoint.find(*one, at=least) if least else None) if back else found)
        return states

    @contextmanager
    def _claimed(self, runs: Sequence[Run], configs: Sequence[TrainConfig]) -> Iterator[None]:
        with ExitStack() as claims:
            for run, config in zip(runs, configs, strict=True):
                claims.enter_context(claimed(run_claim(config), run.directory, resume=True))
                if self._given is not None:
                    write(run.directory / PROMPTS, self._given)
                write_environment(run.directory, self._shared.device)
            yield


def play_side_by_side(
    plays: SideBySide, runs: Sequence[Run], size: int, of: Callable[[Run], tuple[TrainConfig, Path]],
    on_round: Callable[[], None],
) -> None:  # fmt: skip  # one argument a line says no more
    """Play runs, `size` at a time; those that are finished already are left as they are.

    Raises:
        RunError: runs that ended with an error of their own, once the others are done.
    """
    failed: list[str] = []
    for start in range(0, len(runs), size):
        left = [run for run in runs[start : start + size] if not finished(run.directory, of(run)[0].rounds)]
        if left:
            configs, starts = zip(*map(of, left), strict=True)
            failed += plays.play(left, configs, starts, on_round)
    if failed:
        raise RunError("; ".join(failed))
