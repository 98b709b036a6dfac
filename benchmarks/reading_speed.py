"""What an encoder reads a second: rows of about one length together, against 64 rows as they come.

    python benchmarks/reading_speed.py

The embedded reward model; prompts of the bundled set, and responses of 8 to 40 words in groups of 8. Both ways read
each distinct text of 64 rows once.
"""

from __future__ import annotations

import json
import random
import time
from statistics import median

import torch

from foresighted.models.loading import reward_model
from foresighted.models.reward_model import RewardModel
from foresighted.prompts import load_prompts

ROWS, BATCHES, TIMES = 64, 4, 5


@torch.no_grad()
def as_they_come(model: RewardModel, prompts: list[str], responses: list[str]) -> torch.Tensor:
    """Return the head's inputs, each column padded to its longest text."""
    states = []
    for texts, read in model.reader.columns(prompts, responses):
        once = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        states.append(model.network.states(read(list(once)))[[once[text] for text in texts]])
    return model.network.compared(*states)


def main() -> None:
    """Print a JSON object."""
    model, draw = reward_model("embedded:relevance"), random.Random(0)
    asked = [prompt.text for prompt in load_prompts("bundled").train]
    prompts = [prompt for _ in range(ROWS * BATCHES // 8) for prompt in [draw.choice(asked)] * 8]
    words = [f"w{n}" for n in range(200)]
    responses = [" ".join(draw.choices(words, k=draw.randint(8, 40))) for _ in prompts]
    seconds: dict[str, list[float]] = {"by length": [], "as they come": []}
    for _ in range(TIMES):
        for name, read in (("by length", model.features), ("as they come", lambda *rows: as_they_come(model, *rows))):
            began = time.perf_counter()
            for start in range(0, len(prompts), ROWS):
                read(prompts[start : start + ROWS], responses[start : start + ROWS])
            seconds[name].append(time.perf_counter() - began)
    rates = {name: len(prompts) / median(own) for name, own in seconds.items()}
    told = {f"{name}, rows a second": round(rate, 1) for name, rate in rates.items()}
    print(json.dumps(told | {"ratio": round(rates["by length"] / rates["as they come"], 2)}, indent=1))


if __name__ == "__main__":
    main()
