"""Synthetic comparison directories: records with known trajectories, written by the package's own writer."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foresighted.store import records

Trajectory = Callable[[int], float]
"""Mean of a quantity after a number of rounds."""


def write_run(
    directory: Path,
    *,
    seed: int,
    rounds: int,
    utility: Trajectory | None,
    reward: Trajectory,
    every: int = 10,
    prompts: int = 12,
    labels_a_round: int = 4,
    initial: int = 8,
    noise: float = 0.3,
    text: str = "An answer.",
) -> None:
    """Write one run; prompts differ by about 1 unit of utility, answers by `noise`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump({"steering": "rlhf", "seed": seed, "rounds": rounds}))
    random = np.random.default_rng((seed, zlib.crc32(directory.parent.name.encode())))  # of this arm and seed
    of_prompt = np.random.default_rng(9).normal(size=prompts)
    for done in range(0, rounds + 1, every):
        rows = [
            records.HeldoutRow(
                round=done,
                prompt_id=f"p{i}",
                prompt=f"Question {i}?",
                kind="factual",
                text=f"{text} {i} after {done}",
                tokens=10 + i % 3,
                reward=float(reward(done) + of_prompt[i] + noise * random.normal()),
                utility=None if utility is None else float(utility(done) + of_prompt[i] + noise * random.normal()),
                kl=0.1 * done,
                distinct_1=0.9,
                distinct_2=max(0.1, 0.95 - 0.01 * done),
            )
            for i in range(prompts)
        ]
        records.append(directory / records.HELDOUT, rows)
    for done in range(1, rounds + 1):
        row = records.RoundRow(
            round=done, reward=reward(done), reward_chosen=reward(done) + 0.5, reward_reference=0.0,
            utility_chosen=None if utility is None else utility(done), utility_reference=None, penalty=0.1,
            penalty_chosen=0.05 + 0.01 * done, gamma=0.3, gamma_share=0.1,
            overconfidence=0.2 + 0.001 * done + 0.01 * seed, reward_model_loss=0.6,
            reward_model_accuracy=0.7, policy_loss=2.0, tokens=15.0, empty=0, labels=labels_a_round,
            labels_total=initial + labels_a_round * done,
        )  # fmt: skip
        records.append(directory / records.ROUNDS, [row])


def write_comparison(
    out: Path,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    rounds: int = 40,
    skip: Sequence[tuple[str, int]] = (),
    cut: Mapping[tuple[str, int], int] | None = None,
) -> Path:
    """Write a comparison directory: arm -> settings of `write_run`, without the runs in `skip`, with those in `cut`
    stopped after so many rounds."""
    out.mkdir(parents=True)
    config = {"arms": list(arms), "seeds": list(seeds), "rounds": rounds, "note": "<b>verbatim</b>"}
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (out / "environment.json").write_text(json.dumps({"python": "3.11", "cpu": "<two cores>"}))
    for seed in seeds:
        start = records.start_directory(out, seed)
        start.mkdir(parents=True)
        pairs = [records.PairRow(f"q{i}", "Question?", "yes", "no", 0.7) for i in range(8)]
        records.append(start / records.INITIAL_PAIRS, pairs)
        for arm, settings in arms.items():
            if (arm, seed) not in skip:
                done = (cut or {}).get((arm, seed), rounds)
                write_run(records.arm_directory(out, arm, seed), seed=seed, **{"rounds": done, **settings})
    return out


FALLING: dict[str, Any] = {"utility": lambda t: 4.0 - 0.075 * t, "reward": lambda t: 0.02 * t}
"""True utility falls from 4 to 1 while proxy reward grows."""
STEADY: dict[str, Any] = {"utility": lambda t: 4.0 + 0.025 * t, "reward": lambda t: 0.015 * t}
"""True utility grows from 4 to 5 with proxy reward."""
FLAT: dict[str, Any] = {"utility": lambda t: 4.0, "reward": lambda t: 0.5}
"""Noise alone."""
BOTH_FALL: dict[str, Any] = {"utility": lambda t: 4.0 - 0.075 * t, "reward": lambda t: 1.0 - 0.05 * t}
"""True utility and proxy reward fall together."""
NO_UTILITY: dict[str, Any] = {"utility": None, "reward": lambda t: 0.02 * t}
"""A labeller without a utility."""
