"""One thread that owns a model, and a bridge from its blocking iterator to asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from offload.errors import EngineStopped

T = TypeVar("T")

_END: Any = object()
_CLOSED = "this engine is closed; load the model again"


class Worker(Generic[T]):
    """Runs blocking generators one after another in a single thread, or in a few at once.

    Both runtimes release the interpreter lock while they compute, so the event loop stays quick.
    """

    def __init__(self, name: str, *, num_threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix=name)

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def stream(self, start: Callable[[threading.Event], Iterator[T]]) -> AsyncIterator[T]:
        """Yield what `start(cancelled)` yields; leaving early sets `cancelled` and waits for it.

        The iterator should look at the event between steps. Its exceptions are raised here, and
        EngineStopped where the worker was closed before it began.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[T] = asyncio.Queue()
        cancelled = threading.Event()

        def put(item: T) -> None:
            # The loop may be gone when the program is stopped in mid-answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def run() -> None:
            if not cancelled.is_set():
                for item in start(cancelled):
                    put(item)
                    if cancelled.is_set():
                        break

        job = self._begin(loop, run)
        # By callback, since a job that close() took out of the queue never runs.
        job.add_done_callback(lambda _: queue.put_nowait(_END))
        try:
            while (item := await queue.get()) is not _END:
                yield item
        finally:
            cancelled.set()
            # A reader who is cancelled while waiting here does not cancel the job itself.
            await asyncio.wait([job])
            if job.cancelled():
                raise EngineStopped(_CLOSED)
            job.result()

    def _begin(
        self, loop: asyncio.AbstractEventLoop, run: Callable[[], None]
    ) -> asyncio.Future[None]:
        try:
            return loop.run_in_executor(self._pool, run)
        except RuntimeError:  # the pool is shut
            raise EngineStopped(_CLOSED) from None

    def close(self) -> None:
        """Let the thread end after what it is doing now."""
        self._pool.shutdown(wait=True, cancel_futures=True)
