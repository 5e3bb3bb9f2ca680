"""A proxy between two real sockets that does what bad networks do, when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import random
from urllib.parse import urlsplit


class Chaos:
    """Forwards TCP to `target`, connection by connection, with faults that can change at any time.

    `delay_s` is added one way and `jitter_s` at most on top of it; `bytes_per_s` caps each
    direction; `stall` holds everything back, as TCP does while it repairs a loss; `blackhole`
    swallows all that comes and says nothing; `half_open` swallows only what the target says;
    `reorder` swaps the halves of what it reads, and `corrupt` turns a bit of it; `duplicate` says
    all that a new connection says a second time, over a connection of its own.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 0)
        self.delay_s = 0.0
        self.jitter_s = 0.0
        self.stall = False
        self.reorder = False
        self.corrupt = False
        self.duplicate = False
        self.bytes_per_s: float | None = None
        self.blackhole = False
        self.half_open = False
        self.refuse = False
        self.num_connections = 0
        self.bytes_forwarded = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Chaos:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await self._server.wait_closed()

    def calm(self) -> None:
        """End every fault."""
        self.delay_s = self.jitter_s = 0.0
        self.bytes_per_s = None
        self.stall = self.blackhole = self.half_open = self.refuse = False
        self.reorder = self.corrupt = self.duplicate = False

    def retarget(self, target: str) -> None:
        """Send new connections elsewhere."""
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 0)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._writers.add(writer)
        try:
            if self.refuse:
                return
            try:
                far_reader, far_writer = await asyncio.open_connection(*self._target)
            except OSError:
                return
            self._writers.add(far_writer)
            ways = [
                asyncio.create_task(self._carry(reader, far_writer, from_target=False)),
                asyncio.create_task(self._carry(far_reader, writer, from_target=True)),
            ]
            self._tasks.update(ways)
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                self._tasks.difference_update(ways)
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_target: bool
    ) -> None:
        """Read at once and write later, so that a delay does not throttle what is in flight."""
        loop = asyncio.get_running_loop()
        flying: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        landing = asyncio.create_task(self._land(flying, writer))
        twin: asyncio.StreamWriter | None = None
        if self.duplicate and not from_target:
            with contextlib.suppress(OSError):
                _, twin = await asyncio.open_connection(*self._target)
        try:
            while data := await reader.read(65536):
                if self.blackhole or (self.half_open and from_target):
                    continue
                self.bytes_forwarded += len(data)
                if twin is not None and not twin.is_closing():
                    twin.write(data)
                due_s = loop.time() + self.delay_s + random.random() * self.jitter_s
                flying.put_nowait((due_s, self._spoil(data)))
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
        except OSError:
            pass
        finally:
            if twin is not None:
                twin.transport.abort()
            landing.cancel()
            await asyncio.gather(landing, return_exceptions=True)

    async def _land(
        self, flying: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await flying.get()
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                while self.stall:
                    await asyncio.sleep(0.01)
                if writer.is_closing():
                    return
                writer.write(data)
                await writer.drain()

    def _spoil(self, data: bytes) -> bytes:
        if self.reorder:
            half = len(data) // 2
            data = data[half:] + data[:half]
        if self.corrupt:
            at = random.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ (1 << random.randrange(8)),)) + data[at + 1 :]
        return data
