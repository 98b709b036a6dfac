"""Play parts of the study at once, a process each, on one accelerator: `python docs/study/pool.py --memory 70`.

As many run at a time as its memory and the machine's cores hold, in the order of `parts.py` unless others are named. A
part of many loops is played in pieces, each in a folder of its own beside the others (`replication@0:8`), so that no
piece waits for another; `collect.py` reads them as one. `remedies` waits for `remedies-tuning`, and then plays the best
setting of each family. What was stopped is begun again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import collect
import tables
from parts import PARTS, REMEDIES, UNTUNED

HERE = Path(__file__).parent
LOOP = 0.16
"""Gigabytes of a loop of the main cell: 135 MB that its pass keeps for the gradient (measured), and its adapter."""
PROCESS = 2.0
"""Gigabytes of a process: the frozen models and what one pass over the vocabulary takes (reckoned)."""
WEIGHT = {"long": 1.5, "all-layers": 3.0, "earn-16": 4.0, "earn-64": 16.0}
"""Of loops, where they are larger than those of the main cell."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Of each process, where nothing else is said: a core of its own, and memory in pieces that others can use."""
MOST = 80
"""Loops of one process."""


class Started(Protocol):
    """A process."""

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""


@dataclass(frozen=True)
class Job:
    """One process: a part, or a piece of one."""

    name: str
    """Of its folder."""
    part: str
    words: tuple[str, ...] = ()
    """What `run.py` is told besides."""
    gigabytes: float = 0.0
    after: str | None = None
    """A job that has to be done before."""


def jobs(names: Sequence[str]) -> Iterator[Job]:
    """Yield the jobs of some parts."""
    for name in names:
        part, weight = PARTS[name], WEIGHT.get(name, 1.0)
        if name == "remedies":
            own, every = len(part.seeds) * len(UNTUNED), len(part.seeds) * len(REMEDIES)
            yield Job("remedies@untuned", name, ("--arms", ",".join(UNTUNED)), _size(own, weight))
            yield Job("remedies@tuned", name, ("--arms", "{best}"), _size(every, weight), after="remedies-tuning")
            continue
        each = max(1, MOST // len(part.arms))
        if len(part.seeds) <= each:
            yield Job(name, name, (), _size(len(part.arms) * len(part.seeds), weight))
            continue
        for start in range(0, len(part.seeds), each):
            seeds = f"{start}:{min(start + each, len(part.seeds))}"
            yield Job(f"{name}@{seeds}", name, ("--seeds", seeds), _size(len(part.arms) * each, weight))


def _size(loops: int, weight: float) -> float:
    return PROCESS + LOOP * weight * loops


def best_of_families() -> str:
    """Return the best setting of each family of remedies, by the tuning seeds, as `run.py` takes arms."""
    return ",".join(tables.best("remedies-tuning", arms) for arms in REMEDIES.values())


def play(
    waiting: Sequence[Job], start: Callable[[Job], Started], *, memory: float, processes: int, pause: float = 0.5
) -> list[str]:
    """Play jobs, as many at a time as fit; return the names of those that failed.

    Args:
        waiting: in the order in which they are to begin; one that does not fit lets smaller ones go first.
        start: starts one.
        memory: gigabytes for all that run at a time.
        processes: most of them.
        pause: seconds between two looks at them.
    """
    left, running, done, failed = list(waiting), dict[Job, Started](), set[str](), list[str]()
    while left or running:
        for job, process in list(running.items()):
            if (code := process.poll()) is not None:
                del running[job]
                (failed.append if code else done.add)(job.name)
        failed += [job.name for job in left if job.after in failed]
        left = [job for job in left if job.name not in failed]
        for job in list(left):
            free = memory - sum(one.gigabytes for one in running)
            ready = job.after is None or job.after in done
            if ready and len(running) < processes and (job.gigabytes <= free or not running):
                left.remove(job)
                running[job] = start(job)
        time.sleep(pause)
    return failed


def main() -> None:
    """Play what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all but reduced")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of all parts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--memory", type=float, required=True, help="gigabytes of the accelerator to use")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    args = parser.parse_args()
    asked = args.parts or [name for name in PARTS if name != "reduced"]
    if "remedies" in asked and "remedies-tuning" not in asked:
        parser.error("remedies waits for remedies-tuning: name that, too; what is finished is not played again")
    args.out.mkdir(parents=True, exist_ok=True)

    def start(job: Job) -> subprocess.Popen[bytes]:
        if "{best}" in job.words:
            collect.collect(args.out, [job.after or ""])
        words = [best_of_families() if word == "{best}" else word for word in job.words]
        command = [sys.executable, HERE / "run.py", job.part, "--folder", args.out / job.name, "--device", args.device]
        with (args.out / f"{job.name}.log").open("ab") as log:
            words = ["--checkpoint-every", "20", *words]
            return subprocess.Popen([*command, *words], stdout=log, stderr=log, env={**ENVIRONMENT, **os.environ})

    failed = play(list(jobs(asked)), start, memory=args.memory, processes=args.processes)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see their logs in {args.out}")


if __name__ == "__main__":
    main()
