"""ms-swift's reward function: a plug-in of two lines (`--external_plugins plugin.py --reward_funcs foresighted`).

from foresighted.integrations.http.ms_swift import register
register()
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from foresighted.errors import DataError
from foresighted.integrations.http.client import Client, references_of
from foresighted.prompts import prompt_id

client = lru_cache(Client)
RUN = "ms-swift"


class Foresighted:
    """An `AsyncORM` once `register` has given it that base.

    The generations of a prompt stand one after the other, across processes, as TRL's sampler and ms-swift's have them:
    the place of a row among all processes' is its place in its group.

    Args:
        args: ms-swift's; `num_generations` is read.
    """

    def __init__(self, args: Any = None, **_: Any) -> None:
        self.args = args

    async def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """Return what each completion of this process is paid.

        Args:
            completions: the responses.
            columns: `messages` (the conversation, the response last), `prompt_id` where ms-swift gives it,
                `trainer_state`; and of the dataset `reference`, and `evaluation` true for rows of its validation part.

        Raises:
            DataError: no messages, or no number of generations.
            RunError: the server is away for too long.
        """
        messages = columns.get("messages")
        size = int(getattr(self.args, "num_generations", 0) or 0)
        if messages is None or size < 1:
            raise DataError("messages: ms-swift gave none, or no num_generations; use it with --rlhf_type grpo")
        start = int(os.environ.get("RANK", "0")) * len(completions)
        step = getattr(columns.get("trainer_state"), "global_step", None)
        asked = [
            self._row(size, start + place, text, messages[place], step, {k: _at(v, place) for k, v in columns.items()})
            for place, text in enumerate(completions)
        ]
        found = await asyncio.gather(*(client().score(**row) for row in asked))
        return [answers[0].reward for answers in found]

    def _row(
        self, size: int, place: int, text: str, talk: Sequence[Any], step: int | None, own: dict[str, Any]
    ) -> dict[str, Any]:
        answered = bool(talk) and talk[-1].get("role") == "assistant"
        prompt = [dict(message) for message in (talk[:-1] if answered else talk)]
        name = own.get("prompt_id") or prompt_id(prompt)
        return {
            "run": RUN, "group": f"{step}-{name}-{place // size}", "member": place % size, "size": size,
            "prompt": prompt, "response": text, "step": step, "evaluation": own.get("evaluation") is True,
            "references": references_of(own),
        }  # fmt: skip


def _at(column: Any, place: int) -> Any:
    return column[place] if isinstance(column, list) and place < len(column) else None


def register(name: str = "foresighted") -> None:
    """Make the reward function known to ms-swift under a name for `--reward_funcs`."""
    from swift import rewards

    rewards.orms[name] = type("ForesightedORM", (Foresighted, rewards.AsyncORM), {})
