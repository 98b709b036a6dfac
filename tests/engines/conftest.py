"""A Ray cluster on this machine, and what an owner in it is made of: tiny models, a labeller, traps that kill it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
QUIET = {
    "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000", "TOKENIZERS_PARALLELISM": "false",
    "VERL_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1",
}  # fmt: skip  # one table


@pytest.fixture(scope="session")
def paths() -> list[Path]:
    """What else than this package the workers import; a folder of tests says so in its own conftest."""
    return []


@pytest.fixture(scope="session")
def head_cpus() -> int:
    """CPUs of the head node."""
    return 2


@pytest.fixture(scope="session")
def cluster(paths, head_cpus):
    """A head node, and the test connected to it. FORESIGHTED_RAY=HOST:PORT uses one that is there."""
    import ray
    from ray.cluster_utils import Cluster

    words = [str(path) for path in (SOURCE, *paths)]
    os.environ.update(QUIET, PYTHONPATH=os.pathsep.join(words), PYTHONDONTWRITEBYTECODE="")
    sys.path[:0] = words
    there = os.environ.get("FORESIGHTED_RAY")
    made = None if there else started(Cluster, head_cpus)
    ray.init(address=there or made.address, namespace="tests", log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    if made is not None:
        made.shutdown()


def started(kind, cpus: int):
    """Return a cluster with one node; Ray gives its own agents 15 s to start, which a busy machine may exceed once."""
    for _ in range(2):
        try:
            return kind(initialize_head=True, head_node_args={"num_cpus": cpus, "object_store_memory": 80_000_000})
        except Exception as error:
            print(f"Ray did not start in time: {error}")
    return kind(initialize_head=True, head_node_args={"num_cpus": cpus, "object_store_memory": 80_000_000})


JUDGE = '''
import os, signal
from pathlib import Path
HERE = Path(__file__).parent

def die(where):
    """End this process for good, once, where a file says so."""
    if (HERE / where).exists():
        (HERE / where).unlink()
        os.kill(os.getpid(), signal.SIGKILL)

def trapped(module, name, before, after):
    own = getattr(module, name)
    def call(*words, **given):
        die(before)
        found = own(*words, **given)
        die(after)
        return found
    setattr(module, name, call)

from foresighted.integrations.owner import versions
from foresighted.store import files
trapped(versions, "save", "retrain", "swap")
trapped(files, "append", "journal", "answer")

def prefer(prompts, first, second):
    die("label")
    return [1 / (1 + 2.7 ** ((len(b) - len(a)) / 10)) for a, b in zip(first, second)]
'''
"""A labeller that prefers the longer response, and kills the owner's process where it is told to."""


class Made:
    """A file of settings, a folder, and what lies there."""

    def __init__(self, folder: Path, **settings) -> None:
        self.folder, self.config, self.traps = folder / "owner", folder / "owner.yaml", folder
        (folder / "judge.py").write_text(JUDGE)
        gamma = {"gamma": 0.1, "gamma_unit": "raw"}  # a share would be that of the groups before, in their order
        self.settings = {"device": "cpu", "cpus": 0, "labels": f"{folder / 'judge.py'}:prefer", **gamma, **settings}
        self.config.write_text(yaml.safe_dump(self.settings))

    def trap(self, where: str) -> None:
        (self.traps / where).write_text("")

    def journal(self, event: str) -> list[dict]:
        rows = [json.loads(line) for line in (self.folder / "journal.jsonl").read_text().splitlines()]
        return [row for row in rows if row["event"] == event]

    def answered(self) -> dict[tuple[str, int], tuple[float, int]]:
        """Return what the journal says that each response was paid: group and place -> reward, version."""
        return {
            (row["group"], member["member"]): (member["score"] - member["penalty"], row["version"])
            for row in self.journal("group")
            for member in row["members"]
        }

    def logs(self, cluster) -> list[Path]:
        """Return what the processes of a cluster said."""
        return sorted((Path(cluster.head_node.get_session_dir_path()) / "logs").glob("worker-*.err"))

    def in_process(self, groups, folder: str = "beside", references=None):
        """Return what an owner of this process pays for groups (prompt, responses), before it has learnt anything, or
        once it has taken up a folder."""
        from foresighted.integrations.owner import OwnerConfig, RewardOwner

        beside = ("cpus", "labels", "replicas", "replica_cpus")
        own = {name: value for name, value in self.settings.items() if name not in beside}

        async def play():
            owner = RewardOwner.open(self.traps / folder, OwnerConfig(**own))
            asked = [owner.score_group("run", str(i), p, r, references=references) for i, (p, r) in enumerate(groups)]
            found = await asyncio.gather(*asked)
            await owner.close()
            return found

        return asyncio.run(play())


@pytest.fixture(scope="session")
def owner_files(tmp_path_factory, tiny_deberta):
    """Make an owner's folder and settings: owner_files(name, **settings)."""

    def make(name: str, **settings) -> Made:
        return Made(tmp_path_factory.mktemp(name), reward_model=str(tiny_deberta), **settings)

    return make


def kill(owner) -> None:
    """SIGKILL the process of an owner."""
    os.kill(owner.wait("status")["pid"], signal.SIGKILL)


def until(owner, true, seconds: float = 60) -> dict:
    """Return the status once something is true of it."""
    end = time.monotonic() + seconds
    while True:
        status = owner.wait("status")
        if true(status):
            return status
        assert time.monotonic() < end, status
        time.sleep(0.05)


@pytest.fixture(scope="session")
def tell():
    """The helpers above, for tests."""
    from types import SimpleNamespace

    return SimpleNamespace(kill=kill, until=until)
