"""Readiness and metrics follow an engine that broke, or that nobody has at the moment."""

from __future__ import annotations

from functools import partial

import httpx
import pytest

from offload.engine import fault_of
from offload.errors import EngineStopped
from offload.messages import ModelCard
from tests.offload.scripted import CARD, ScriptedEngine
from tests.serve.faces import listening
from tests.waiting import until_read

WHY = "no replica is up; ask again in a moment"


class Wavering(ScriptedEngine):
    """One that has a card only while it is up, as several processes behind one face."""

    up = True

    def card(self) -> ModelCard:
        if not self.up:
            raise EngineStopped(WHY)
        return CARD


class Broken(ScriptedEngine):
    def broken(self) -> str | None:
        return "it broke; start it again"


async def test_ready_goes_and_comes_with_the_engine() -> None:
    engine = Wavering()
    async with listening(engine) as server, httpx.AsyncClient(base_url=server.url) as client:
        await until_read(partial(client.get, "/ready"), lambda reply: reply.status_code == 200)
        engine.up = False
        gone = await client.get("/ready")
        assert (gone.status_code, gone.json()["why"]) == (503, WHY)
        assert "nearfar:engine_up 0.0" in (await client.get("/metrics")).text
        engine.up = True
        assert (await client.get("/ready")).status_code == 200
        assert "nearfar:engine_up 1.0" in (await client.get("/metrics")).text


@pytest.mark.parametrize("engine", [Broken(), ScriptedEngine()], ids=["broken", "whole"])
def test_a_break_is_known_without_asking(engine: ScriptedEngine) -> None:
    assert (fault_of(engine) is not None) is isinstance(engine, Broken)
    assert not engine.requests
