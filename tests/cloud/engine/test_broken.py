"""A shared model that lost a process: reported at once, everywhere, and in one line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from cloud.endpoint import until_stopped
from cloud.engine.engine import CloudEngine
from engine.torch.engine_loop import FAR_LOOP
from engine.torch.options import EngineOptions
from engine.torch.tp_launcher import TpLauncher
from offload.engine import Breakable
from offload.errors import EngineStopped
from offload.link.client import CloudLink
from offload.link.local_keys import device_keys
from offload.messages import Finish
from serve.options import ServeOptions
from tests.cloud.golden import ask
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import listening
from tests.tiny_checkpoints import write_checkpoint
from tests.waiting import until_read

ROOT = Path(__file__).parents[3]
KILLED = "process 1 of the shared model was killed by signal 9; start the engine again"


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[CloudEngine]:
    """A tiny model in this process and one other, which meet by gloo."""
    options = EngineOptions(device="cpu", tensor_parallel_size=2)
    engine = await asyncio.to_thread(
        CloudEngine, write_checkpoint(tmp_path, "qwen2"), options=options
    )
    yield engine
    await engine.aclose()


def other_process(engine: CloudEngine) -> subprocess.Popen[str]:
    (process,) = engine.launcher.processes
    return process


async def test_a_process_killed_while_nothing_is_asked_is_told_by_every_door(
    shared: CloudEngine,
) -> None:
    async with listening(shared, ServeOptions(port=0)) as server, httpx.AsyncClient() as client:
        ready = partial(client.get, f"{server.url}/ready")
        await until_read(ready, lambda reply: reply.status_code == 200)
        assert "nearfar:engine_up 1.0" in (await client.get(f"{server.url}/metrics")).text

        other_process(shared).kill()
        told = await until_read(ready, lambda reply: reply.status_code != 200)
        assert told.status_code == 503 and told.json() == {"status": "not ready", "why": KILLED}
        assert "nearfar:engine_up 0.0" in (await client.get(f"{server.url}/metrics")).text
        body = {"model": "auto", "prompt": "the cat"}
        refused = await client.post(f"{server.url}/v1/completions", json=body)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        error = refused.json()["error"]
        assert (error["code"], error["message"]) == ("engine_stopped", KILLED)
        assert (await client.get(f"{server.url}/health")).status_code == 200, "it still runs"


@pytest.mark.slow
async def test_an_answer_under_way_ends_with_one_error(shared: CloudEngine) -> None:
    assert isinstance(shared, Breakable) and shared.broken() is None
    items = shared.generate(ask(max_tokens=100_000))
    await anext(items)
    other_process(shared).kill()
    ends = [item async for item in items if isinstance(item, Finish)]
    assert [end.reason for end in ends] == ["error"] and "restart it" in (ends[0].error or "")
    with pytest.raises(EngineStopped, match=r"start the engine again|restart it"):
        await anext(shared.generate(ask()))


async def test_a_closed_engine_is_not_broken(tmp_path: Path) -> None:
    engine = CloudEngine(write_checkpoint(tmp_path, "qwen2"), options=EngineOptions(device="cpu"))
    await engine.aclose()
    assert engine.broken() is None


class Fragile(ScriptedEngine):
    why: str | None = None

    def broken(self) -> str | None:
        return self.why


async def test_an_endpoint_waits_for_a_signal_or_for_its_engine_to_break() -> None:
    engine, stop = Fragile(), asyncio.Event()
    waiting = asyncio.create_task(until_stopped(stop, engine))
    engine.why = "it broke"
    assert await waiting == "it broke"
    stop.set()
    assert await until_stopped(stop, Fragile()) is None


def test_how_a_process_ended_is_told() -> None:
    code = "import sys; sys.stdin.read(); sys.exit(3)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)  # type: ignore[call-overload]
    launcher = TpLauncher([process])
    assert launcher.lost() is None
    process.stdin.close()
    process.wait(60)
    assert launcher.lost() == "process 1 of the shared model ended with 3; start the engine again"
    launcher.end()


@contextmanager
def shared_cloud(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Serve the embedded model by two processes, over HTTP too."""
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--device", "cpu", "--json"]
    command += ["--tensor-parallel-size", "2"]
    process = subprocess.Popen(
        [*command, "--bind", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEARFAR_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def followers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "engine.torch.tp_worker" in child.cmdline()]


@pytest.mark.slow
async def test_a_cloud_that_lost_a_process_says_so_in_one_line_and_ends_with_1(
    tmp_path: Path,
) -> None:
    with shared_cloud(tmp_path) as (process, told):
        link = CloudLink(
            told["endpoint"],
            server_key=told["server_key"],
            device_keys=device_keys(tmp_path / "data" / "keys"),
        )
        async with aclosing(link), httpx.AsyncClient(timeout=60) as client:
            far = link.generate(ask("Count:", max_tokens=1500))
            await anext(far)
            body = {"model": "auto", "prompt": "Count:", "max_tokens": 1500, "stream": True}
            async with client.stream("POST", f"{told['url']}/completions", json=body) as answer:
                lines = answer.aiter_lines()
                assert (await anext(lines)).startswith("data: ")
                (follower,) = followers(process)
                follower.kill()
                said = [line async for line in lines if line]
            assert '"error"' in said[-1] and "restart it" in said[-1], "and no [DONE]"
            ends = [item async for item in far if isinstance(item, Finish)]
            assert [end.reason for end in ends] == ["error"]
            assert "restart it" in (ends[0].error or "")
        _, err = await asyncio.to_thread(process.communicate, None, 120)
        ours = [line for line in err.splitlines() if line.startswith("nearfar: ")]
        assert process.returncode == 1
        assert ours in ([f"nearfar: {KILLED}"], [f"nearfar: {FAR_LOOP.broken}"])
        assert "Traceback" not in err
