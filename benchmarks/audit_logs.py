"""Generated logs of loops, collapsed and not, with a known truth: what `audit_detection.py` measures the audit on.

    python benchmarks/audit_logs.py SEED STORY FILE.jsonl      (writes one, with nested keys)

A log is drawn whole from one seed: its story, its layout and how noisy it is. With t the round as a share of the run,
b_p ~ N(0, 1) the prompts and e the answers' noise, sd 0.3 to 1.2 (so the unit of utility is a prompt-to-prompt sd),

    utility U = b_p + quality(t) + shock(t) + e
    reward  r = 0.8 (b_p + quality_seen(t) + e) + error,   error sd 0.3 to 0.8

quality is the story's; shock is a common AR(1) wave of sd 0 to 0.12; quality_seen is what the reward model believes.
Stories that collapse fall by 0.75 to 2.5 from an onset on, at once or gradually, while quality_seen goes on rising.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

COLLAPSING = ("sudden", "gradual", "rise then gradual")
HEALTHY = ("rising", "flat", "wave", "longer", "reward drifts", "both fall", "same style")
FALLS = (0.75, 1.25, 2.5)
LAYOUTS = ("ours", "validation", "training")
"""Held-out answers of a run of ours; a foreign validation set; foreign training rollouts, new prompts every step."""
STOCK = ["certainly", "here", "is", "everything", "that", "you", "need", "to", "know", "about", "that"]


@dataclass(frozen=True)
class Truth:
    """What a log was made from."""

    seed: int
    story: str
    layout: str
    collapsed: bool
    fall: float
    """Designed fall of utility, in prompt-to-prompt standard deviations."""
    onset: int | None
    """Last round before utility falls."""
    measure: str
    """utility or label."""
    known: float
    """Share of responses whose utility or label is recorded."""
    rounds: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """A log before it is written: rows as mappings, round by round."""

    truth: Truth
    rows: tuple[dict[str, Any], ...]


def make(seed: int, story: str) -> Made:
    """Return the log of one seed."""
    random = np.random.default_rng((seed, 20))
    layout = LAYOUTS[int(random.integers(len(LAYOUTS)))]
    rounds, prompts, candidates = _sizes(layout, random)
    t = np.arange(len(rounds)) / (len(rounds) - 1)
    collapsed = story in COLLAPSING
    fall = float(random.choice(FALLS)) if collapsed else 0.0
    start = int(random.uniform(0.2, 0.6) * len(rounds)) if collapsed else None
    quality, seen = _stories(story, t, start, fall, random)
    wave = _shock(len(rounds), float(random.uniform(0, 0.12)), random)
    measure = "label" if layout != "ours" and random.random() < 0.4 else "utility"
    known = 1.0 if layout == "ours" else float(random.choice([0.3, 1.0]))
    truth = Truth(
        seed, story, layout, collapsed, fall, None if start is None else rounds[start], measure, known, tuple(rounds)
    )
    noise, error = float(random.uniform(0.3, 1.2)), float(random.uniform(0.3, 0.8))
    decay = float(random.choice([0.0, 0.5, 1.0])) if collapsed else 0.0
    effects = random.standard_normal(prompts * (len(rounds) if layout == "training" else 1))
    rows = []
    for place, round_ in enumerate(rounds):
        first = prompts * place if layout == "training" else 0
        gone = max(0.0, float(quality[: place + 1].max() - quality[place])) / fall if collapsed else 0.0
        for prompt in range(first, first + prompts):
            for _ in range(candidates):
                own = noise * random.standard_normal()
                utility = effects[prompt] + quality[place] + wave[place] + own
                reward = 0.8 * (effects[prompt] + seen[place] + own) + error * random.standard_normal()
                row = {"round": round_, "prompt": f"Question {prompt}?", "kind": "abc"[prompt % 3], "reward": reward}
                row["true"] = float(utility)
                row["text"] = _text(random, story, float(t[place]), decay * gone, loops=seed % 2 == 0)
                row[measure] = _told(measure, utility, random) if random.random() < known else None
                rows.append(row)
    return Made(truth, tuple(rows))


def _sizes(layout: str, random: np.random.Generator) -> tuple[list[int], int, int]:
    if layout == "ours":
        return list(range(0, int(random.integers(6, 15)) * 5, 5)), int(random.choice([16, 24, 48])), 1
    if layout == "validation":
        return list(range(0, int(random.integers(6, 20)) * 10, 10)), int(random.choice([32, 64, 128])), 1
    return list(range(1, int(random.integers(40, 120)))), int(random.choice([4, 8])), 4


def _stories(
    story: str, t: np.ndarray, start: int | None, fall: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return quality and what the reward model believes of it, by round."""
    gain = float(random.uniform(0.3, 1.0))
    if start is not None:
        since = np.maximum(0, np.arange(len(t)) - start) / (len(t) - 1 - start)
        before = gain * np.minimum(t, t[start]) / max(t[start], 1e-9) if story == "rise then gradual" else 0 * t
        gone = (since > 0).astype(float) if story == "sudden" else np.minimum(1.0, 1.5 * since)
        return before - fall * gone, before + gain * since
    healthy = {
        "rising": (gain * t, gain * t), "flat": (0 * t, 0 * t), "wave": (0 * t, 0 * t),
        "longer": (gain * t, gain * t), "reward drifts": (0 * t, 2 * gain * t), "same style": (gain * t, gain * t),
        "both fall": (-1.5 * gain * t, -1.5 * gain * t),
    }  # fmt: skip
    quality, seen = healthy[story]
    if story == "wave":  # the answers really get a little better and worse
        quality = 0.2 * np.sin(2 * np.pi * (random.uniform(1, 3) * t + random.uniform()))
    return quality, seen


def _shock(count: int, deviation: float, random: np.random.Generator) -> np.ndarray:
    values = np.zeros(count)
    for place in range(1, count):
        values[place] = 0.5 * values[place - 1] + deviation * random.standard_normal()
    return values


def _told(measure: str, utility: float, random: np.random.Generator) -> float:
    """Return the utility, or one bit of a person who is right nine times in ten beyond what chance decides."""
    if measure == "utility":
        return float(utility)
    bit = random.random() < 1 / (1 + np.exp(-1.5 * utility))
    return float(bit != (random.random() < 0.1))


def _text(random: np.random.Generator, story: str, t: float, decay: float, *, loops: bool) -> str:
    """Return words of a Zipf-like language; decayed text says its words again and again, or opens alike."""
    count = int(random.integers(10, 20) * (1 + 1.5 * t if story == "longer" else 1))
    words = [f"w{int(n)}" for n in np.minimum(random.zipf(1.4, count), 5000)]
    if story == "same style" and random.random() < 0.8 * t:
        words = STOCK[: 2 if loops else None] + words  # a healthy policy may settle on an opening, short or long
    if random.random() < 0.6 * decay:
        words = words[:3] * (count // 3) if loops else STOCK + words[:4]
    return " ".join(words)


def logs(seeds: Iterator[int] | range, healthy: int, collapsing: int) -> Iterator[Made]:
    """Return `healthy` healthy logs and `collapsing` collapsing ones, stories in turn."""
    each = iter(seeds)
    for number in range(healthy):
        yield make(next(each), HEALTHY[number % len(HEALTHY)])
    for number in range(collapsing):
        yield make(next(each), COLLAPSING[number % len(COLLAPSING)])


def write(made: Made, folder: Path, *, until: int | None = None, labels: bool = True) -> Path:
    """Write a log as its loop would have, up to round `until`; return the path to audit."""
    hidden = ("true",) if labels else ("true", "utility", "label")
    rows = [
        {name: None if name in hidden else value for name, value in row.items()}
        for row in made.rows
        if until is None or row["round"] <= until
    ]
    folder.mkdir(parents=True, exist_ok=True)
    if made.truth.layout == "ours":
        return _write_ours(rows, folder)
    kept = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    form = ("jsonl", "csv", "parquet")[made.truth.seed % 3]
    path = folder / f"log.{form}"
    named = [
        {"step": row.pop("round"), "question": row.pop("prompt"), "completion": row.pop("text"), **row} for row in kept
    ]
    if form == "parquet":
        parquet.write_table(pa.Table.from_pylist(named), path)
    elif form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(named[0]))
            writer.writeheader()
            writer.writerows(named)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in named))
    return path


def _write_ours(rows: list[dict[str, Any]], folder: Path) -> Path:
    lines = []
    for row in rows:
        words = row["text"].split()
        lines.append(
            json.dumps(
                {
                    "round": row["round"], "prompt_id": row["prompt"], "prompt": row["prompt"], "kind": row["kind"],
                    "text": row["text"], "tokens": len(words), "reward": row["reward"], "utility": row.get("utility"),
                    "kl": 0.0, "distinct_1": 1.0, "distinct_2": 1.0,
                }
            ) + "\n"
        )  # fmt: skip
    (folder / "heldout.jsonl").write_text("".join(lines))
    return folder


def main() -> None:
    """Write one log as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("story", choices=[*COLLAPSING, *HEALTHY])
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    made = make(args.seed, args.story)
    kinds = {"a": "facts", "b": "code", "c": "chat"}
    with args.file.open("w") as file:
        for row in made.rows:
            told = None if row[made.truth.measure] is None else round(row[made.truth.measure], 4)
            named = {"step": row["round"], "question": row["prompt"], "category": kinds[row["kind"]]}
            named |= {"completion": row["text"], "scores": {"rm": round(row["reward"], 4)}}
            gold = "gold" if made.truth.measure == "utility" else "label"
            file.write(json.dumps(named | {gold: told}) + "\n")
    print(f"{args.file}: {made.truth}")


if __name__ == "__main__":
    main()
