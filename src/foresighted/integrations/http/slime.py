"""slime's reward function: `--custom-rm-path foresighted.integrations.http.slime.reward --group-rm`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from foresighted.errors import DataError
from foresighted.integrations.http.client import Client, references_of

client = lru_cache(Client)
RUN = "slime"


async def reward(args: Any, samples: Any, **_: Any) -> list[float] | float:
    """Return what the samples of a group are paid, or of one sample the bare reward: slime evaluates one by one.

    The server is where the environment variable FORESIGHTED_URL says. A reference of the frozen policy may stand in a
    sample's `metadata` under `reference` or `references`.

    Args:
        args: slime's.
        samples: of one group (`--group-rm`), or a single one.

    Raises:
        DataError: several prompts in one group.
        RunError: the server is away for too long.
    """
    whole = isinstance(samples, Sequence)
    every = list(samples) if whole else [samples]
    prompts = {repr(sample.prompt) for sample in every}
    if len(prompts) > 1:
        raise DataError(f"prompt: slime's group has {len(prompts)}; use --group-rm")
    metadata = every[0].metadata if isinstance(every[0].metadata, dict) else {}
    first = every[0]
    name = f"{first.group_index}-{first.index}" if whole else f"evaluation-{first.index}"
    found = await client().score(
        run=RUN, group=name, prompt=first.prompt, responses=[sample.response for sample in every],
        evaluation=not whole, references=references_of(metadata),
    )  # fmt: skip
    paid = [answer.reward for answer in found]
    return paid if whole else paid[0]
