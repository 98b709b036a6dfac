"""Reward functions of engines against a real server on a socket, by the engines' own signatures."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("aiohttp")

from foresighted.errors import ConfigError, DataError, RunError
from foresighted.integrations.http import client, ms_swift, run, slime, verl
from foresighted.integrations.http.config import ServeConfig
from foresighted.integrations.owner import OwnerConfig, RewardOwner

PROMPT = "Why is the sky blue?"
RESPONSES = ["Light scatters.", "Because of air", "It just is blue, blue."]
TOKEN = "a-token-of-some-length"


@asynccontextmanager
async def served(folder, model, monkeypatch, **settings):
    """Serve an owner on a free port of this machine, as `foresighted serve` does."""
    config = ServeConfig(OwnerConfig(reward_model=str(model), device="cpu", **settings), port=0)
    listening = run._listen(config)
    host, port = listening.getsockname()[:2]
    owner = RewardOwner.open(folder, config.owner)
    monkeypatch.setenv(client.URL, f"http://{host}:{port}")
    monkeypatch.setenv("FORESIGHTED_TOKEN", TOKEN)
    server = run.server(owner, config, TOKEN)
    serving = asyncio.ensure_future(server.serve([listening]))
    try:
        yield owner
    finally:
        await client.close()
        server.should_exit = True
        await serving
        await owner.close()
        for module in (verl, slime, ms_swift):
            module.client.cache_clear()


@dataclass
class Sample:
    """What slime hands over, as far as it is read."""

    group_index: int | None = None
    index: int | None = None
    prompt: str | list[dict[str, str]] = ""
    response: str = ""
    label: str | None = None
    metadata: dict = field(default_factory=dict)


class AsyncORM:
    """ms-swift's base."""

    def __init__(self, args=None, **kwargs):
        self.args = args


@pytest.mark.slow
def test_engines_get_what_the_owner_pays(tmp_path, tiny_deberta, monkeypatch):
    async def play():
        async with served(
            tmp_path, tiny_deberta, monkeypatch, steering="practical", gamma=0.1, gamma_unit="raw"
        ) as owner:
            samples = [Sample(4, 12 + n, PROMPT, text) for n, text in enumerate(RESPONSES)]
            group = await slime.reward(SimpleNamespace(), samples)
            single = await slime.reward(SimpleNamespace(), samples[0], evaluation=True)
            with pytest.raises(DataError, match="--group-rm"):
                await slime.reward(SimpleNamespace(), [samples[0], Sample(4, 13, "What is rain?", "water")])
            known = await owner.score_group("slime", "4-12", PROMPT, RESPONSES)

            monkeypatch.setitem(sys.modules, "swift", ModuleType("swift"))
            sys.modules["swift"].rewards = SimpleNamespace(orms={}, AsyncORM=AsyncORM)
            ms_swift.register()
            made = sys.modules["swift"].rewards.orms["foresighted"](args=SimpleNamespace(num_generations=3))
            assert isinstance(made, AsyncORM)
            talk = [[{"role": "user", "content": PROMPT}, {"role": "assistant", "content": r}] for r in RESPONSES]
            columns = {"messages": talk, "prompt_id": ["p"] * 3, "trainer_state": SimpleNamespace(global_step=7)}
            swift = await made(RESPONSES, **columns)

            extra = {"prompt": PROMPT, "reference": "It depends.", "index": 3}
            alone = await verl.compute_score("d", RESPONSES[0], "", extra)
            twice = await verl.compute_score("d", RESPONSES[0], "", extra, url=None)
            seen = await verl.compute_score("d", RESPONSES[0], "", extra | {"evaluation": True})
            with pytest.raises(DataError, match="no reference"):
                await verl.compute_score("d", RESPONSES[0], "", {"prompt": "Other?"})
            return group, single, known, swift, alone, twice, seen, await owner.status()

    group, single, known, swift, alone, twice, seen, status = asyncio.run(play())
    assert group == [answer.reward for answer in known]
    assert single == pytest.approx(known[0].score, abs=1e-5)
    assert len(set(swift)) == 3
    assert alone == twice
    assert set(alone) == {"score", "reward_model", "penalty", "version", "foresight"} == set(seen)
    assert alone["score"] == alone["reward_model"] - alone["penalty"] != seen["score"]
    assert status["groups"] == 3


def test_a_server_that_is_away_is_asked_again_and_told_at_last(monkeypatch, told):
    monkeypatch.delenv(client.URL, raising=False)
    with pytest.raises(ConfigError) as nowhere:
        client.Client()
    told(nowhere, "url", client.URL)

    async def play():
        try:
            await client.Client("http://127.0.0.1:9", patience=0.3).score(group="a", prompt="p", responses=["x", "y"])
        finally:
            await client.close()

    with pytest.raises(RunError) as away:
        asyncio.run(play())
    told(away, "127.0.0.1:9", "within 0.3 s", "foresighted serve")
