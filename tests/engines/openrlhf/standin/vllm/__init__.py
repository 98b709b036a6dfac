"""What OpenRLHF imports of vLLM, with an engine that says random words: no GPU, no weights."""

import asyncio
import random
from dataclasses import dataclass, field
from types import SimpleNamespace

from . import inputs, utils  # noqa: F401

__version__ = "0.99.0"


class SamplingParams(SimpleNamespace):
    pass


class AsyncEngineArgs:
    def __init__(self, **given):
        self.given = given


@dataclass
class _Output:
    token_ids: list
    text: str = ""
    finish_reason: str = "stop"
    logprobs: object = None


@dataclass
class AsyncLLMEngine:
    under_way: int = 0
    words: random.Random = field(default_factory=random.Random)

    @classmethod
    def from_engine_args(cls, args):
        return cls(words=random.Random(args.given.get("seed", 0)))

    @property
    def output_processor(self):
        return SimpleNamespace(get_num_unfinished_requests=lambda: self.under_way)

    async def is_sleeping(self):
        return False

    async def generate(self, prompt, params, request_id):
        self.under_way += 1
        words = [self.words.randrange(10, 300) for _ in range(self.words.randint(2, 6))]
        await asyncio.sleep(0.05 * self.words.random())  # siblings end in any order
        self.under_way -= 1
        if max(prompt["prompt_token_ids"]) == 0:
            raise RuntimeError("no room for this prompt")
        yield SimpleNamespace(outputs=[_Output(words)])
