"""verl's reward function: `reward.custom_reward_function.path=pkg://foresighted.integrations.http.verl`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from foresighted.integrations.http.client import Client, references_of

client = lru_cache(Client)


async def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, *,
    url: str | None = None, token: str | None = None, **_: Any,
) -> dict[str, float]:  # fmt: skip  # one argument a line says no more
    """Return what a response is paid; the same keys each time.

    verl hands over one sample without its group: it is compared with references of its prompt.

    Args:
        data_source: of the dataset; not read.
        solution_str: the response.
        ground_truth: not read.
        extra_info: of the dataset: `prompt` (text or messages) and `reference` (text, or a list), both needed;
            `evaluation` true for rows of the validation set; `group`, `member` and `size` where somebody knows them.
        url: of the server (`reward_kwargs.url`; default: the environment variable FORESIGHTED_URL).
        token: that it asks for (default: the environment variable FORESIGHTED_TOKEN).

    Raises:
        DataError: `extra_info` lacks what the server needs.
        RunError: the server is away for too long.
    """
    told = dict(extra_info or {})
    asked = {name: told[name] for name in ("group", "run", "evaluation") if told.get(name) is not None}
    asked |= {name: int(told[name]) for name in ("member", "size", "step") if told.get(name) is not None}
    references = references_of(told)
    label = asked | {"prompt": told.get("prompt", ""), "response": solution_str}
    if references is not None:
        label["references"] = list(references)
    said = await client(url, token).ask("/openrlhf", {"query": [""], "prompts": [""], "labels": [label]})
    logs = {name: values[0] for name, values in said["extra_logs"].items()}
    return {"score": said["rewards"][0], "reward_model": said["scores"][0], **logs}
