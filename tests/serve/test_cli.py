"""The server as a process: it says where it is, serves, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

import httpx
import pytest

from serve.cli import announce
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
from serve.cli import serve_engine
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
asyncio.run(serve_engine(ScriptedEngine(), ServeOptions(port=0), as_json=True))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_ends_in_peace_when_it_is_told_to(how: signal.Signals) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, cwd=ROOT, stdout=pipe, stderr=pipe
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
        assert told["models"] == ["scripted", "auto"]
        async with httpx.AsyncClient(timeout=60) as client:
            response = await client.post(told["url"].removesuffix("/v1") + CHAT, json=ASK)
        assert response.status_code == 200
        process.send_signal(how)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert await process.stderr.read() == b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def test_a_person_is_told_how_to_point_a_client_at_it(capsys: pytest.CaptureFixture[str]) -> None:
    announce(ScriptedEngine(), "http://127.0.0.1:1", ServeOptions(), as_json=False)
    told = capsys.readouterr().out
    assert "OPENAI_BASE_URL=http://127.0.0.1:1/v1" in told and "others can read" not in told


def test_a_person_is_warned_of_keys_in_clear_text(capsys: pytest.CaptureFixture[str]) -> None:
    options = ServeOptions(host="0.0.0.0", api_keys=("k" * 32,))
    announce(ScriptedEngine(), "http://0.0.0.0:1", options, as_json=False)
    told = capsys.readouterr().out
    assert "others can read" in told and "kkk" not in told
