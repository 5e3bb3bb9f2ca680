"""A cloud in a process of its own, killed and started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from offload.errors import CloudUnreachable
from offload.link.client import CloudLink
from offload.link.keys import DeviceList, KeyPair, load_or_make
from tests.offload.links import DEADLINE_S, answer, ask, text_of, until
from tests.offload.storm import CloudProcess, words_of

LONG = next(f"q{n}" for n in range(1000) if len(words_of(f"q{n}")) == 39)


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[tuple[CloudProcess, CloudLink]]:
    keys = KeyPair.new()
    DeviceList(tmp_path / "devices.json").add("laptop", keys.public)
    process = CloudProcess(tmp_path)
    await process.start(says=3)
    server_key = load_or_make(tmp_path, "server").public
    link = CloudLink(process.endpoint, server_key=server_key, device_keys=keys)
    yield process, link
    await link.aclose()
    await process.kill()


async def test_a_killed_cloud_is_known_at_once_and_found_again_when_it_is_back(
    cloud: tuple[CloudProcess, CloudLink],
) -> None:
    process, link = cloud
    items = link.generate(ask(LONG, id="first"))
    await anext(items)  # type: ignore[arg-type]
    await process.kill()
    await until(lambda: not link.health().alive)
    await process.start()
    with pytest.raises(CloudUnreachable) as caught:
        async for _ in items:
            pass
    assert caught.value.bytes_sent > 0
    assert text_of(await answer(link, ask(LONG, id="second"))) == "".join(words_of(LONG))
    assert process.executions() == {"first": 1, "second": 1}


async def test_requests_in_flight_when_a_cloud_is_killed_run_at_most_once(
    cloud: tuple[CloudProcess, CloudLink],
) -> None:
    process, link = cloud
    await link.connect()
    tasks = [asyncio.create_task(answer(link, ask(LONG, id=f"{n}"))) for n in range(20)]
    await until(lambda: len(process.executions()) == 20)
    await process.kill()
    await process.start()
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE_S)
    assert {type(end) for end in ends} == {CloudUnreachable}
    assert set(process.executions().values()) == {1}
