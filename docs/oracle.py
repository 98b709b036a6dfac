"""Score hand-written answers with the embedded oracle; write docs/oracle_table.md, which concepts.md shows.

Run by hand after a change to `RelevanceLabels`: `python docs/oracle.py`. Needs the extra `train` and the embedded
models' wheels.

How the answers were chosen: those to the first prompt were written and scored first, with two kinds more (a short
sound answer, random words) that are left out here. Its inflected echo scored high, so that kind was kept on purpose
(and `RelevanceLabels` was mended because of it: inflections of a prompt's words are no longer new words).
The answers to the other prompts were written after that and before any of them was scored; no text was exchanged.
"""

from __future__ import annotations

import html
from pathlib import Path

import torch

from foresighted.labels.labellers import RelevanceLabels, added, fluency
from foresighted.models.loading import load_policy
from foresighted.settings import TrainConfig, from_mapping, preset
from foresighted.texts import repetition

ANSWERS: dict[str, dict[str, str]] = {
    "Why does ice float on top of liquid water?": {
        "sound": "Ice is less dense than the liquid, so its weight is balanced before it sinks under the surface.",
        "false, fluent": "Ice is heavier than the liquid, but the cold air inside the frozen crystals pulls it up.",
        "echo, word for word": "Why does ice float on top of liquid water?",
        "echo, inflected": "Ice floats on top of liquid water because ice floats on top of liquid water.",
        "loop": "It is less dense. It is less dense. It is less dense. It is less dense.",
        "key words": "ice density buoyancy frozen crystal hydrogen molecules lattice sink float",
        "off topic": "The capital of France is Paris, a city on the river Seine.",
    },
    "Is Northern Ireland part of England?": {
        "sound": "No. It belongs to the United Kingdom, as England does, but it is a country of its own.",
        "false, fluent": "Yes. It has been an English county since the Middle Ages and is governed from London.",
        "echo, word for word": "Is Northern Ireland part of England?",
        "echo, inflected": "Northern Ireland is parts of England, and parts of England are parts of Northern Ireland.",
        "loop": "It is a country. It is a country. It is a country. It is a country.",
        "key words": "Northern Ireland Ulster Belfast England Britain union border county",
        "off topic": "Water boils at a lower temperature when you climb a high mountain.",
    },
    "How do vaccines protect people from disease?": {
        "sound": "They show the immune system a harmless piece of a germ, so that it can fight the real one later.",
        "false, fluent": "They fill the blood with a medicine that kills every germ for the rest of your life.",
        "echo, word for word": "How do vaccines protect people from disease?",
        "echo, inflected": "A vaccine protects people from diseases, and a vaccine protects people from diseases.",
        "loop": "They help the body. They help the body. They help the body. They help the body.",
        "key words": "vaccine immunity antibodies virus infection dose health protection doctor",
        "off topic": "The best way to cook rice is to rinse it first and let it rest at the end.",
    },
}


def main() -> None:
    """Write the table."""
    config = from_mapping(TrainConfig, preset("demo", TrainConfig))
    device = torch.device("cpu")
    policy = load_policy(config, device)
    oracle = RelevanceLabels(policy, device)
    lines = ["| prompt | kind | answer | new words | fluency | repeated pairs | U |", "|---|---|---|---|--:|--:|--:|"]
    for prompt, answers in ANSWERS.items():
        texts = list(answers.values())
        prompts = [prompt] * len(texts)
        scores = zip(answers, texts, fluency(policy, prompts, texts), oracle.utility(prompts, texts), strict=True)
        for row, (kind, text, fluent, utility) in enumerate(scores):
            cells = [prompt if row == 0 else "", kind, text, added(prompt, text) or "(none)"]
            shown = [html.escape(cell).replace("|", "&#124;") for cell in cells]
            shown += [f"{fluent:.2f}", f"{repetition(text):.2f}", f"**{utility:.2f}**"]
            lines.append("| " + " | ".join(shown) + " |")
    Path(__file__).with_name("oracle_table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
