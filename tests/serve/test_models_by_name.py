"""Further models behind one endpoint: each answers to its name, and a wrong name is a 404."""

from __future__ import annotations

import json

import httpx

from offload.engine import Engine
from serve.app import build_app
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, TEXT


class Models:
    """Two models beside the first one."""

    def __init__(self) -> None:
        self.small, self.large = ScriptedEngine(["small"]), ScriptedEngine(["large"])

    def local_names(self) -> tuple[str, ...]:
        return ("smol", "large")

    def engine_for(self, name: str) -> Engine | None:
        return {"smol": self.small, "smol:latest": self.small, "large": self.large}.get(name)


def reached() -> tuple[httpx.AsyncClient, ScriptedEngine, Models]:
    first, models = ScriptedEngine(["first"]), Models()
    transport = httpx.ASGITransport(app=build_app(first, models=models))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1"), first, models


async def test_each_model_answers_to_its_name_and_is_told_by_it() -> None:
    client, first, models = reached()
    async with client:
        for name, said in [("smol", "small"), ("large", "large"), ("scripted", "first")]:
            body = (await client.post(CHAT, json={**ASK, "model": name})).json()
            assert (body["model"], body["choices"][0]["message"]["content"]) == (name, said)
        body = (await client.post(TEXT, json={"model": "smol:latest", "prompt": "x"})).json()
        assert body["choices"][0]["text"] == "small"
    assert (len(first.requests), len(models.small.requests)) == (1, 2)
    assert models.small.requests[0].model == "", "an engine has no names of its own"


async def test_a_stream_is_that_of_the_model_that_was_named() -> None:
    client, _, _ = reached()
    async with client:
        told = (await client.post(CHAT, json={**ASK, "model": "large", "stream": True})).text
    first = json.loads(told.split("\n\n")[0].removeprefix("data: "))
    assert first["model"] == "large" and '"content":"large"' in told


async def test_all_names_are_listed_and_a_wrong_one_is_told_with_them() -> None:
    client, _, _ = reached()
    async with client:
        listed = [row["id"] for row in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["scripted", "auto", "smol", "large"]
        assert (await client.get("/v1/models/smol")).json()["id"] == "smol"
        for response in (
            await client.post(CHAT, json={**ASK, "model": "/etc/passwd"}),
            await client.post("/tokenize", json={"model": "other", "prompt": "x"}),
            await client.get("/v1/models/other"),
        ):
            assert response.status_code == 404
            assert "there are scripted, auto, smol, large" in response.json()["error"]["message"]
