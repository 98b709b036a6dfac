"""Small logs with a known truth, as columns and as files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foresighted.auditing.rollouts import Rollouts


def rollouts(round_, prompt, *, run=None, text=None, kinds=None, **numbers) -> Rollouts:
    """Return columns from lists."""
    import pyarrow as pa

    round_, prompt = np.asarray(round_, np.int64), np.asarray(prompt, np.int64)
    run = np.zeros(len(round_), np.int64) if run is None else np.asarray(run, np.int64)
    count = int(prompt.max()) + 1
    return Rollouts(
        round_, prompt, run, {name: np.asarray(values, np.float64) for name, values in numbers.items()},
        None if text is None else pa.chunked_array([pa.array(text, pa.large_string())]),
        tuple(f"q{i}" for i in range(count)), kinds or (None,) * count,
        tuple(("arm", str(i)) for i in range(int(run.max()) + 1)),
    )  # fmt: skip


def panel(utility, *, prompts=40, seeds=1, noise=0.3, seed=0, gain=0.05, reward=True):
    """Return rounds, prompts, runs, utilities and rewards: `utility` is the mean by round, reward rises by `gain`."""
    random = np.random.default_rng(seed)
    effects = random.standard_normal(prompts)
    rounds, asked, runs, true, proxy = [], [], [], [], []
    for run in range(seeds):
        for place, mean in enumerate(utility):
            for prompt in range(prompts):
                own = effects[prompt] + noise * random.standard_normal()
                rounds.append(place * 10)
                asked.append(prompt)
                runs.append(run)
                true.append(mean + own)
                proxy.append(own + gain * place + noise * random.standard_normal())
    columns = {"utility": true} | ({"reward": proxy} if reward else {})
    return rounds, asked, runs, columns


def write(
    path: Path, utility, *, told=("utility",), text=lambda place, prompt: f"answer {prompt} in {place}", **options
):
    """Write a JSONL log of `panel`, with the columns in `told` besides reward."""
    rounds, asked, runs, columns = panel(utility, **options)
    with path.open("w") as file:
        for i, round_ in enumerate(rounds):
            row = {"round": round_, "prompt": f"Question {asked[i]}?", "kind": "ab"[asked[i] % 2], "seed": runs[i]}
            row |= {name: columns[name][i] for name in columns if name in (*told, "reward")}
            row["response"] = text(round_, asked[i])
            file.write(json.dumps(row) + "\n")
    return path


FALLING = (0.0, 0.2, 0.4, 0.4, -0.4, -1.0, -1.6)
RISING = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
LEVEL = (0.0,) * 5


@pytest.fixture(scope="session")
def logs() -> SimpleNamespace:
    """Makers of logs, and utilities by round: one falls, one rises, one stays."""
    return SimpleNamespace(rollouts=rollouts, panel=panel, write=write, FALLING=FALLING, RISING=RISING, LEVEL=LEVEL)
