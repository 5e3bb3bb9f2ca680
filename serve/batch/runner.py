"""Batch runner: asks the requests of batches one after another, in the time that readers leave.

Batches of one key run in the order in which they came, those of several keys side by side. A
result is kept as soon as it is known, so that a server that was killed goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Message

from backbone.files import open_private
from offload.asker import asked_by
from offload.config.file_lock import lock
from offload.event_waiting import set_within
from offload.priority import prioritized
from serve.auth import scope_of
from serve.batch.bodies import (
    BatchError,
    BatchErrors,
    BatchLine,
    BatchReply,
    LineReply,
    LineResult,
)
from serve.batch.input_file import check_file, read_lines
from serve.batch.output_files import finalize
from serve.batch.store import BatchStore

_log = logging.getLogger(__name__)
_LOOK_S = 1.0  # between two looks for what other processes have changed
_MOST_WAIT_S = 60.0
_AGAIN = (429, 503)  # statuses of what may be had later


@dataclass
class _Answer:
    status: int = 0
    wait_s: float = 1.0
    body: bytearray = field(default_factory=bytearray)


class BatchRunner:
    """Batch runner of one server; of several over one folder, one at a time runs batches."""

    def __init__(
        self, store: BatchStore, endpoints: Mapping[str, ASGIApp], *, num_at_once: int = 32
    ) -> None:
        """`endpoints` answer the paths of requests; `num_at_once` of each key are asked at once."""
        self._store, self._endpoints, self._num_at_once = store, endpoints, num_at_once
        self._running: dict[str, asyncio.Task[None]] = {}  # by tenant
        self._changed = asyncio.Event()

    def note_change(self) -> None:
        """Look at once: a batch is new, or is to be cancelled."""
        self._changed.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run batches while the block lasts; what is under way at its end is asked again later."""
        task = asyncio.create_task(self._keep_running())
        try:
            yield
        finally:
            tasks = [task, *self._running.values()]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._store.close()

    async def _keep_running(self) -> None:
        with _descriptor(self._store.folder / "runner.lock") as descriptor:
            while not lock(descriptor, wait=False):  # another server runs them
                await asyncio.sleep(_LOOK_S)
            while True:
                try:
                    self._begin_batches()
                except Exception:
                    _log.exception("looking for batches failed; it will be tried again")
                self._changed.clear()
                await set_within(self._changed, _LOOK_S)

    def _begin_batches(self) -> None:
        for tenant, batch in self._store.unfinished():
            if tenant not in self._running:
                task = asyncio.create_task(self._run(tenant, batch.id))
                self._running[tenant] = task
                task.add_done_callback(partial(self._has_ended, tenant))

    def _has_ended(self, tenant: str, _: asyncio.Task[None]) -> None:
        del self._running[tenant]
        self._changed.set()

    async def _run(self, tenant: str, batch_id: str) -> None:
        try:
            batch = await self._validated(tenant, batch_id)
            if batch.status == "in_progress":
                await self._ask_all(tenant, batch)
            await asyncio.to_thread(self._finalize, tenant, batch_id)
        except Exception:
            _log.exception("a batch cannot be run; it will be tried again")
            await asyncio.sleep(_LOOK_S)

    async def _validated(self, tenant: str, batch_id: str) -> BatchReply:
        """Check the input of a new batch, and return it as it then stands."""
        batch = self._store.change_batch(batch_id, lambda _: None)
        if batch.status != "validating":
            return batch
        path = self._store.path_of(batch.input_file_id)
        if path.exists():
            total, errors = await asyncio.to_thread(check_file, path, batch.endpoint)
        else:
            gone = BatchError(code="file_not_found", message="the input file was deleted")
            total, errors = 0, [gone]
        now = self._store.now()

        def change(batch: BatchReply) -> None:
            if batch.status != "validating":
                return
            batch.request_counts.total = total
            if errors:
                batch.status, batch.failed_at, batch.errors = (
                    "failed",
                    now,
                    BatchErrors(data=errors),
                )
            else:
                batch.status, batch.in_progress_at = "in_progress", now

        return self._store.change_batch(batch_id, change)

    async def _ask_all(self, tenant: str, batch: BatchReply) -> None:
        """Ask what has no result yet, until the batch is done, cancelled or too late."""
        done = self._store.done_lines(batch.id)
        path = self._store.path_of(batch.input_file_id)
        lines = ((number, line) for number, line in read_lines(path) if number not in done)
        workers = [
            asyncio.create_task(self._work(tenant, batch, lines)) for _ in range(self._num_at_once)
        ]
        watch = asyncio.create_task(self._until_called_off(batch))
        everyone = asyncio.gather(*workers)
        try:
            await asyncio.wait((everyone, watch), return_when=asyncio.FIRST_COMPLETED)
            if everyone.done():
                everyone.result()  # raises what a worker raised
        finally:
            everyone.cancel()  # and so each worker
            watch.cancel()
            await asyncio.gather(*workers, watch, everyone, return_exceptions=True)

    async def _until_called_off(self, batch: BatchReply) -> None:
        while self._store.now() < batch.expires_at:
            if self._store.change_batch(batch.id, lambda _: None).status != "in_progress":
                return
            await asyncio.sleep(_LOOK_S)

    async def _work(
        self, tenant: str, batch: BatchReply, lines: Iterator[tuple[int, BatchLine]]
    ) -> None:
        for number, line in lines:
            answer = await self._answered(tenant, batch.endpoint, line)
            request_id = uuid.uuid4().hex
            result = LineResult(
                id=f"batch_req_{request_id}",
                custom_id=line.custom_id,
                response=LineReply(
                    status_code=answer.status,
                    request_id=request_id,
                    body=msgspec.Raw(bytes(answer.body)),
                ),
            )
            failed = answer.status != 200
            self._store.add_result(batch.id, number, msgspec.json.encode(result), failed=failed)

    async def _answered(self, tenant: str, path: str, line: BatchLine) -> _Answer:
        """Ask until there is an answer that will not be another one later."""
        while True:
            answer = await self._ask(tenant, path, bytes(line.body))
            if answer.status not in _AGAIN:
                return answer
            await asyncio.sleep(min(answer.wait_s, _MOST_WAIT_S))

    async def _ask(self, tenant: str, path: str, body: bytes) -> _Answer:
        answer, sent = _Answer(), False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # nobody hangs up
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                headers = dict(message["headers"])
                answer.wait_s = float(headers.get(b"retry-after", b"1"))
            else:
                answer.body += message.get("body", b"")

        with asked_by(f"http:{tenant}"), prioritized("batch"):
            await self._endpoints[path](scope_of(tenant, path), receive, send)
        return answer

    def _finalize(self, tenant: str, batch_id: str) -> None:
        """Write the output and error files of a batch, and end it; again where that was cut off.

        It runs in a thread, with a store of its own.
        """
        with contextlib.closing(self._store.another()) as store:
            finalize(store, tenant, batch_id)


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
