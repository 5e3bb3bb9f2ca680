"""A hostile HTTP server on a real socket: what it sends, byte by byte, is a test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

MODELS = json.dumps({"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 512}]}).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
STREAM = OK + b"Connection: close\r\n\r\n"


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@contextlib.contextmanager
def _cut(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    finally:
        writer.transport.abort()


@dataclass
class HostileServer:
    """Sends `models` to who asks for models and `answer` to who posts, then `again` for ever.

    Between two sendings of `again` it waits `pause_s`.
    """

    answer: bytes = b""
    again: bytes = b""
    models: bytes = field(default_factory=lambda: whole(MODELS))
    models_again: bytes = b""
    pause_s: float = 0.0
    url: str = ""
    num_sent: int = 0
    asked: list[bytes] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[HostileServer]:
        """Listen while the block lasts."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}/v1"
        try:
            async with server:
                yield self
        finally:
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), _cut(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked.append(head.partition(b"\r\n")[0])
                if head.startswith(b"GET"):
                    await self._say(writer, self.models, self.models_again)
                else:
                    await self._say(writer, self.answer, self.again)
                    return

    async def _say(self, writer: asyncio.StreamWriter, first: bytes, again: bytes) -> None:
        writer.write(first)
        await writer.drain()
        while again:
            writer.write(again)
            self.num_sent += len(again)
            await writer.drain()
            await asyncio.sleep(self.pause_s)
