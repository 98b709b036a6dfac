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
    """Make OpenRLHF's samples generator over rollout actors: generator(prompts, evaluated)."""
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

    settings = SimpleNamespace(
        rollout=SimpleNamespace(batch_size=4, n_samples_per_prompt=3, vllm_generate_batch_size=None),
        vllm=SimpleNamespace(enable_sleep=False),
        algo=SimpleNamespace(dynamic_filtering_enable=False, advantage=SimpleNamespace(is_correction_level="off")),
    )
    actors = []

    def make(prompts, evaluated=()):
        if not actors:
            kind = RolloutRayActor.options(num_cpus=0)
            own = {"num_gpus": 0, "agent_func_path": str(AGENT), "distributed_executor_backend": "uni"}
            actors.extend(kind.remote(model="none", seed=seed, **own) for seed in range(2))
        rows = [[(None, [prompt], [label], [None]) for prompt, label in part] for part in (prompts, evaluated)]
        return SamplesGenerator(SimpleNamespace(args=settings), *rows, tokenizer, actors)

    return make
