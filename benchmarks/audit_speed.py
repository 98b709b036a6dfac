"""Seconds and peak memory of `foresighted audit` on a log of a million rows, process start to exit.

    python benchmarks/audit_speed.py [--rows 1000000] [--words 60]

The bar of the project: at most 20 s and 2 GB on two cores. A row is a round, a prompt, a response of about 60 words, a
reward and, for one row in ten, a utility; 100 rounds, 4 candidates a prompt, prompts that come back every 4 rounds. The
first format is a run directory of ours (`candidates.jsonl`, every column of it), the others are what other loops log.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

ROUNDS, CANDIDATES, CYCLE = 100, 4, 4
MOST_SECONDS, MOST_GIGABYTES = 20.0, 2.0


def tables(rows: int, words: int) -> Iterator[pa.Table]:
    """Return the log, one table a round."""
    random = np.random.default_rng(0)
    stems = ["alpha", "bravo", "delta", "echo", "golf"]
    vocabulary = np.array([f"{stem}{end}" for stem in stems for end in range(200)])
    pieces = [" ".join(random.choice(vocabulary, max(words // 6, 1))) for _ in range(20_000)]
    prompts = max(1, rows // ROUNDS // CANDIDATES)
    for round_ in range(ROUNDS):
        prompt = np.repeat(np.arange(prompts) + prompts * (round_ % CYCLE), CANDIDATES)
        count = len(prompt)
        parts = random.integers(len(pieces), size=(count, 6))
        utility = 0.3 * random.standard_normal(count) + prompt % 7 - 0.03 * max(0, round_ - 50)
        reward = utility + 0.02 * round_ + random.standard_normal(count)
        yield pa.table(
            {
                "round": np.full(count, round_),
                "prompt": [f"Question {p} about something that is asked in about so many words?" for p in prompt],
                "response": [" ".join(pieces[i] for i in of) for of in parts],
                "reward": reward,
                "utility": pa.array(utility, mask=random.random(count) > 0.1),
            }
        )


def write(folder: Path, rows: int, words: int) -> dict[str, Path]:
    """Write the log four times."""
    files = {name: folder / f"log.{name}" for name in ("jsonl", "csv", "parquet")}
    (folder / "run").mkdir()
    text, ours = files["jsonl"].open("w"), (folder / "run" / "candidates.jsonl").open("w")
    comma = columns = None
    for table in tables(rows, words):
        if comma is None:
            comma = csv.CSVWriter(files["csv"], table.schema)
            columns = parquet.ParquetWriter(files["parquet"], table.schema)
        comma.write_table(table)
        columns.write_table(table)
        text.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
        ours.writelines(json.dumps(candidate(place, row)) + "\n" for place, row in enumerate(table.to_pylist()))
    text.close()
    ours.close()
    comma.close()
    columns.close()
    return {"candidates.jsonl": folder / "run", **files}


def candidate(place: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with every column of our candidates.jsonl."""
    known = row["utility"] is not None
    return {
        "round": row["round"], "prompt_id": row["prompt"][9:16], "prompt": row["prompt"],
        "candidate": place % CANDIDATES, "text": row["response"], "tokens": 60, "reward": row["reward"],
        "reference_reward": 0.25, "gram": 3.5, "utility": row["utility"], "label": 0.5 if known else None,
        "influence": -0.5, "penalty": 0.5, "kl": None, "score": row["reward"] - 0.5, "chosen": place % CANDIDATES == 0,
    }  # fmt: skip


def measure(name: str, file: Path) -> dict[str, object]:
    """Run the command once in a process of its own; return its seconds, peak memory and verdict."""
    files = list(file.iterdir()) if file.is_dir() else [file]
    command = [sys.executable, "-m", "foresighted", "audit", str(file), "--json", "--quiet"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    gigabytes = used.ru_maxrss * 1024 / 1e9
    return {
        "format": name, "megabytes": round(sum(one.stat().st_size for one in files) / 1e6),
        "rows": result["source"]["rows"],
        "seconds": round(wall, 1), "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gigabytes": round(gigabytes, 2), "verdict": result["verdict"], "exit_code": process.returncode,
        "within": wall <= MOST_SECONDS and gigabytes < MOST_GIGABYTES,
    }  # fmt: skip


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=60, help="of a response, about")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), args.rows, args.words)
        result = {
            "python": platform.python_version(),
            "machine": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": round(os.getloadavg()[0], 1),
            "at_most": {"seconds": MOST_SECONDS, "gigabytes": MOST_GIGABYTES},
            "formats": [measure(name, file) for name, file in files.items()],
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
