"""Many requests from several devices to a cloud behind a bad network, and an account of each.

The cloud is a process of its own, so that it can be killed in mid-answer. What it runs is noted in
a file, one line for each execution, and every answer can be told from the prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from offload.errors import LinkError
from offload.link.client import CloudLink
from offload.link.health import HeartbeatTimes
from offload.link.keys import DeviceList, KeyPair, load_or_make
from offload.link.server import LinkServer
from offload.messages import Delta, Finish, Request
from tests.offload.chaos import Chaos
from tests.offload.scripted import ScriptedEngine

NUM_DEVICES = 4
HUNG_AFTER_S = 60.0
NEAR_S = 0.1  # what the device takes to answer itself
_ROOT = Path(__file__).parents[2]


def words_of(prompt: str) -> list[str]:
    """Return what the cloud has to say to a prompt."""
    return [f"{prompt}.{step} " for step in range(zlib.crc32(prompt.encode()) % 40)]


@dataclass
class Account:
    """What became of the requests: from_cloud and near are good ends, the next four must be 0."""

    from_cloud: int = 0
    near: int = 0  # the link said that it could not, and the device answered itself
    wrong: int = 0
    hung: int = 0
    ran_twice: int = 0
    broke: int = 0  # an exception that is none of the link's
    num_connections: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def num_requests(self) -> int:
        return self.from_cloud + self.near + self.wrong + self.hung + self.broke

    @property
    def is_good(self) -> bool:
        """Whether none was lost, doubled, garbled or left hanging."""
        return not (self.wrong or self.hung or self.ran_twice or self.broke)

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"faults": dict(self.faults)}


class CloudProcess:
    """A scripted cloud that can be killed and comes back at the same address.

    `prefix` goes before its command, as to run it in a network namespace.
    """

    def __init__(self, folder: Path, *, prefix: Sequence[str] = (), endpoint: str = "") -> None:
        self._folder = folder
        self._prefix = prefix
        self._process: asyncio.subprocess.Process | None = None
        self.endpoint = endpoint
        self.log = folder / "executed"

    async def start(self, *, says: int | None = None) -> None:
        """Start it; with `says` it stops after so many pieces of each answer, and never ends."""
        own = [sys.executable, "-m", "tests.offload.storm", str(self._folder), self.endpoint]
        command = [*self._prefix, *own, *([f"--says={says}"] if says is not None else [])]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=_ROOT
        )
        assert self._process.stdout is not None, "its output is piped"
        line = await asyncio.wait_for(self._process.stdout.readline(), 120)
        self.endpoint = line.decode().strip()

    async def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None

    def executions(self) -> Counter[str]:
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()


async def storm(
    folder: Path,
    *,
    num_requests: int,
    num_at_once: int = 64,
    seed: int = 0,
    limit_s: float = 3600.0,
    enough: Callable[[Account], bool] = lambda account: False,
    account: Account | None = None,
    on_progress: Callable[[Account], None] = lambda account: None,
) -> Account:
    """Ask so many requests under a random schedule of faults and return the account.

    It ends early when the account shows `enough`; where one is given, it is gone on with.
    """
    account, began = account or Account(), time.monotonic()
    server_key, device_keys = load_or_make(folder, "server").public, _make_devices(folder)
    cloud = CloudProcess(folder)
    await cloud.start()
    async with Chaos(cloud.endpoint) as chaos:
        links = [
            CloudLink(
                chaos.endpoint,
                server_key=server_key,
                device_keys=keys,
                connect_timeout_s=1.0,
                patience_s=2.0,
                times=HeartbeatTimes(ping_after_s=0.1, dead_after_s=0.5),
            )
            for keys in device_keys
        ]
        weather = asyncio.create_task(_weather(chaos, cloud, account, random.Random(seed)))
        numbers, connections_before = iter(range(num_requests)), account.num_connections

        async def ask_on(link: CloudLink) -> None:
            for number in numbers:
                if enough(account) or time.monotonic() - began > limit_s:
                    break
                await _ask(link, f"{seed}-{number}", account)
                account.num_connections = connections_before + chaos.num_connections
                on_progress(account)

        await asyncio.gather(*(ask_on(links[n % NUM_DEVICES]) for n in range(num_at_once)))
        weather.cancel()
        await asyncio.gather(weather, return_exceptions=True)
        for link in links:
            await link.aclose()
    await cloud.kill()
    account.ran_twice += sum(count - 1 for count in cloud.executions().values())
    account.seconds = round(account.seconds + time.monotonic() - began, 1)
    return account


async def _ask(link: CloudLink, prompt: str, account: Account) -> None:
    try:
        said = await asyncio.wait_for(_read(link, prompt), HUNG_AFTER_S)
    except LinkError:
        account.near += 1
        await asyncio.sleep(NEAR_S)
    except asyncio.TimeoutError:
        account.hung += 1
    except Exception as error:
        account.broke += 1
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    else:
        if said == words_of(prompt):
            account.from_cloud += 1
        else:
            account.wrong += 1


async def _read(link: CloudLink, prompt: str) -> list[str]:
    said: list[str] = []
    request = Request(id=prompt, prompt=prompt)
    async with contextlib.aclosing(link.generate(request)) as items:  # type: ignore[type-var]
        async for item in items:
            if isinstance(item, Delta):
                assert item.index == len(said), "a piece is missing or came twice"
                said.append(item.text)
            elif isinstance(item, Finish):
                assert item.reason == "stop", item.reason
    return said


async def _weather(
    chaos: Chaos, cloud: CloudProcess, account: Account, draw: random.Random
) -> None:
    """One fault after another, with calm between."""
    faults: Sequence[str] = (
        *("cut", "delay", "slow", "stall", "blackhole", "half_open", "refuse"),
        *("reorder", "corrupt", "duplicate", "kill"),
    )
    while True:
        fault = draw.choice(faults)
        account.faults[fault] += 1
        if fault == "cut":
            chaos.cut()
        elif fault == "delay":
            chaos.delay_s = draw.choice((0.0025, 0.020, 0.075))
            chaos.jitter_s = chaos.delay_s / 4
        elif fault == "slow":
            chaos.bytes_per_s = draw.choice((20_000, 200_000))
        elif fault == "kill":
            await cloud.kill()
            await asyncio.sleep(draw.uniform(0.0, 0.5))
            await cloud.start()
        else:
            setattr(chaos, fault, True)
            if fault in ("refuse", "duplicate"):
                chaos.cut()
        await asyncio.sleep(draw.uniform(0.05, 1.0))
        chaos.calm()
        await asyncio.sleep(draw.uniform(0.05, 0.5))


def _make_devices(folder: Path) -> list[KeyPair]:
    pairs = [KeyPair.new() for _ in range(NUM_DEVICES)]
    devices = DeviceList(folder / "devices.json")
    for number, pair in enumerate(pairs):
        devices.add(f"device {number}", pair.public)
    return pairs


async def _serve(folder: Path, endpoint: str, says: int | None) -> None:
    log = os.open(folder / "executed", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def script(request: Request) -> list[str]:
        os.write(log, f"{request.id}\n".encode())
        return words_of(request.last_text())

    hold = asyncio.Event() if says is not None else None
    engine = ScriptedEngine(
        script=script,
        pause_s=0.002,
        hold=hold,
        hold_before=says or 0,
        finish=Finish(reason="stop"),
    )
    server = LinkServer(
        engine,
        endpoint or "tcp://127.0.0.1:0",
        keys=load_or_make(folder, "server"),
        devices=DeviceList(folder / "devices.json"),
        peer_silence_s=1.0,
    )
    await server.start()
    print(server.endpoint, flush=True)
    # Whoever started it holds its input open, so that it never outlives them.
    await asyncio.to_thread(sys.stdin.read)
    await server.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("endpoint")
    parser.add_argument("--says", type=int)
    options = parser.parse_args()
    asyncio.run(_serve(options.folder, options.endpoint, options.says))
