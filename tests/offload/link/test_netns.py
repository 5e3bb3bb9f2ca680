"""A cloud behind a real network interface, in a network namespace of Linux, that can be unplugged.

These tests make and remove an interface, so that they need root, and `ip` and `tc` of iproute2.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from offload.errors import CloudUnreachable
from offload.link.client import CloudLink
from offload.link.keys import DeviceList, KeyPair, load_or_make
from tests.offload.links import DEADLINE_S, answer, ask, text_of, until
from tests.offload.storm import CloudProcess, words_of

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not (shutil.which("ip") and shutil.which("tc") and os.geteuid() == 0),
        reason="needs root, and ip and tc of iproute2",
    ),
]

NAMESPACE, HERE, THERE = "nearfar-test", "nearfar-a", "nearfar-b"
ADDRESS, CLOUD_ADDRESS = "10.213.77.1", "10.213.77.2"


def run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command.split(), capture_output=True, text=True, check=False)


def there(command: str) -> str:
    return f"ip netns exec {NAMESPACE} {command}"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[CloudLink]:
    """A cloud in a namespace, and a link to it over a pair of virtual interfaces."""
    take_down()  # of a run that was killed
    done = run(f"ip netns add {NAMESPACE}")
    if done.returncode:
        pytest.skip(f"this machine makes no network namespaces: {done.stderr.strip()}")
    for command in (
        f"ip link add {HERE} type veth peer name {THERE} netns {NAMESPACE}",
        f"ip addr add {ADDRESS}/30 dev {HERE}",
        f"ip link set {HERE} up",
        there(f"ip addr add {CLOUD_ADDRESS}/30 dev {THERE}"),
        there(f"ip link set {THERE} up"),
    ):
        done = run(command)
        assert done.returncode == 0, done.stderr
    keys = KeyPair.new()
    DeviceList(tmp_path / "devices.json").add("laptop", keys.public)
    process = CloudProcess(tmp_path, prefix=there("").split(), endpoint=f"tcp://{CLOUD_ADDRESS}:*")
    try:
        await process.start()
        server_key = load_or_make(tmp_path, "server").public
        link = CloudLink(process.endpoint, server_key=server_key, device_keys=keys)
        yield link
        await link.aclose()
    finally:
        await process.kill()
        take_down()


def take_down() -> None:
    run(f"ip link del {HERE}")  # and with it the other end; the namespace would take its time
    run(f"ip netns del {NAMESPACE}")


def unplug() -> None:
    assert run(there(f"ip link set {THERE} down")).returncode == 0


def plug_in() -> None:
    assert run(there(f"ip link set {THERE} up")).returncode == 0


def shape(discipline: str) -> None:
    """Make the way to the cloud a bad one, in both directions. Skips where the kernel cannot."""
    for command in (
        f"tc qdisc replace dev {HERE} root {discipline}",
        there(f"tc qdisc replace dev {THERE} root {discipline}"),
    ):
        done = run(command)
        if done.returncode:
            kind = discipline.split()[0]
            pytest.skip(f"the kernel has no sch_{kind}: {done.stderr.strip()}")


async def ask_many(link: CloudLink, num_requests: int = 40) -> None:
    """Ask at once, and check that every answer is whole."""
    prompts = [f"q{n}" for n in range(num_requests)]
    answers = await asyncio.wait_for(
        asyncio.gather(*(answer(link, ask(p)) for p in prompts)), 2 * DEADLINE_S
    )
    for prompt, items in zip(prompts, answers, strict=True):
        assert text_of(items) == "".join(words_of(prompt))


async def test_a_cable_pulled_for_a_moment_costs_nothing_but_time(cloud: CloudLink) -> None:
    await cloud.connect()
    unplug()
    asked = asyncio.create_task(ask_many(cloud))
    await until(lambda: cloud.health().in_flight == 40)
    await asyncio.sleep(0.5)  # long enough that TCP has to say it again
    assert not asked.done()
    plug_in()
    await asked


async def test_a_pulled_cable_is_known_and_mended_by_itself(
    cloud: CloudLink,
) -> None:
    await cloud.connect()
    unplug()
    await until(lambda: not cloud.health().alive)
    with pytest.raises(CloudUnreachable):
        await cloud.connect(0.2)
    plug_in()
    assert text_of(await answer(cloud, ask("q1"))) == "".join(words_of("q1"))


async def test_a_narrow_way_is_slow_and_loses_nothing(cloud: CloudLink) -> None:
    await cloud.connect()
    shape("tbf rate 400kbit burst 4kb latency 500ms")
    await ask_many(cloud)


@pytest.mark.parametrize(
    "faults",
    [
        "delay 20ms 5ms",
        "delay 75ms 20ms loss 2%",
        "delay 5ms loss 10%",
        "delay 10ms reorder 25% 50%",
        "duplicate 10%",
        "corrupt 1%",
    ],
)
async def test_a_bad_way_loses_nothing(cloud: CloudLink, faults: str) -> None:
    shape(f"netem {faults}")
    await cloud.connect(10)
    await ask_many(cloud)
