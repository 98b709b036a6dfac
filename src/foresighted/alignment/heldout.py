"""Held-out evaluation: the same prompts with the same sampling noise, every few rounds, in every arm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from foresighted.alignment.round import Loop
from foresighted.models import noise
from foresighted.store.records import HeldoutRow
from foresighted.texts import distinct
from foresighted.types import Prompt


def pick(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Return the held-out prompts of an evaluation: the first by SHA-256 of their id, whatever the file's order."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).hexdigest())[:count]


def evaluate(loop: Loop, prompts: Sequence[Prompt], number: int) -> list[HeldoutRow]:
    """Answer held-out prompts after `number` rounds and measure the answers. Reads no label that training uses.

    Args:
        loop: the run.
        prompts: held-out prompts, as `pick` gives them.
        number: rounds done.

    Returns:
        One row a prompt.
    """
    texts = [prompt.text for prompt in prompts]
    keys = [noise.key(loop.config.heldout_seed, "held-out", prompt.id) for prompt in prompts]
    answers = loop.policy.sample(texts, 1, keys)
    reward_model = loop.follower.reward_model
    rewards = reward_model.rewards(reward_model.features(texts, answers.texts)).tolist()
    ratio = loop.policy.log_likelihood(texts, answers) - loop.policy.log_likelihood(texts, answers, frozen=True)
    utility = loop.labels.utility(texts, answers.texts)
    columns = zip(prompts, answers.texts, answers.lengths(), rewards, utility, ratio.tolist(), strict=True)
    return [
        HeldoutRow(number, p.id, p.text, p.kind, text, length, reward, u, kl, distinct(text, 1), distinct(text, 2))
        for p, text, length, reward, u, kl in columns
    ]
