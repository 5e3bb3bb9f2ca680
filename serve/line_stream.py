"""Line stream: a response of JSON lines, written as they come, left when its reader hangs up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from starlette.types import Receive, Scope, Send

from serve.http_bodies import while_present

CONTENT_TYPE = b"application/x-ndjson"


class LineStream:
    """ASGI response that sends each line of a generator, and closes the generator at its end."""

    def __init__(self, lines: AsyncGenerator[bytes, None], *, timeout_s: float = 86_400.0) -> None:
        self._lines, self._timeout_s = lines, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all; the body of the request must have been read."""
        await while_present(receive, self.send(send), timeout_s=self._timeout_s)

    async def send(self, send: Send) -> None:
        """Send all, for a caller that looks itself whether the reader is still there."""
        async with contextlib.aclosing(self._lines):
            await self._send(send)

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for line in self._lines:
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
