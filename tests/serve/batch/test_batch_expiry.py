"""A batch whose time is up: what was answered is kept, and the rest is told, each by its id."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from starlette.types import Receive, Scope, Send

from serve.batch.bodies import BatchReply, LineResult
from serve.batch.runner import BatchRunner
from serve.batch.store import BatchStore
from tests.serve.batch.test_batches import CHAT, lines
from tests.waiting import until

_DAY_S = 24 * 3600


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Endpoint:
    """Answers so many requests, and leaves the others waiting."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        self.left -= 1
        if self.left < 0:
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"said": 1}'})


def batch_of(store: BatchStore, count: int) -> BatchReply:
    file_id, path = store.new_file_path()
    path.write_bytes(lines(count))
    store.add_file("me", file_id, filename="in.jsonl", purpose="batch")
    now = store.now()
    batch = BatchReply(
        id="batch_1",
        endpoint=CHAT,
        input_file_id=file_id,
        completion_window="24h",
        status="validating",
        created_at=now,
        expires_at=now + _DAY_S,
    )
    store.add_batch("me", batch)
    return batch


def told(store: BatchStore, file_id: str | None) -> dict[str, LineResult]:
    assert file_id is not None
    rows = store.path_of(file_id).read_bytes().splitlines()
    return {
        each.custom_id: each for each in (msgspec.json.decode(r, type=LineResult) for r in rows)
    }


def state(store: BatchStore) -> BatchReply:
    found = store.batch("me", "batch_1")
    assert found is not None
    return found


async def test_what_was_answered_in_time_is_kept_and_the_rest_is_told(tmp_path: Path) -> None:
    clock, endpoint = Clock(), Endpoint(2)
    store = BatchStore(tmp_path, wall=clock)
    batch = batch_of(store, 5)
    async with BatchRunner(store, {CHAT: endpoint}, num_at_once=2).running():
        await until(lambda: state(store).request_counts.completed == 2 and endpoint.asked == 4)
        clock.now += _DAY_S - 1
        assert state(store).status == "in_progress"
        clock.now += 1
        await until(lambda: state(store).status == "expired")
    ended = state(store)
    assert ended.expired_at == batch.expires_at and ended.completed_at is None
    assert (ended.request_counts.completed, ended.request_counts.total) == (2, 5)
    kept, rest = told(store, ended.output_file_id), told(store, ended.error_file_id)
    assert sorted({*kept, *rest}) == [f"q{n}" for n in range(5)] and len(kept) == 2
    assert {each.error.code for each in rest.values() if each.error} == {"batch_expired"}
    store.close()


async def test_a_batch_that_lay_too_long_while_nothing_ran_expires(tmp_path: Path) -> None:
    clock, endpoint = Clock(), Endpoint(0)
    store = BatchStore(tmp_path, wall=clock)
    batch_of(store, 3)
    clock.now += 2 * _DAY_S
    async with BatchRunner(store, {CHAT: endpoint}).running():
        await until(lambda: state(store).status == "expired")
    assert state(store).output_file_id is None and len(told(store, state(store).error_file_id)) == 3
    store.close()
