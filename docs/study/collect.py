"""Keep the records of what was played as small Parquet files: `python docs/study/collect.py --out runs/study`.

Runs that are not finished are left out; what was kept of others, that another machine played, stays. Beside the true
utility U of a held-out answer stand its parts where it is that of the embedded oracle, U = 8 relevance + fluency - 4
repetition: relevance of what the answer adds, and repetition, read again from its text; fluency is what remains.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from parts import PARTS

from foresighted.alignment.played import read_plan
from foresighted.alignment.run import finished
from foresighted.labels.labellers import RELEVANCE_WEIGHT, REPETITION_WEIGHT, added
from foresighted.models.loading import reward_model
from foresighted.settings import read_yaml
from foresighted.store.directory import arm_directory
from foresighted.store.records import HELDOUT, ROUNDS
from foresighted.store.rows import read_mappings
from foresighted.texts import repetition

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ANSWERS = ["round", "prompt_id", "text", "tokens", "utility", "reward", "kl"]
PLAYED = [
    "round", "reward", "penalty", "kl", "win_predicted", "win_share", "overconfidence", "reward_model_accuracy",
    "penalty_share", "utility_chosen", "utility_reference", "labels_total", "tokens", "empty",
]  # fmt: skip


def runs_of(folder: Path, arms: tuple[str, ...], seeds: tuple[int, ...], rounds: int) -> list[tuple[str, int, Path]]:
    """Return arm, seed and folder of each finished run of a part."""
    places = [(arm, seed, arm_directory(folder, arm, seed)) for arm in arms for seed in seeds]
    return [(arm, seed, place) for arm, seed, place in places if finished(place, rounds)]


def frame(runs: list[tuple[str, int, Path]], file: str, columns: list[str]) -> pd.DataFrame:
    """Return rows of all runs, arm and seed before the columns."""
    parts = [pd.DataFrame(read_mappings(place / file))[columns].assign(arm=arm, seed=seed) for arm, seed, place in runs]
    table = pd.concat(parts, ignore_index=True)[["arm", "seed", *columns]]
    return table.astype({name: "float32" for name in table.columns if table[name].dtype == "float64"})


def with_parts(table: pd.DataFrame, prompts: dict[str, str]) -> pd.DataFrame:
    """Return held-out answers with the parts of their utility."""
    encoder = reward_model("embedded", device=torch.device("cpu"), layout="beginning", max_length=256)

    def embedded(texts: list[str]) -> dict[str, torch.Tensor]:
        once = sorted(set(texts))
        return dict(zip(once, encoder.features(once, once), strict=True))

    asked = [prompts[name] for name in table.prompt_id]
    new = [added(prompt, text) for prompt, text in zip(asked, table.text, strict=True)]
    of_prompt, of_new = embedded(asked), embedded(new)
    relevance = [float((of_prompt[p] * of_new[n]).sum()) if n else 0.0 for p, n in zip(asked, new, strict=True)]
    again = [repetition(text) for text in table.text]
    known = table.assign(relevance=relevance, repetition=again)
    fluency = known.utility - RELEVANCE_WEIGHT * known.relevance + REPETITION_WEIGHT * known.repetition
    return known.assign(fluency=fluency).astype(dict.fromkeys(("relevance", "repetition", "fluency"), "float32"))


def keep(table: pd.DataFrame, name: str, results: Path = RESULTS) -> None:
    """Write a table, its rows sorted; of what was kept before, runs that are not among them stay."""
    results.mkdir(exist_ok=True)
    path = results / f"{name}.parquet"
    if path.exists():
        before, runs = pd.read_parquet(path), ["arm", "seed"]
        elsewhere = ~before.set_index(runs).index.isin(table.set_index(runs).index)
        table = pd.concat([before[elsewhere], table], ignore_index=True)
    ordered: Any = table.sort_values([c for c in ("arm", "seed", "round", "prompt_id") if c in table.columns])
    ordered.to_parquet(path, index=False, compression="zstd")


def folders(out: Path, name: str) -> list[Path]:
    """Return where a part was played: in a folder of its name, and in pieces."""
    return [folder for folder in (out / name, *sorted(out.glob(f"{name}@*"))) if (folder / "config.yaml").exists()]


def collect(out: Path, names: Sequence[str]) -> None:
    """Keep the finished runs of some parts."""
    for name in names:
        part, found = PARTS[name], folders(out, name)
        runs = [run for own in found for run in runs_of(own, part.arms, part.seeds, read_plan(own).rounds)]
        if not runs:
            continue
        first = read_mappings(runs[0][2] / HELDOUT)
        answers = frame(runs, HELDOUT, ANSWERS)
        if read_yaml(found[0] / "config.yaml").get("labels", "relevance") == "relevance":
            answers = with_parts(answers, {row["prompt_id"]: row["prompt"] for row in first})
        keep(answers, name)
        keep(frame(runs, ROUNDS, PLAYED), f"{name}-rounds")


def main() -> None:
    """Keep every part that has finished runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of all parts")
    collect(parser.parse_args().out, list(PARTS))


if __name__ == "__main__":
    main()
