"""Accidents at every change that a command makes on disk: the process is killed, or the disk is full from there on.

`FUZZ_POINTS=all` tries them all (half an hour); without it, one in some stands for its neighbours.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from foresighted.settings import to_yaml

pytestmark = pytest.mark.processes
EVERY = os.environ.get("FUZZ_POINTS") == "all"
KINDS = {"kill": "kills at a write", "full": "full disk at a write", "short": "files that cannot grow"}
SIZES = [10, 100, 200, 300, 400, 700, 1000, 1500, 2000, 2500, 5000, 7000, 9000, 15000]
RECORDS = ["candidates.jsonl", "rounds.jsonl", "heldout.jsonl", "config.yaml"]
SIMULATE = ["simulate", "linear", "--iterations", "6", "--arms", "rlhf", "--seeds", "0:2", "--jobs", "1", "--quiet"]
ROWS = [
    {"round": r, "prompt": f"p{p}", "response": "x" * p, "reward": r + p, "utility": p}
    for r in (1, 2)
    for p in range(9)
]


@pytest.fixture
def commands(tiny, tmp_path, synthetic):
    """Command -> its words, what must be equal afterwards, and how many of its points stand for all."""
    (tmp_path / "c.yaml").write_text(to_yaml(replace(tiny, rounds=2)))
    for name, text in {"a": "yes", "b": "yes, indeed"}.items():
        rows = [{"prompt": f"Q{i}?", "text": text * (i + 1)} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text("def longer(prompt, first, second): return float(len(first) > len(second))\n")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    synthetic.write_run(tmp_path / "recorded", seed=0, rounds=10, **synthetic.FALLING)
    answers = f"a={tmp_path / 'a.jsonl'},b={tmp_path / 'b.jsonl'}"
    judged = ["--judge", f"{tmp_path / 'judge.py'}:longer", "--out", "OUT", "--resume", "--quiet"]
    return {
        "train": (["train", "--config", f"{tmp_path / 'c.yaml'}", "--out", "OUT", "--resume", "--quiet"],
                  [*RECORDS, "start/*/*.*", "checkpoints/*/*", "policy/*"], 2),
        "simulate": ([*SIMULATE, "--out", "OUT", "--resume"], ["*.parquet", "*.yaml", "summary.json", "parts/*/*"], 0),
        "evaluate": (["evaluate", "--policies", answers, *judged], ["*.jsonl", "hashes.json", "config.yaml"], 3),
        "audit": (["audit", f"{tmp_path / 'log.jsonl'}", "--out", "OUT", "--quiet"], ["audit.json"], 2),
        "report": (["report", f"{tmp_path / 'recorded'}", "--out", "OUT.html"], [], 0),
    }  # fmt: skip


@pytest.mark.parametrize("accident", KINDS)
@pytest.mark.parametrize("command", ["train", "simulate", "evaluate", "audit", "report"])
def test_nothing_is_lost_and_nothing_blocks(command, accident, commands, tally, tmp_path, script, start_script):
    words, same, most = commands[command]
    if not (EVERY or most):
        pytest.skip("takes minutes; FUZZ_POINTS=all tries it")
    names = {"COMMAND": words, "PLACE": str(tmp_path / "place"), "ACCIDENT": accident, "SAME": same}
    points = (SIZES if EVERY else SIZES[::7]) if accident == "short" else None
    names |= {"POINTS": points, "MOST": None if EVERY or points else most}
    process = start_script(script("points.py"), names=names, env={"JAX_PLATFORMS": "cpu"})
    assert process.wait(3000) == 0, process.stderr
    found = json.loads(process.stdout)
    counts = tally(f"{KINDS[accident]}, {command}")
    counts.counts["read"] += found["met"] - len(found["wrong"])
    counts.counts["silent wrong"] += len(found["wrong"])
    assert found["met"]
    assert not found["wrong"], found["wrong"][:3]
