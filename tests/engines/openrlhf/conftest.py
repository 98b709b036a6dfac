"""OpenRLHF's own classes, with a vLLM of twenty lines that says random words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

STANDIN = Path(__file__).with_name("standin")
AGENT = Path(__file__).parents[3] / "examples" / "openrlhf" / "agent.py"


@pytest.fixture(scope="session")
def paths():
    return [STANDIN]


@pytest.fixture(scope="session")
def generator(cluster, tokenizer):
    """Make OpenRLHF's samples generator over rollout actors: generator(prompts, evaluated). They are paid by the owner
    in the cluster, or by a server: generator(prompts, remote_rm_url=...)."""
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

    settings = SimpleNamespace(
        rollout=SimpleNamespace(batch_size=4, n_samples_per_prompt=3, vllm_generate_batch_size=None),
        vllm=SimpleNamespace(enable_sleep=False),
        algo=SimpleNamespace(dynamic_filtering_enable=False, advantage=SimpleNamespace(is_correction_level="off")),
    )
    actors = {}

    def make(prompts, evaluated=(), **paid):
        own = tuple((paid or {"agent_func_path": str(AGENT)}).items())
        if own not in actors:
            kind = RolloutRayActor.options(num_cpus=0)
            each = {"num_gpus": 0, "distributed_executor_backend": "uni", **dict(own)}
            actors[own] = [kind.remote(model="none", seed=seed, **each) for seed in range(2)]
        rows = [[(None, [prompt], [label], [None]) for prompt, label in part] for part in (prompts, evaluated)]
        return SamplesGenerator(SimpleNamespace(args=settings), *rows, tokenizer, actors[own])

    return make


@pytest.fixture(scope="session")
def told(tokenizer):
    """The response of an experience as text: told(experience)."""

    def read(experience):
        ids = experience.sequences[0][1:][experience.action_mask[0].bool()]
        return tokenizer.decode(ids.tolist(), skip_special_tokens=True)

    return read
