"""verl's own configuration, and what starts its workers."""

from __future__ import annotations

from pathlib import Path

import pytest

SIZE = 3


@pytest.fixture(scope="session")
def paths():
    return [Path(__file__).parent]


@pytest.fixture(scope="session")
def engine():
    """Start verl's workers: engine(config)."""
    from verl_standin import Loop

    return Loop


@pytest.fixture(scope="session")
def configured(tiny_llama, tmp_path_factory):
    """Compose verl's configuration as its command line does: configured(*overrides)."""
    import verl
    from hydra import compose, initialize_config_dir

    out = tmp_path_factory.mktemp("verl")
    usual = [
        f"actor_rollout_ref.model.path={tiny_llama}", f"actor_rollout_ref.rollout.n={SIZE}", "reward.num_workers=2",
        "actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.agent.num_workers=2",
        "actor_rollout_ref.rollout.prompt_length=64", "actor_rollout_ref.rollout.response_length=16",
        "data.train_batch_size=4", "data.max_prompt_length=64", "data.max_response_length=16", "trainer.device=cpu",
        "trainer.project_name=tests", "trainer.experiment_name=one", f"trainer.default_local_dir={out}",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1", "transfer_queue.enable=true",
        "reward.reward_manager.source=importlib", "reward.reward_manager.name=RewardManager",
        "reward.reward_manager.module.path=pkg://foresighted.integrations.verl",
        "trainer.checkpoint_callback_class=foresighted.integrations.verl.CheckpointCallback",
    ]  # fmt: skip  # one table

    def make(*overrides: str):
        with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
            return compose("ppo_trainer", [*usual, *overrides])

    return make
