"""Nothing that was computed for one tenant is found by another: seen in cached token counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.asker import asked_by
from serve.options import ServeOptions
from tests.cloud.golden import answer, ask
from tests.serve.faces import listening
from tests.tiny_checkpoints import write_checkpoint

PROMPT = "the quick brown fox jumps over the lazy dog " * 4
KEYS = {"alice": "a" * 32, "bob": "b" * 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[CloudEngine]:
    options = EngineOptions(device="cpu", block_size=4)
    engine = CloudEngine(folder, options=options)
    yield engine
    await engine.aclose()


async def cached(engine: CloudEngine, who: str, salt: str = "", max_tokens: int = 2) -> int:
    with asked_by(who):
        _, finish = await answer(engine, ask(PROMPT, cache_salt=salt, max_tokens=max_tokens))
    return finish.usage.cached_tokens


async def test_a_prefix_is_found_by_whoever_computed_it_and_by_no_other(
    engine: CloudEngine,
) -> None:
    assert await cached(engine, "alice") == 0
    again = await cached(engine, "alice", max_tokens=3)
    assert again > 8, "the cache works at all"
    assert await cached(engine, "bob") == 0
    assert await cached(engine, "bob", max_tokens=3) == again


async def test_a_salt_keeps_even_ones_own_prefixes_apart(engine: CloudEngine) -> None:
    assert await cached(engine, "alice", "one") == 0
    assert await cached(engine, "alice", "two") == 0
    assert await cached(engine, "alice", "one", max_tokens=3) > 0


async def test_no_salt_opens_another_ones_prefixes(engine: CloudEngine) -> None:
    await cached(engine, "alice")
    for salt in ("alice", "alice\n", "\nalice"):
        assert await cached(engine, "bob", salt, max_tokens=4) == 0
        assert await cached(engine, "", salt, max_tokens=4) == 0


async def test_a_whole_answer_is_remembered_for_one_tenant_and_salt(engine: CloudEngine) -> None:
    await cached(engine, "alice", "s")
    _, finish = await answer(engine, ask(PROMPT, cache_salt="s", max_tokens=2))
    assert finish.usage.cached_tokens == 0
    everything = await cached(engine, "alice", "s")
    assert everything == finish.usage.prompt_tokens, "nothing was computed"


async def test_the_engine_says_how_often_its_cache_was_of_use(engine: CloudEngine) -> None:
    await cached(engine, "alice")
    before = engine.report()
    hit = await cached(engine, "alice", max_tokens=3)
    after = engine.report()
    assert after.prefix_cache_hits - before.prefix_cache_hits == hit
    assert after.prefix_cache_queries > before.prefix_cache_queries > 0
    assert (after.num_running, after.num_waiting) == (0, 0)


async def test_api_keys_are_tenants(engine: CloudEngine) -> None:
    options = ServeOptions(port=0, api_keys=tuple(f"{who}:{key}" for who, key in KEYS.items()))
    async with listening(engine, options) as server, httpx.AsyncClient(timeout=60) as client:

        async def ask_as(who: str, max_tokens: int) -> int:
            body = {"model": "auto", "prompt": PROMPT, "max_tokens": max_tokens}
            key = {"authorization": f"Bearer {KEYS[who]}"}
            reply = await client.post(f"{server.url}/v1/completions", json=body, headers=key)
            assert reply.status_code == 200, reply.text
            return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

        first = await ask_as("alice", 2)
        again = await ask_as("alice", 3)
        other = await ask_as("bob", 2)
        key = {"authorization": f"Bearer {KEYS['bob']}"}
        page = (await client.get(f"{server.url}/metrics", headers=key)).text
    assert (first, other) == (0, 0) and again > 0
    told = dict(line.split(" ") for line in page.splitlines() if line.startswith("nearfar:prefix"))
    assert float(told["nearfar:prefix_cache_hits_total"]) == again
    assert "nearfar:kv_cache_usage_perc 0.0" in page
