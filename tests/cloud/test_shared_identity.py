"""Two servers of one identity: a device moves between them, and its budget is one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.errors import CloudBusy, CloudUnreachable
from offload.link.client import CloudLink
from offload.link.keys import read_pair
from offload.link.local_keys import device_keys
from offload.link.pool import CloudPool
from offload.messages import Delta, Finish, Request, Sampling
from tests.cloud.commands import ROOT, nearfar

BUDGET = 4


def asked(text: str = "hi", max_tokens: int = 1) -> Request:
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
    return Request(prompt=text, sampling=sampling)


@contextlib.contextmanager
def server(home: Path, secret: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """One of several servers over one volume, with a secret that is mounted for all to read."""
    command = "nearfar cloud serve --bind tcp://127.0.0.1:* --json"
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "NEARFAR_HOME": str(home),
            "NEARFAR_SERVE_LINK_KEYS": str(secret),
            "NEARFAR_QUOTA_REQUESTS_PER_DAY": str(BUDGET),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        assert told["server_key"] == read_pair(secret).public
        yield told["endpoint"], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_a_device_moves_between_two_servers_in_mid_answer(tmp_path: Path) -> None:
    home, secret, device = tmp_path / "volume", tmp_path / "server.json", tmp_path / "device"
    made = nearfar("link", "key", "--new-server", str(secret))
    assert made.stdout.strip() == read_pair(secret).public
    secret.chmod(0o444)  # as a mounted secret is
    with server(home, secret) as (first, process), server(home, secret) as (second, _):
        shared = {"NEARFAR_HOME": str(home), "NEARFAR_SERVE_LINK_KEYS": str(secret)}
        invited = nearfar("link", "invite", "laptop", first, "--json", **shared)
        line = json.loads(invited.stdout)["invite"]
        assert nearfar("link", "join", line, NEARFAR_HOME=str(device)).returncode == 0
        keys = device_keys(device / "data" / "keys")
        links = [
            CloudLink(each, server_key=made.stdout.strip(), device_keys=keys, patience_s=0)
            for each in (first, second)
        ]
        async with contextlib.aclosing(CloudPool(links, draw=lambda: 0.5)) as pool:
            await links[0].connect()
            items = links[0].generate(asked("Count:", 200))
            assert isinstance(await anext(items), Delta)
            process.kill()
            with pytest.raises(CloudUnreachable):
                async for _ in items:
                    pass
            for _ in range(BUDGET - 1):  # the second server lets the same device in, at once
                ends = [item async for item in pool.generate(asked())]
                assert isinstance(ends[-1], Finish) and ends[-1].error is None
            with pytest.raises(CloudBusy, match="used its 4 requests of the day"):
                async for _ in pool.generate(asked()):
                    pass


@pytest.mark.parametrize("content", [None, "{}", "no keys"])
def test_a_secret_that_is_none_is_one_line(content: str | None, tmp_path: Path) -> None:
    secret = tmp_path / "server.json"
    if content is not None:
        secret.write_text(content)
    told = {"NEARFAR_HOME": str(tmp_path / "home"), "NEARFAR_SERVE_LINK_KEYS": str(secret)}
    done = nearfar("link", "invite", "laptop", "tcp://10.0.0.1:7070", **told)
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1
    assert "nearfar link key --new-server FILE" in done.stderr


def test_a_key_pair_is_never_written_over(tmp_path: Path) -> None:
    secret = tmp_path / "server.json"
    assert nearfar("link", "key", "--new-server", str(secret)).returncode == 0
    before = secret.read_bytes()
    again = nearfar("link", "key", "--new-server", str(secret))
    assert again.returncode in (1, 2) and "is there already" in again.stderr
    assert secret.read_bytes() == before and not secret.stat().st_mode & 0o077
