"""RewardManager of verl: one response a call, paid as part of its group by the owner of the reward model."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from foresighted.errors import DataError, RunError
from foresighted.integrations.verl.plan import Asked, check_capacity


class Partitions:
    """Which prompts are trained on and which are evaluated, from the queue that verl's V1 trainer keeps them in."""

    def __init__(self) -> None:
        self._evaluated: dict[str, bool] = {}
        self._turn = asyncio.Lock()
        self._queue: Any = None

    async def evaluated(self, uid: str) -> bool:
        """Return whether a prompt is evaluated.

        Raises:
            RunError: the queue knows nothing of it.
        """
        if uid not in self._evaluated:
            async with self._turn:  # one of many that ask at once is enough
                if uid not in self._evaluated:
                    self._evaluated = await self._listed()
        if uid not in self._evaluated:
            raise RunError(
                f"uid {uid!r:.60}: in no partition of verl's queue, so nobody knows whether it is trained on; the owner"
                " needs verl's own V1 agent loop (trainer.use_v1=true)"
            )
        return self._evaluated[uid]

    async def _listed(self) -> dict[str, bool]:
        if self._queue is None:
            self._queue = importlib.import_module("transfer_queue")
            await asyncio.to_thread(self._queue.init)
        found: dict[str, bool] = {}
        for partition, evaluated in (("train", False), ("val", True)):
            listed = await self._queue.async_kv_list(partition_id=partition)
            found |= dict.fromkeys((listed or {}).get(partition, {}), evaluated)
        return found


class RewardManager:
    """What verl asks for the reward of each response (`reward.reward_manager.source=importlib`).

    Siblings of a group come to different workers; each gives its own to the owner of the reward model, which answers
    once the group is whole. What is evaluated gets the bare reward at once, and leaves no trace.

    Args:
        config: verl's, with a section `foresighted`.
        tokenizer: the policy's.
        compute_score, reward_router_address, reward_model_tokenizer: verl gives them; there is no use for them.

    Raises:
        ForesightedError: the section lacks something, workers are too few, or there is no such owner.
    """

    def __init__(
        self, config: Any, tokenizer: Any, compute_score: Any = None, reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:  # fmt: skip  # one argument a line says no more
        self._tokenizer = tokenizer
        self._asked = Asked.of(config)
        check_capacity(config)
        self._owner = self._asked.connect()
        self._partitions = Partitions()

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Return what a response is paid, and the owner's reasons for verl's logs.

        Args:
            data: verl's DataProto of one trajectory; its last sequence is the response.

        Raises:
            ForesightedError: a group that stays incomplete, or data without what tells groups apart.
        """
        row = data[len(data) - 1]
        told = row.non_tensor_batch
        for name in ("uid", "session_id", "raw_prompt"):
            if name not in told:
                raise DataError(
                    f"{name}: not in what verl hands on; the owner needs verl's V1 agent loop, 0.9 or newer"
                )
        ids = row.batch["responses"]
        length = int(row.batch["attention_mask"][-ids.shape[-1] :].sum())
        text = await asyncio.to_thread(self._tokenizer.decode, ids[:length], skip_special_tokens=True)
        uid, evaluated = str(told["uid"]), await self._partitions.evaluated(str(told["uid"]))
        prompt = [dict(message) for message in told["raw_prompt"]]
        answer = await self._owner.score(
            self._asked.run, uid, int(told["session_id"]), self._asked.size, prompt, _said(text), step=_step(told),
            evaluation=evaluated, references=_references(told),
        )  # fmt: skip  # one argument a line says no more
        return {"reward_score": answer.reward, "reward_extra_info": answer.row()}

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: list[float]) -> Any:
        """Return verl's own tensor of scores, at the last token of each response."""
        base = importlib.import_module("verl.experimental.reward_loop.reward_manager.base")
        return base.RewardManagerBase.assemble_rm_scores(data, scores)


def _said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def _step(told: Any) -> int | None:
    step = told.get("global_steps")
    return None if step is None else int(step)


def _references(told: Any) -> list[Any] | None:
    """Return the responses of the frozen policy that the dataset has for a prompt, in `extra_info.references`."""
    extra = told.get("extra_info")
    found = extra.get("references") if isinstance(extra, dict) else None
    if found is None:
        return None
    if not all(isinstance(one, str) for one in found):
        raise DataError(f"extra_info.references: got {found!r:.60}, must be a list of texts")
    return [_said(one) for one in found]
