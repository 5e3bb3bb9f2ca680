"""How the processes of a cloud start, share a model, and end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from offload.errors import CloudBusy
from offload.link.client import CloudLink
from offload.link.local_keys import device_keys, used_file
from offload.link.usage_store import UsageStore
from offload.messages import Finish, Request, Sampling
from tests.cloud.commands import ROOT, ask, nearfar


@pytest.fixture
def own_cloud(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], CloudLink, Path]]:
    """A cloud of this test alone, which it may stop."""
    command = "nearfar cloud serve --bind tcp://127.0.0.1:* --json"
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "NEARFAR_HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "NEARFAR_QUOTA_REQUESTS_PER_DAY": "100000",
        },
    )
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    keys = device_keys(tmp_path / "data" / "keys")
    yield (
        process,
        CloudLink(told["endpoint"], server_key=told["server_key"], device_keys=keys, patience_s=0),
        tmp_path,
    )
    process.kill()
    process.wait()
    process.stdout.close()


async def test_a_signal_lets_an_answer_end_and_takes_no_other(
    own_cloud: tuple[subprocess.Popen[str], CloudLink, Path],
) -> None:
    process, link, home = own_cloud
    async with contextlib.aclosing(link):
        request = Request(prompt="Count:", sampling=Sampling(max_tokens=200))
        items = link.generate(request)
        await anext(items)  # type: ignore[arg-type]
        process.send_signal(signal.SIGTERM)
        with pytest.raises(CloudBusy, match="closing"):
            while True:  # until the signal has arrived
                async for _ in link.generate(Request(prompt="hi", sampling=Sampling(max_tokens=1))):
                    pass
        ends = [item async for item in items if isinstance(item, Finish)]
        assert [end.reason for end in ends] in (["stop"], ["length"])
        assert await asyncio.to_thread(process.wait, 20) == 0
    used = UsageStore(used_file(home / "data" / "keys")).read(int(time.time() // 86_400))
    assert sum(each.requests for each in used.values()) >= 1, "the day's use outlives the cloud"


@contextlib.contextmanager
def shared_cloud(home: Path) -> Iterator[tuple[dict[str, str], list[psutil.Process]]]:
    """Serve the embedded model by two processes; yield what was announced and the followers."""
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--tensor-parallel-size", "2"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--bind", "tcp://127.0.0.1:*", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEARFAR_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        children = psutil.Process(process.pid).children(recursive=True)
        yield told, [child for child in children if "engine.torch.tp_worker" in child.cmdline()]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, "a stopped cloud ends well"
        process.stdout.close()


@pytest.mark.slow
def test_two_processes_serve_one_model_and_leave_with_the_command(tmp_path: Path) -> None:
    with shared_cloud(tmp_path) as (told, followers):
        assert len(followers) == 1
        document = ask((told, tmp_path), "What is 17 + 25?", "--far")
        assert document["route"]["served_by"] == "cloud" and "42" in document["answer"]
    assert not any(child.is_running() for child in followers)


def test_a_model_shared_in_too_many_parts_is_refused_in_one_line(tmp_path: Path) -> None:
    arguments = ("cloud", "serve", "--tensor-parallel-size", "7", "--device", "cpu")
    done = nearfar(*arguments, NEARFAR_HOME=str(tmp_path))
    assert done.returncode == 1 and "cannot be divided by 7" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_replicas_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--replicas", "2", "--json"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--bind", "tcp://127.0.0.1:*"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "NEARFAR_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["endpoint"]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
