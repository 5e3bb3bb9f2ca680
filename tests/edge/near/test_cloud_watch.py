"""What is said of a cloud is what was found when it was last reached for."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from edge.chat.status_line import link_state
from edge.near.cloud_watch import reach, watching
from offload.egress.door import Door, EgressEngine
from offload.egress.permission import Allowed
from offload.errors import CloudUnreachable
from offload.hybrid.hybrid import Hybrid
from offload.messages import ModelCard, Privacy
from offload.policy.serving.dispatch import Prices
from offload.upstream.client import Upstream
from tests.offload.scripted import CARD, ScriptedEngine

MODELS = {"data": [{"id": "far-model"}]}


class Down(ScriptedEngine):
    """A cloud that counts who reaches for it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reached = 0
        self.reached_for = asyncio.Event()

    async def connect(self) -> ModelCard:
        self.num_reached += 1
        self.reached_for.set()
        raise CloudUnreachable("nothing answers")


async def test_a_server_that_died_is_not_said_to_be_there() -> None:
    is_up = True

    def reply(request: httpx.Request) -> httpx.Response:
        if not is_up:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json=MODELS)

    server = Upstream("http://gpu/v1", transport=httpx.MockTransport(reply))
    hybrid = Hybrid(ScriptedEngine(), server)
    assert link_state(hybrid) == "set_up"
    await reach(hybrid)
    assert link_state(hybrid) == "there"
    is_up = False
    await reach(hybrid)
    assert link_state(hybrid) == "away"
    await hybrid.aclose()


@pytest.mark.parametrize(
    "allowed", [Allowed(offline=True), Allowed(privacy=Privacy.LOCAL_ONLY)], ids=str
)
async def test_where_nothing_may_leave_nothing_is_reached_for(allowed: Allowed) -> None:
    cloud = Down()
    door = Door(allowed=lambda: allowed, prices=Prices())
    await reach(Hybrid(ScriptedEngine(), EgressEngine(cloud, door=door)))
    assert cloud.num_reached == 0


async def test_a_cloud_is_reached_for_while_somebody_looks_and_its_absence_harms_nobody() -> None:
    cloud = Down()
    hybrid = Hybrid(ScriptedEngine(), cloud)
    async with watching(lambda: hybrid, every_s=0.001):
        await asyncio.wait_for(cloud.reached_for.wait(), 5)
        cloud.reached_for.clear()
        await asyncio.wait_for(cloud.reached_for.wait(), 5)
    assert cloud.num_reached >= 2
    assert hybrid.card() == CARD
