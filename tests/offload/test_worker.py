from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from offload.asker import asked_by
from offload.errors import EngineStopped
from offload.worker import FairQueue, Worker, _Job


@pytest.fixture
async def worker() -> AsyncIterator[Worker[int]]:
    made: Worker[int] = Worker("test")
    yield made
    made.close()


def counting(cancelled: threading.Event) -> Iterator[int]:
    yield from range(5)


async def test_items_arrive_in_order_and_the_stream_ends(worker: Worker[int]) -> None:
    assert [item async for item in worker.stream(counting)] == [0, 1, 2, 3, 4]


async def test_everything_runs_in_one_thread(worker: Worker[int]) -> None:
    def where(cancelled: threading.Event) -> Iterator[int]:
        yield threading.get_ident()

    seen = {item async for item in worker.stream(where)} | {await worker.call(threading.get_ident)}
    assert len(seen) == 1
    assert threading.get_ident() not in seen


async def test_an_error_is_raised_where_the_stream_is_read(worker: Worker[int]) -> None:
    def breaking(cancelled: threading.Event) -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("in the thread")

    seen = []
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        async for item in worker.stream(breaking):
            seen.append(item)
    assert seen == [1]
    assert [item async for item in worker.stream(counting)] == [0, 1, 2, 3, 4]


async def test_leaving_early_closes_the_iterator_before_it_returns(worker: Worker[int]) -> None:
    closed_in: list[int] = []

    def endless(cancelled: threading.Event) -> Iterator[int]:
        try:
            while not cancelled.is_set():
                yield 1
        finally:
            closed_in.append(threading.get_ident())

    async with contextlib.aclosing(worker.stream(endless)) as items:
        await anext(items)
    assert closed_in == [await worker.call(threading.get_ident)]


async def test_an_iterator_that_does_not_look_is_closed_all_the_same(worker: Worker[int]) -> None:
    closed = threading.Event()

    def stubborn(cancelled: threading.Event) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = worker.stream(stubborn)
    await anext(items)
    await items.aclose()
    assert closed.wait(60)


async def test_a_cancelled_reader_stops_the_thread(worker: Worker[int]) -> None:
    started, stopped = threading.Event(), threading.Event()

    def waiting(cancelled: threading.Event) -> Iterator[int]:
        started.set()
        cancelled.wait(60)
        stopped.set()
        yield from ()

    async def read() -> None:
        async for _ in worker.stream(waiting):
            pass

    task = asyncio.create_task(read())
    await asyncio.to_thread(started.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_a_stream_cancelled_while_it_queues_never_starts(worker: Worker[int]) -> None:
    hold, started = threading.Event(), []

    def holding(cancelled: threading.Event) -> Iterator[int]:
        yield 1
        hold.wait(60)

    def second(cancelled: threading.Event) -> Iterator[int]:
        started.append(1)
        yield 2

    first = worker.stream(holding)
    await anext(first)
    queued = asyncio.create_task(anext(worker.stream(second)))
    await asyncio.sleep(0)
    queued.cancel()
    await asyncio.sleep(0)
    hold.set()
    with pytest.raises(asyncio.CancelledError):
        await queued
    await first.aclose()
    assert await worker.call(lambda: 7) == 7
    assert started == []


async def test_two_streams_take_turns_and_do_not_mix(worker: Worker[int]) -> None:
    async def read() -> list[int]:
        return [item async for item in worker.stream(counting)]

    assert await asyncio.gather(read(), read(), read()) == [[0, 1, 2, 3, 4]] * 3


async def test_a_slow_reader_does_not_stop_the_loop(worker: Worker[int]) -> None:
    release = threading.Event()

    def blocked(cancelled: threading.Event) -> Iterator[int]:
        release.wait(60)
        yield 1

    task = asyncio.ensure_future(anext(items := worker.stream(blocked)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    release.set()
    assert await task == 1
    await items.aclose()


async def test_a_stream_that_waits_when_the_worker_closes_is_told_so() -> None:
    worker: Worker[int] = Worker("test")
    going = threading.Event()

    def blocking(cancelled: threading.Event) -> Iterator[int]:
        yield 1
        going.wait(60)

    async def read(start: object) -> list[int]:
        return [item async for item in worker.stream(start)]  # type: ignore[arg-type]

    first = worker.stream(blocking)
    assert await anext(first) == 1
    waiting = asyncio.ensure_future(read(counting))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(asyncio.to_thread(worker.close))
    with pytest.raises(EngineStopped, match="closed"):
        await asyncio.wait_for(waiting, 60)
    going.set()
    assert [item async for item in first] == []
    await closing
    with pytest.raises(EngineStopped, match="closed"):
        await read(counting)


async def test_who_asks_once_waits_for_one_answer_of_who_asks_often() -> None:
    worker: Worker[str] = Worker("test")
    go, order = threading.Event(), []

    def answer(name: str) -> Callable[[threading.Event], Iterator[str]]:
        def run(cancelled: threading.Event) -> Iterator[str]:
            go.wait()
            order.append(name)
            yield name

        return run

    async def ask(who: str, name: str) -> None:
        with asked_by(who):
            assert [item async for item in worker.stream(answer(name))] == [name]

    many = [asyncio.create_task(ask("busy", f"busy {number}")) for number in range(20)]
    await asyncio.sleep(0)
    late = [asyncio.create_task(ask(who, who)) for who in ("new", "newer")]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*many, *late)
    assert order[:4] == ["busy 0", "new", "newer", "busy 1"]
    assert order[4:] == [f"busy {number}" for number in range(2, 20)]
    worker.close()


def test_a_free_thread_goes_to_whoever_has_fewest_running() -> None:
    queue = FairQueue()
    for who in ("a", "a", "a", "b", "b"):
        queue.put(_Job(who=who, run=lambda: None))
    first, second, third = queue.take(), queue.take(), queue.take()
    assert [job.who for job in (first, second, third) if job] == ["a", "b", "a"]
    assert second is not None
    queue.done(second)
    fourth = queue.take()
    assert fourth is not None and fourth.who == "b"
    assert [job.who for job in queue.clear()] == ["a"] and queue.take() is None


async def test_an_error_that_nobody_waits_for_is_never_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker: Worker[int] = Worker("test")
    begun, go = threading.Event(), threading.Event()

    def breaking(cancelled: threading.Event) -> Iterator[int]:
        yield 1
        begun.set()
        go.wait()
        raise ValueError("the private text")

    async def read() -> None:
        async for _ in worker.stream(breaking):
            pass

    reader = asyncio.create_task(read())
    await asyncio.to_thread(begun.wait)
    for _ in range(2):  # the second time it no longer waits for the thread
        reader.cancel()
        await asyncio.sleep(0)
    go.set()
    with pytest.raises((asyncio.CancelledError, ValueError)):
        await reader
    await worker.call(lambda: 0)  # the thread is done with it
    await asyncio.sleep(0)
    gc.collect()
    assert "private text" not in caplog.text
    worker.close()
