"""verl's reward workers and agent loop, started and fed as its trainer does, with random words for a language model."""

from __future__ import annotations

import asyncio
import random
import time
import uuid


class Standin:
    """What an agent loop asks for words, in place of a server's client."""

    async def generate(self, request_id, *, prompt_ids, sampling_params, **_):
        from verl.workers.rollout.replica import TokenOutput

        words = random.Random(request_id)
        await asyncio.sleep(0.05 * words.random())  # siblings end in any order
        ids = [words.randrange(10, 300) for _ in range(words.randint(2, 6))]
        return TokenOutput(
            token_ids=ids, stop_reason="completed", extra_fields={"min_global_steps": 1, "max_global_steps": 1}
        )


class Loop:
    """verl's reward workers and agent loop, as its V1 trainer starts and feeds them."""

    def __init__(self, config) -> None:
        import transfer_queue as queue
        from verl.experimental.reward_loop import RewardLoopManager
        from verl.trainer.ppo.v1 import AgentLoopManagerTQ

        self.queue = queue
        queue.init(config.transfer_queue)
        self.rewards = RewardLoopManager(config=config)
        handles = self.rewards.reward_loop_worker_handles
        given = {"config": config, "llm_client": Standin(), "teacher_client": None}
        self.agents = AgentLoopManagerTQ.create(**given, reward_loop_worker_handles=handles)

    def submit(self, prompts, *, step: int, validate: bool = False, references=None) -> list[str]:
        """Have responses to prompts sampled and scored; return the prompts' uids."""
        import numpy as np
        from verl.utils import tensordict_utils as tu

        count, partition = len(prompts), "val" if validate else "train"
        uids = [str(uuid.uuid4()) for _ in prompts]
        extra = {} if references is None else {"references": references}
        rows = {
            "raw_prompt": [[{"role": "user", "content": text}] for text in prompts],
            "data_source": ["tests"] * count, "reward_model": [{"ground_truth": ""}] * count,
            "extra_info": [{"index": i, **extra} for i in range(count)], "index": list(range(count)), "uid": uids,
        }  # fmt: skip
        batch = tu.get_tensordict({name: np.array(column, dtype=object) if name == "uid" else column
                                   for name, column in rows.items()})  # fmt: skip
        tu.assign_non_tensor_data(batch, "global_steps", step)
        if validate:
            tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": step} for _ in prompts]
        self.queue.kv_batch_put(keys=uids, partition_id=partition, tags=tags)
        self.agents.generate_sequences(batch)
        return uids

    def wait(self, uids, partition: str = "train", seconds: float = 100) -> dict[str, str]:
        """Return the status of prompts, once all have settled."""
        end = time.monotonic() + seconds
        while True:
            listed = self.queue.kv_list(partition)[partition]
            found = {uid: listed[uid]["status"] for uid in uids}
            if all(status in ("finished", "failure") for status in found.values()):
                return found
            assert time.monotonic() < end, found
            time.sleep(0.2)

    def paid(self, uids, partition: str = "train") -> dict[tuple[str, int], tuple[str, float, dict]]:
        """Return what verl holds of each response: uid and place -> words, reward, the owner's row."""
        listed = self.queue.kv_list(partition)[partition]
        keys = [key for key in listed if key.split("_")[0] in uids and "_" in key]
        data = self.queue.kv_batch_get(keys=keys, partition_id=partition)
        found = {}
        for place, key in enumerate(keys):
            uid, member, _ = key.split("_")
            extra = getattr(data["extra_fields"][place], "data", data["extra_fields"][place])
            reward = float(data["rm_scores"][place].sum())
            found[uid, int(member)] = (data["responses"][place].tolist(), reward, extra["reward_extra_info"])
        return found
