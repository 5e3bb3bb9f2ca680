from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.engine import Embedding
from offload.errors import ContextLengthError, EngineStopped, RequestError
from offload.pair import EDGE_MODEL


@pytest.fixture
def engine(tiny_gguf: Path):
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
    yield engine
    engine.close()


async def test_vectors_have_unit_length_and_do_not_depend_on_company(engine: LlamaEngine) -> None:
    assert isinstance(engine, Embedding)
    texts = ["one", "a longer text of more than thirty-two tokens, in two steps", "one"]
    vectors = np.array(await engine.embed(texts))
    assert vectors.shape == (3, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert (await engine.embed(["one"]))[0] == vectors[0].tolist()


async def test_texts_of_one_kind_lie_together() -> None:
    engine = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1))
    texts = ["What is 17 + 25?", "What is 31 + 12?", "How do I list my models with nearfar?"]
    sum_a, sum_b, command = np.array(await engine.embed(texts))
    engine.close()
    assert sum_a @ sum_b > sum_a @ command + 0.1


async def test_texts_that_cannot_be_placed_are_refused(engine: LlamaEngine) -> None:
    with pytest.raises(RequestError, match="empty"):
        await engine.embed(["fine", ""])
    with pytest.raises(ContextLengthError):
        await engine.embed(["x" * 300])


async def test_several_callers_get_their_own(engine: LlamaEngine) -> None:
    texts = ["one", "two", "three"]
    alone = [(await engine.embed([text]))[0] for text in texts]
    together = await asyncio.gather(*(engine.embed([text]) for text in texts))
    assert [rows[0] for rows in together] == alone


async def test_a_closed_engine_embeds_nothing(tiny_gguf: Path) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
    await engine.embed(["one"])
    await engine.aclose()
    with pytest.raises(EngineStopped):
        await engine.embed(["one"])


async def test_who_embeds_much_lets_others_in_between_and_holds_one_thread(
    engine: LlamaEngine,
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    ended: list[str] = []

    async def embed(who: str, texts: list[str]) -> None:
        await engine.embed(texts)
        ended.append(who)

    much = [asyncio.ensure_future(embed("much", ["some words"] * 400)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.gather(embed("little", ["one"]), asyncio.to_thread(ended.append, "another"))
    assert "much" not in ended
    await asyncio.gather(*much)
