"""Who is answered, who waits, who is refused: at once, with a time to come again, and fairly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from offload.errors import Overloaded
from offload.link.quota import Quota, QuotaMeter
from offload.messages import Delta, Finish, Request, Sampling, Usage
from serve.admission import Admission
from serve.http_errors import TooMany
from serve.metrics import Metrics
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, asked_chats, error_of, listening, near
from tests.serve.test_server import open_raw

ALICE, BOB = "a" * 32, "b" * 32
KEYS = (f"alice:{ALICE}", f"bob:{BOB}")


def admission_of(quota: Quota | None = None, **more: Any) -> Admission:
    meter = QuotaMeter(quota or Quota(), who="this key", clock=lambda: 0.0)
    return Admission(
        **{"max_running": 1, "max_queued": 1, "meter": meter, **more}, metrics=Metrics()
    )


def as_user(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def hold(admission: Admission, tenant: str, done: asyncio.Event, log: list[str]) -> None:
    async with admission.place(tenant):
        log.append(tenant)
        await done.wait()


async def settle(holds: Callable[[], bool]) -> None:
    async def look() -> None:
        while not holds():
            await asyncio.sleep(0)

    await asyncio.wait_for(look(), 60)


async def test_turns_go_round_between_tenants() -> None:
    admission, done, log = admission_of(max_queued=3), asyncio.Event(), []
    tasks = []
    for tenant in ("alice", "alice", "alice", "bob"):
        tasks.append(asyncio.create_task(hold(admission, tenant, done, log)))
        await asyncio.sleep(0)
    assert (admission.num_running, admission.num_queued) == (1, 3)
    done.set()
    await asyncio.gather(*tasks)
    assert log == ["alice", "alice", "bob", "alice"]
    assert (admission.num_running, admission.num_queued) == (0, 0)


async def test_one_tenant_never_holds_all_places() -> None:
    admission, done, log = admission_of(max_running=4, max_queued=9), asyncio.Event(), []
    tasks = [asyncio.create_task(hold(admission, "alice", done, log)) for _ in range(8)]
    await settle(lambda: admission.num_queued == 5)
    tasks.append(asyncio.create_task(hold(admission, "bob", done, log)))
    await settle(lambda: "bob" in log)
    assert log == ["alice"] * 3 + ["bob"] and admission.num_running == 4
    done.set()
    await asyncio.gather(*tasks)
    assert log.count("alice") == 8 and (admission.num_running, admission.num_queued) == (0, 0)


async def test_where_there_are_no_keys_all_places_are_anyones() -> None:
    admission, done = admission_of(max_running=4), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, "anyone", done, [])) for _ in range(4)]
    await settle(lambda: admission.num_running == 4)
    done.set()
    await asyncio.gather(*tasks)


async def test_one_tenants_full_queue_is_not_anothers() -> None:
    admission, done = admission_of(), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, "alice", done, [])) for _ in range(2)]
    await settle(lambda: admission.num_queued == 1)
    with pytest.raises(TooMany) as refused:
        admission.check("alice")
    assert isinstance(refused.value, Overloaded) and refused.value.retry_after_s > 0
    admission.check("bob")
    done.set()
    await asyncio.gather(*tasks)
    admission.check("alice")


@pytest.mark.parametrize("when", ["waiting", "given"])
async def test_who_leaves_the_queue_leaves_no_hole(when: str) -> None:
    admission, done = admission_of(max_queued=2), asyncio.Event()
    first = asyncio.create_task(hold(admission, "alice", done, []))
    second = asyncio.create_task(hold(admission, "alice", done, []))
    await settle(lambda: admission.num_queued == 1)
    if when == "given":
        done.set()
        await settle(lambda: admission.num_queued == 0)
    second.cancel()
    done.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (admission.num_running, admission.num_queued) == (0, 0)


def test_tokens_are_counted_as_they_come_and_once() -> None:
    quota = Quota(tokens_per_day=5)
    admission = admission_of(quota)
    asked = Request(prompt="hi", sampling=Sampling(max_tokens=3))
    account = admission.account("alice", asked)
    account.see(Delta(text="a", token_ids=(1, 2)))
    admission.check("alice")
    account.see(Finish(reason="stop", usage=Usage(prompt_tokens=2, completion_tokens=3)))
    with pytest.raises(TooMany, match="this key has used its 5 tokens of the day"):
        admission.check("alice")


async def test_a_budget_is_not_passed_by_asking_at_once_nor_by_leaving_at_once() -> None:
    admission = admission_of(Quota(tokens_per_day=12), max_running=8)
    asked = [Request(prompt="x" * 9, sampling=Sampling(max_tokens=10))]  # 4 tokens to read
    async with admission.place("alice", asked):
        with pytest.raises(TooMany, match="answers under way"):
            admission.check("alice")
    for _ in range(2):  # each left before it said a word
        async with admission.place("alice", asked):
            pass
    with pytest.raises(TooMany, match="has used its 12 tokens"):
        admission.check("alice")


async def test_overload_is_answered_by_429_and_not_by_waiting() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    options = ServeOptions(port=0, max_running=1, max_queued=0)
    async with listening(engine, options) as server, httpx.AsyncClient(timeout=60) as client:
        await client.get(server.url + "/health")  # the connection is there
        _, writer = await open_raw(server.url, ASK)
        await engine.until(lambda: bool(asked_chats(engine)))
        first = asked_chats(engine)[0].id
        response = await client.post(server.url + CHAT, json=ASK)
        assert response.status_code == 429 and first in engine.running
        assert error_of(response)["code"] == "rate_limit_exceeded"
        assert int(response.headers["retry-after"]) >= 1
        writer.close()
        await engine.until(lambda: first not in engine.running)
        # The place is free again: the next request reaches the engine.
        asking = asyncio.create_task(client.post(server.url + CHAT, json=ASK))
        await engine.until(lambda: len(asked_chats(engine)) == 2)
        asking.cancel()


async def test_a_key_that_asks_too_fast_waits_and_others_do_not() -> None:
    quota = Quota(requests_per_s=0.01, burst_s=100)
    options = ServeOptions(api_keys=KEYS, quota=quota)
    async with near(ScriptedEngine(), options) as client:
        first = await client.post(CHAT, json=ASK, headers=as_user(ALICE))
        second = await client.post(CHAT, json=ASK, headers=as_user(ALICE))
        other = await client.post(CHAT, json=ASK, headers=as_user(BOB))
        page = (await client.get("/metrics", headers=as_user(BOB))).text
    assert [r.status_code for r in (first, second, other)] == [200, 429, 200]
    assert 90 <= int(second.headers["retry-after"]) <= 100
    assert 'nearfar:tenant_requests_total{tenant="alice"} 1.0' in page
    assert 'nearfar:tenant_tokens_total{tenant="bob"} 3.0' in page
    assert ALICE not in page


async def test_a_refused_request_is_not_even_read() -> None:
    options = ServeOptions(quota=Quota(requests_per_day=1))
    async with near(ScriptedEngine(), options) as client:
        await client.post(CHAT, json=ASK)
        response = await client.post(CHAT, content=b"{no json")
    assert response.status_code == 429
