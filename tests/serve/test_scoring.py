"""Scoring a prompt over HTTP: as text, as token ids, and in every engine the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from offload.engine import Engine
from offload.messages import Request, Sampling
from offload.pair import CLOUD_MODEL, EDGE_MODEL
from tests.serve.faces import TEXT, near

TEXTS = [
    "What is 17 + 25?",
    "<|user|>What is 17 + 25?<|end|><|assistant|>",
    "Zürich, 北京 and \N{SMILING FACE WITH OPEN MOUTH}!",
    "<|user|>\N{EURO SIGN}<|end|>",
]


@pytest.fixture(params=["near", "far", "small"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    made: Any
    if request.param == "near":
        from edge.llama.runtime import LlamaEngine, LlamaOptions

        made = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1))
    elif request.param == "far":
        pytest.importorskip("torch", reason="the cloud engine needs torch")
        from cloud.engine.engine import CloudEngine, EngineOptions

        made = CloudEngine(CLOUD_MODEL, options=EngineOptions(device="cpu"))
    else:
        pytest.importorskip("torch", reason="the torch runtime needs torch")
        from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions

        made = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cpu"))
    yield made
    await made.aclose()


async def _score(client: httpx.AsyncClient, prompt: str | list[int]) -> dict[str, Any]:
    wish = {"model": "auto", "prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0}
    response = await client.post(TEXT, json=wish)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


async def _ids(engine: Engine, text: str) -> list[int]:
    """Return the ids of a raw prompt, as this engine tells them of itself."""
    wish = Request(prompt=text, sampling=Sampling(max_tokens=1, prompt_logprobs=True))
    stream: Any = engine.generate(wish)
    found: list[int] = []
    async for item in stream:
        found += [token.token_id for token in getattr(item, "prompt_tokens", ())]
    return found


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_and_its_token_ids_score_alike(engine: Engine, text: str) -> None:
    ids = await _ids(engine, text)
    async with near(engine) as client:
        as_text, as_ids = await _score(client, text), await _score(client, ids)
    scored = [each["logprobs"]["token_logprobs"] for each in (as_text, as_ids)]
    assert scored[0][0] is None and scored[0][1:] == pytest.approx(scored[1][1:], abs=1e-3)
    for told in (as_text, as_ids):
        tokens, offsets = told["logprobs"]["tokens"], told["logprobs"]["text_offset"]
        assert "".join(tokens) == told["text"]
        assert all(told["text"].startswith(t, at) for t, at in zip(tokens, offsets, strict=True))
    assert as_text["text"] == text


async def test_control_tokens_of_a_raw_prompt_are_read_as_such(engine: Engine) -> None:
    plain, marked = await _ids(engine, "user"), await _ids(engine, "user<|user|>")
    assert marked[:-1] == plain
