"""What an upstream server sends, read within bounds: bodies, and the lines of a stream."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from offload.errors import CloudFailed

if TYPE_CHECKING:
    import httpx

MAX_BODY_BYTES = 4 << 20  # a list of models
MAX_ERROR_BYTES = 64 << 10
MAX_LINE_BYTES = 4 << 20  # one event
MAX_STREAM_BYTES = 256 << 20  # one answer, with all that stands around its words
PLAIN = {"accept-encoding": "identity"}  # a few compressed bytes could fill the memory


async def body_within(response: httpx.Response, max_bytes: int) -> tuple[bytes, bool]:
    """Return the body's first bytes, and whether that is all of it. Raises CloudFailed."""
    read = bytearray()
    async for piece in _bytes(response):
        read += piece
        if len(read) > max_bytes:
            return bytes(read[:max_bytes]), False
    return bytes(read), True


async def lines_within(response: httpx.Response, url: str) -> AsyncIterator[bytes]:
    """Yield the lines of an event stream without their ends. Raises CloudFailed.

    Lines end in CR, LF or both (WHATWG HTML, server-sent events), and nowhere else: Unicode's own
    line ends may stand inside an event, unescaped. A byte-order mark may come before the first.
    """
    line, total, ended_in_cr = bytearray(), 0, False
    async for piece in _bytes(response):
        total += len(piece)
        if ended_in_cr:
            piece = piece.removeprefix(b"\n")
        ended_in_cr = piece.endswith(b"\r")
        for number, part in enumerate(_split(piece)):
            if number:
                yield bytes(line).removeprefix(codecs.BOM_UTF8)
                line.clear()
            line += part
            if len(line) > MAX_LINE_BYTES or total > MAX_STREAM_BYTES:
                raise CloudFailed(f"{url} sent an event without an end; is it an OpenAI server?")
    if line:
        yield bytes(line)


def _split(piece: bytes) -> list[bytes]:
    return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


async def _bytes(response: httpx.Response) -> AsyncIterator[bytes]:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise CloudFailed(
            f"{response.url} compresses its answers unasked; switch that off at the server"
        )
    async for piece in response.aiter_bytes():
        yield piece
