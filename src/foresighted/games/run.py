"""A sweep on disk: what is asked for, what is there already, and the rest played in parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from foresighted.errors import ConfigError, RunError
from foresighted.games.game import Game
from foresighted.games.loop import play
from foresighted.games.plan import ROWS_A_PART, Cell, Sweep, arm_cells, check_size, program_key, sweep_from_text
from foresighted.games.records import (
    ACTION_SEEDS,
    Run,
    cell_name,
    drop_unfinished,
    finished_runs,
    put_together,
    write_part,
)
from foresighted.games.settings import GameSettings, SweepSettings
from foresighted.games.summary import write_summary
from foresighted.settings import OLD_NAMES, settings, to_mapping
from foresighted.store.directory import CONFIG, Claim, check_claim, claimed
from foresighted.store.environment import write_environment

MAY_GROW = ("arms", "seeds", "sweep")


@dataclass(frozen=True)
class Request(SweepSettings):
    """What is asked for: a game, its settings, and what is played of it."""

    game: Game = field(kw_only=True)
    base: GameSettings = field(kw_only=True)

    def _rules(self) -> Iterable[tuple[bool, str]]:
        yield from super()._rules()
        try:
            names = [sweep.name for sweep in self.sweeps]
            check_size(arm_cells(self.game, self.arms, self.base, self.sweeps), len(self.seeds))
        except ConfigError as error:
            yield False, str(error)
        else:
            told = f"sweep: {', '.join(names)} names one twice; give all values in one --sweep"
            yield len(set(names)) == len(names), told

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """Swept settings with their values."""
        return tuple(sweep_from_text(self.game, text) for text in self.sweep)

    def mapping(self) -> dict[str, Any]:
        """Return the request as the flat mapping of `config.yaml`."""
        swept = [f"{sweep.name}={','.join(map(str, sweep.values))}" for sweep in self.sweeps]
        return {"game": self.game.name} | to_mapping(self) | {"seeds": _seeds_text(self.seeds), "sweep": swept}


def _seeds_text(seeds: tuple[int, ...]) -> str:
    whole = seeds == tuple(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}:{seeds[-1] + 1}" if whole else ",".join(map(str, seeds))


def sweep(
    request: Request,
    out: Path,
    *,
    resume: bool = False,
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    good_utility: float = 9.0,
) -> Path:
    """Play a request, write its tables and `summary.json`. Runs that are on disk are not played again.

    Args:
        request: what is asked for.
        out: directory; new, empty, or with `resume` one of the same game and settings. Arms, seeds and swept values
            may grow; what was there stays in the tables.
        resume: go on in a directory that has runs.
        jobs: programs at a time, default one a core.
        on_progress: told how many of how many rounds of parts are done.
        good_utility: a run that ends at least there ends well.

    Returns:
        `out`.

    Raises:
        RunError: a directory that is taken, damaged, or belongs to another sweep.
    """
    usual = {name: item.default for name, item in settings(type(request.base)).items()}
    claim = Claim("sweep", yaml.safe_dump(request.mapping(), sort_keys=False), MAY_GROW, usual)
    check_sweeps(request, check_claim(claim, out, resume=resume), out)
    with claimed(claim, out, resume=resume, look=lambda: finished_runs(out, request.mapping(), MAY_GROW)):
        write_environment(out, libraries=("jax", "jaxlib", "pyarrow"))
        drop_unfinished(out)
        _play(request, out, jobs, on_progress)
        write_summary(request, out, good_utility=good_utility)
    return out


def _play(request: Request, out: Path, jobs: int | None, on_progress: Callable[[int, int], None]) -> None:
    present = set(finished_runs(out))
    calls = {number: call for number, call in enumerate(_calls(request)) if not call.runs <= present}
    rounds = request.base.iterations
    done = dict.fromkeys(calls, 0)
    kept = set(sorted(request.seeds)[:ACTION_SEEDS])

    def one(number: int) -> None:
        call = calls[number]

        def told(round_: int) -> None:
            done[number] = round_
            on_progress(sum(done.values()), rounds * len(calls))

        played = play(request.game, call.cells, call.seeds, told)
        wanted = call.runs - present
        name = f"{number:05d}-{hashlib.sha256(repr(sorted(wanted)).encode()).hexdigest()[:12]}"
        write_part(
            out, name, played, wanted, game=request.game, every=request.record_every, kept=kept,
            drop_threshold=request.drop_threshold, config=request.mapping(),
        )  # fmt: skip

    with ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1) as pool:
        try:
            for _ in pool.map(one, calls):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    put_together(out)


class _Call(NamedTuple):
    """One call of a program: cells and seeds, both padded to the shape that its program was compiled for."""

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> set[Run]:
        return {(cell_name(cell), seed) for cell in self.cells for seed in self.seeds}


def _calls(request: Request) -> list[_Call]:
    """Return the calls of a request. They depend on the request alone, so a resumed sweep makes the same bits."""
    lanes = max(1, ROWS_A_PART // request.base.iterations)
    seed_blocks = _blocks(request.seeds, lanes)
    cells = arm_cells(request.game, request.arms, request.base, request.sweeps)
    calls = []
    for key in dict.fromkeys(program_key(cell) for cell in cells):
        group = [cell for cell in cells if program_key(cell) == key]
        for cell_block in _blocks(group, max(1, lanes // len(seed_blocks[0]))):
            calls += [_Call(tuple(cell_block), tuple(seeds)) for seeds in seed_blocks]
    return calls


def _blocks(items: Sequence[Any], most: int) -> list[list[Any]]:
    """Return items in equal blocks of at most `most`; the last block repeats its last item to be as long."""
    count = -(-len(items) // most)
    width = -(-len(items) // count)
    blocks = [list(items[k : k + width]) for k in range(0, len(items), width)]
    return [block + [block[-1]] * (width - len(block)) for block in blocks]


def check_sweeps(request: Request, saved: Mapping[str, Any], out: Path) -> None:
    """Check that what a directory holds goes over the same settings, under today's names.

    Raises:
        RunError: it goes over others, or was written by 0.2 under a name that its tables still have.
    """
    names = [text.partition("=")[0] for text in saved.get("sweep") or []]
    if old := [name for name in names if name in OLD_NAMES and name not in settings(type(request.base))]:
        raise RunError(
            f"out: {out} was swept by 0.2 over {old[0]}, which is now called {OLD_NAMES[old[0]]}, and its tables have"
            f" the old name; play it again with --config {out / CONFIG} and another --out"
        )
    if saved and names != [one.name for one in request.sweeps]:
        raise RunError(f"out: {out} holds another sweep, over {', '.join(names) or 'nothing'}; choose another --out")
