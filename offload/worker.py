"""Worker: a thread that owns a model, with a fair queue, and its iterators bridged to asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from offload.asker import asker
from offload.cancellation import Cancellation
from offload.errors import EngineStopped

T = TypeVar("T")

_END: Any = object()
_CLOSED = "this engine is closed; load the model again"


@dataclass(kw_only=True)
class _Job:
    who: str  # for whom it works, see offload/asker.py
    run: Callable[[], None]
    done: Future[None] = field(default_factory=Future)


class FairQueue:
    """Fair queue of jobs by who asks: the next is of whoever has fewest running.

    Among equals it is the one served longest ago, so that whoever asks a thousand times makes
    another wait for one answer at most, and not for a thousand.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[_Job]] = {}
        self._running: Counter[str] = Counter()
        self._turns = 0
        self._last_turn: dict[str, int] = {}  # of those who wait or are served; who is new has none

    def put(self, job: _Job) -> None:
        """Let a job wait for its turn."""
        with self._lock:
            self._waiting.setdefault(job.who, deque()).append(job)

    def take(self) -> _Job | None:
        """Return the next job, or None where none waits; done() must follow."""
        with self._lock:
            if not self._waiting:
                return None
            who = min(
                self._waiting,
                key=lambda each: (self._running[each], self._last_turn.get(each, -1)),
            )
            self._turns += 1
            self._last_turn[who] = self._turns
            job = self._waiting[who].popleft()
            if not self._waiting[who]:
                del self._waiting[who]
            self._running[who] += 1
            return job

    def done(self, job: _Job) -> None:
        """Take note that a job has ended."""
        with self._lock:
            self._running[job.who] -= 1
            if not self._running[job.who]:
                del self._running[job.who]
                if job.who not in self._waiting:
                    del self._last_turn[job.who]

    def clear(self) -> list[_Job]:
        """Return all that waits, which waits no longer."""
        with self._lock:
            jobs = [job for each in self._waiting.values() for job in each]
            self._waiting.clear()
            return jobs


class Worker(Generic[T]):
    """Worker that runs blocking generators, one after another in a thread or a few at once.

    Whoever asks has a fair share: see FairQueue. Both runtimes release the interpreter lock while
    they compute, so the event loop stays quick.
    """

    def __init__(self, name: str, *, num_threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix=name)
        self._queue = FairQueue()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def stream(
        self, start: Callable[[threading.Event], Iterator[T]]
    ) -> AsyncGenerator[T, None]:
        """Yield what `start(cancelled)` yields; leaving early sets `cancelled` and waits for it.

        The iterator should look at the event between steps. Its exceptions are raised here, and
        EngineStopped where the worker was closed before it began.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[T] = asyncio.Queue()
        cancelled = Cancellation()

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

        def ended(done: asyncio.Future[None]) -> None:
            # Looked at here too: a reader who is cancelled twice never asks for the exception, and
            # asyncio would log it with the text that may stand in it.
            _ = done.cancelled() or done.exception()
            queue.put_nowait(_END)

        # By callback, since a job that close() took out of the queue never runs.
        job.add_done_callback(ended)
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
        job = _Job(who=asker(), run=run)
        self._queue.put(job)
        try:
            self._pool.submit(self._run_next)
        except RuntimeError:  # the pool is shut
            raise EngineStopped(_CLOSED) from None
        return asyncio.wrap_future(job.done, loop=loop)

    def _run_next(self) -> None:
        """Run the job whose turn it is, which need not be the one that this call was made for."""
        job = self._queue.take()
        if job is None:
            return
        try:
            if job.done.set_running_or_notify_cancel():
                job.run()
                job.done.set_result(None)
        except BaseException as error:  # it is raised where the stream is read
            job.done.set_exception(error)
        finally:
            self._queue.done(job)

    def close(self) -> None:
        """Let the threads end after what they are doing now; what waits is cancelled."""
        for job in self._queue.clear():
            job.done.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
