"""`nearfar cloud serve` with a number of replicas that follows the load, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cloud.commands import ROOT, nearfar
from tests.waiting import until_read

FLAGS = "--min-replicas 1 --max-replicas 2 --scale-target 1 --upscale-delay 0 --downscale-delay 0"
BODY = {
    "model": "nearfar-cloud",
    "messages": [{"role": "user", "content": "Count to fifty."}],
    "max_tokens": 200,
    "ignore_eos": True,
}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", *FLAGS.split(), "--json"]
    process = subprocess.Popen(
        [*command, "--bind", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEARFAR_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
    told = re.findall(r"^replicas: (\d) -> (\d) by queue", errors, re.MULTILINE)
    assert told[0] == ("1", "2") and told[-1] == ("2", "1")


@pytest.mark.slow
async def test_replicas_come_and_go_and_no_answer_is_lost(url: str) -> None:
    async with httpx.AsyncClient(timeout=120) as client:

        async def replicas() -> dict[str, int]:
            page = (await client.get(url.removesuffix("/v1") + "/metrics")).text
            found = re.findall(r'^nearfar:replicas{state="(\w+)"} (\d)', page, re.MULTILINE)
            return {state: int(count) for state, count in found}

        async def ask() -> None:
            answer = await client.post(f"{url}/chat/completions", json=BODY)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] == 200

        async def keep_asking(enough: asyncio.Event) -> int:
            count = 0
            while not enough.is_set():
                await ask()
                count += 1
            return count

        assert (await replicas())["ready"] == 1
        enough = asyncio.Event()
        asking = [asyncio.create_task(keep_asking(enough)) for _ in range(4)]
        await until_read(replicas, lambda seen: seen["ready"] == 2)
        enough.set()
        assert all(count >= 1 for count in await asyncio.gather(*asking))
        one = {"ready": 1, "starting": 0, "draining": 0}
        await until_read(replicas, lambda seen: seen == one)
        await ask()


def test_bounds_that_cannot_be_are_one_line() -> None:
    done = nearfar("cloud", "serve", "--min-replicas", "3", "--max-replicas", "2")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "the first not above the second" in done.stderr
