"""A tiny policy, a tiny reward model and a dataset of each kind that TRL knows."""

from __future__ import annotations

import pytest

TEXTS = ["Why is the sky blue?", "What is rain?", "Who invented the telephone?", "Can fish sleep at night?"]


@pytest.fixture(scope="session")
def prompts():
    """Standard and conversational prompts as datasets, with a column of references."""
    from datasets import Dataset

    def make(kind: str = "standard", count: int = 4):
        texts = [TEXTS[i % 4] + " " * (i // 4) for i in range(count)]
        if kind == "standard":
            return Dataset.from_dict({"prompt": texts, "reference": ["It depends."] * count})
        talks = [[{"role": "user", "content": text}] for text in texts]
        return Dataset.from_dict(
            {"prompt": talks, "reference": [[{"role": "assistant", "content": "It depends."}]] * count}
        )

    return make


class LengthLabels:
    """Prefers the longer response; knows a utility."""

    def __init__(self):
        self.asked = 0

    def utility(self, prompts, responses):
        return [len(response) / 10 for response in responses]

    def __call__(self, prompts, first, second):
        self.asked += len(prompts)
        return [1 / (1 + 2.7 ** ((len(b) - len(a)) / 10)) for a, b in zip(first, second, strict=True)]


@pytest.fixture(scope="session")
def length_labels():
    """Make a labeller."""
    return LengthLabels


@pytest.fixture
def labels(length_labels):
    return length_labels()
