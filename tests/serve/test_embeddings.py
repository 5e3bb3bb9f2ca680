"""Texts as vectors, in both of OpenAI's forms, and a plain no where the engine cannot."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from offload.hybrid.hybrid import Hybrid
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import error_of, listening, near, openai_client

PATH = "/v1/embeddings"


class EmbeddingEngine(ScriptedEngine):
    """Places a text by its length."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[0.5, float(len(text))] for text in texts]


async def test_each_text_has_its_vector() -> None:
    async with near(EmbeddingEngine()) as client:
        body = (await client.post(PATH, json={"model": "scripted", "input": ["a", "bc"]})).json()
    assert [(each["index"], each["embedding"]) for each in body["data"]] == [
        (0, [0.5, 1.0]),
        (1, [0.5, 2.0]),
    ]
    assert body["object"] == "list" and body["model"] == "scripted"


async def test_openais_client_reads_them_packed() -> None:
    async with listening(EmbeddingEngine()) as server, openai_client(server.url) as client:
        answer = await client.embeddings.create(model="scripted", input="abc")
    assert answer.data[0].embedding == [0.5, 3.0]


@pytest.mark.parametrize(
    ("wish", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({"input": ""}, 400, "input"),
        ({"input": [1, 2]}, 400, "input[0]"),
        ({"dimensions": 3}, 400, "dimensions"),
        ({"model": "gpt-4"}, 404, "model"),
    ],
)
async def test_a_wrong_field_is_named(wish: dict[str, object], status: int, param: str) -> None:
    async with near(EmbeddingEngine()) as client:
        response = await client.post(PATH, json={"model": "scripted", "input": "a"} | wish)
    assert response.status_code == status and error_of(response)["param"] == param


async def test_an_engine_without_vectors_says_so() -> None:
    async with near(ScriptedEngine()) as client:
        response = await client.post(PATH, json={"model": "scripted", "input": "a"})
    assert response.status_code == 400 and "no embeddings" in error_of(response)["message"]


async def test_the_hybrid_embeds_near_and_says_so_where_it_cannot() -> None:
    far = EmbeddingEngine()
    wish = {"model": "auto", "input": "abc"}
    async with near(Hybrid(EmbeddingEngine(), far)) as client:
        body = (await client.post(PATH, json=wish)).json()
    assert body["data"][0]["embedding"] == [0.5, 3.0] and not far.requests
    async with near(Hybrid(ScriptedEngine(), far)) as client:
        response = await client.post(PATH, json=wish)
    assert response.status_code == 400 and "no embeddings" in error_of(response)["message"]
