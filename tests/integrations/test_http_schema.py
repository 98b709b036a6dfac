"""Whatever fits the server's OpenAPI, and much that does not, is answered as the OpenAPI says."""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from foresighted.integrations.http import run
from foresighted.integrations.http.config import ServeConfig
from foresighted.integrations.owner import OwnerConfig, RewardOwner

EXCUSED = [schemathesis.checks.positive_data_acceptance]
"""What no schema can say: a member below its size, as many prompts as queries, ids of questions that are there."""
LATE = [schemathesis.checks.not_a_server_error]
"""Of a group whose other responses do not come, which is a gateway's timeout, as the OpenAPI says."""


@pytest.fixture(scope="module")
def url(tmp_path_factory, tiny_deberta):
    """A server on a socket, in a thread of its own."""
    config = ServeConfig(OwnerConfig(reward_model=str(tiny_deberta), device="cpu", group_deadline=0.05), port=0)
    listening = run._listen(config)
    owner = RewardOwner.open(tmp_path_factory.mktemp("schema") / "owner", config.owner)
    server = run.server(owner, config, None)

    async def serve():
        await server.serve([listening])
        await owner.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    yield "http://{}:{}".format(*listening.getsockname()[:2])
    server.should_exit = True
    thread.join()


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore")
def test_schemathesis_finds_nothing(url):
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/score", "/openrlhf", "/feedback", "/health"}
    seen = []
    for operation in operations:

        @settings(max_examples=100, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case):
            response = case.call()
            late = response.status_code == 504 and response.json()["error"].startswith("group: ")
            case.validate_response(response, excluded_checks=EXCUSED + LATE * late)
            seen.append(response.status_code)

        check()
    assert {200, 422} <= set(seen) <= {200, 400, 409, 413, 422, 504}
