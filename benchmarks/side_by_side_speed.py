"""Seconds a loop and round of loops side by side, against the same loops in two processes at a time, in one run.

Loops are those of the preset `demo` (4 prompts x 4 candidates, 16 tokens, the last 10 blocks adapted) with 12 arms and
as many seeds as it takes. Loading, the first round and held-out evaluations are left out on both sides: what is timed
are the later rounds, references and labels included. Side by side it is the wall time of a round; apart, each run's
own seconds, and two of them pass at once.

    python benchmarks/side_by_side_speed.py [--loops 6,24] [--apart 4] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from foresighted.alignment.compare import compare
from foresighted.settings import CompareConfig, TrainConfig, from_mapping, preset
from foresighted.store import environment
from foresighted.store.records import TIMINGS
from foresighted.store.rows import read_mappings

ARMS = (
    "rlhf:kl_coefficient=0", "rlhf:kl_coefficient=0.03", "rlhf:kl_coefficient=0.1", "rlhf", "rlhf:kl_coefficient=1",
    "practical", "practical:kl_coefficient=0", "practical:kl_coefficient=0.1", "practical:gamma=0.5",
    "practical:gamma=2", "shuffled", "labels",
)  # fmt: skip
PROCESSES = 2


def seconds(config: CompareConfig, loops: int, side_by_side: int) -> float:
    """Play so many loops and return the seconds that one of them takes a round, of what passes on the clock."""
    arms = config.arms[: min(loops, len(config.arms))]
    own = replace(config, arms=arms, seeds=tuple(range(loops // len(arms))), side_by_side=side_by_side, jobs=PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        compare(own, Path(folder))
        shares = [[row["seconds"] for row in read_mappings(path)] for path in Path(folder).rglob(TIMINGS)]
    rounds = [statistics.mean(column) for column in zip(*shares, strict=True)]
    return statistics.median(rounds[1:]) / (PROCESSES if side_by_side == 1 else 1)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="6,24", help="loops side by side, one measurement each")
    parser.add_argument("--apart", type=int, default=4, help="loops that are played apart; 24: the very same")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    demo = preset("demo", TrainConfig) | {"rounds": args.rounds, "heldout_every": 100, "heldout_prompts": 1}
    config = CompareConfig(from_mapping(TrainConfig, demo), ARMS, (0,))
    apart = seconds(config, args.apart, 1)
    together = {int(loops): seconds(config, int(loops), int(loops)) for loops in args.loops.split(",")}
    result = {
        "processor": environment.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "apart": {"loops": args.apart, "processes": PROCESSES, "seconds_a_loop_and_round": round(apart, 2)},
        "side_by_side": [
            {"loops": loops, "seconds_a_loop_and_round": round(own, 2), "ratio": round(own / apart, 3)}
            for loops, own in together.items()
        ],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
