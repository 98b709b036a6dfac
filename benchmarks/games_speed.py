"""Seconds of `foresighted simulate` from process start to exit, compilation included, and its growth with seeds.

    python benchmarks/games_speed.py [--seeds 1,16,256]

The two bars of the project: the network game with 16 seeds of 4 arms in at most 60 s on two cores, the linear game
with 1000 seeds of 4 arms in at most 10 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS = "rlhf,practical,relaxed,proximal"


def seconds(game: str, seeds: int, folder: Path) -> dict[str, float]:
    """Run the command once in a process of its own; return wall and processor seconds."""
    out = folder / f"{game}-{seeds}"
    command = [sys.executable, "-m", "foresighted", "simulate", game, "--arms", ARMS, "--seeds", f"0:{seeds}"]
    before, began = os.times(), time.perf_counter()
    subprocess.run([*command, "--out", str(out), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seeds": seeds, "wall_seconds": round(wall, 1), "processor_seconds": round(used, 1)}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,16,256", help="numbers of seeds to show the growth over")
    args = parser.parse_args()
    counts = [int(part) for part in args.seeds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        bars = [("network", 16, 60.0), ("linear", 1000, 10.0)]
        result = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 1),
            "arms": ARMS,
            "bars": [
                {"game": game, "at_most_seconds": most} | seconds(game, count, Path(folder))
                for game, count, most in bars
            ],
            "growth": {
                game: [seconds(game, count, Path(folder) / "growth") for count in counts] for game, _, _ in bars
            },
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
