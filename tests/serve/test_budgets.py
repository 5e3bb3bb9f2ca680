"""A key's budget of the day holds, however the server ends: it is killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from offload.link.local_keys import used_file
from offload.link.usage_store import UsageStore
from tests.serve.faces import ASK, CHAT, error_of
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
from offload.config.places import places
from offload.config.settings_reading import load
from serve.cli import options_from, serve_engine
from tests.offload.scripted import ScriptedEngine
def script(request):
    return ["w"] * (10_000 if "long" in request.last_text() else 3)
engine = ScriptedEngine(script=script, pause_s=0.01)
asyncio.run(serve_engine(engine, options_from(load(places().config_file), None, 0), as_json=True))
"""


@pytest.fixture(autouse=True)
def far_from_midnight() -> None:
    if time.time() % 86_400 > 86_400 - 300:
        pytest.skip("the day of UTC may end within the test")


@contextlib.asynccontextmanager
async def served(home: Path, **limits: str) -> AsyncIterator[str]:
    """A server that is killed, never stopped, when the block is left."""
    environment = {f"NEARFAR_SERVE_{name.upper()}": value for name, value in limits.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        cwd=ROOT,
        env={**os.environ, **environment, "NEARFAR_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
        yield told["url"].removesuffix("/v1")
    finally:
        process.kill()
        await process.wait()


async def ask(url: str, text: str = "count") -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        turns = [{"role": "user", "content": text}]
        return await client.post(url + CHAT, json=ASK | {"messages": turns})


async def test_a_kill_gives_no_request_of_the_day_back(tmp_path: Path) -> None:
    async with served(tmp_path, requests_per_day="2") as url:
        assert (await ask(url)).status_code == 200
    async with served(tmp_path, requests_per_day="2") as url:
        assert (await ask(url)).status_code == 200
        refused = await ask(url)
    assert refused.status_code == 429 and "2 requests of the day" in error_of(refused)["message"]
    async with served(tmp_path, requests_per_day="2") as url:
        assert (await ask(url)).status_code == 429
    async with served(tmp_path, requests_per_day="3") as url:
        assert (await ask(url)).status_code == 200


async def test_tokens_of_an_answer_that_a_kill_cut_off_are_counted(tmp_path: Path) -> None:
    file = UsageStore(used_file(tmp_path / "data" / "keys"))

    def used() -> int:
        return sum(use.tokens for use in file.read(int(time.time() // 86_400)).values())

    async with served(tmp_path, tokens_per_day="20") as url:
        asking = asyncio.create_task(ask(url, "long"))
        await until(lambda: used() >= 20)
        assert not asking.done(), "the answer is much longer than the budget"
    with pytest.raises(httpx.HTTPError):
        await asking
    async with served(tmp_path, tokens_per_day="20") as url:
        refused = await ask(url)
    assert refused.status_code == 429 and "20 tokens of the day" in error_of(refused)["message"]
