"""Responses of an upstream server: bodies and streams within bounds, and what a status means."""

from __future__ import annotations

import codecs
import math
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from backbone.errors import NearfarError
from offload.errors import (
    CloudBusy,
    CloudFailed,
    CloudUnreachable,
    ContextLengthError,
    KeyRefused,
    RequestError,
)

if TYPE_CHECKING:
    import httpx

MAX_BODY_BYTES = 4 << 20  # a list of models
MAX_ERROR_BYTES = 64 << 10
MAX_LINE_BYTES = 4 << 20  # one event
MAX_STREAM_BYTES = 256 << 20  # one answer, with all that stands around its words
PLAIN = {"accept-encoding": "identity"}  # a few compressed bytes could fill the memory


class DeadlinePassed(Exception):
    """The request's own time is up."""


class Patience:
    """Patience with a server that goes on sending: how long nothing of use may come.

    A server that sends a byte now and then, or comments for ever, never falls silent; `news` is
    told what is worth waiting for.
    """

    def __init__(self, url: str, silence_s: float, until_s: float | None = None) -> None:
        """`until_s`, on the monotonic clock, is when the request's own time is up."""
        self._url, self._silence_s, self._until_s = url, silence_s, until_s
        self.news()

    def news(self) -> None:
        """Wait anew."""
        self._since_s = time.monotonic()

    def check(self) -> None:
        """Raise CloudFailed after too long a wait, DeadlinePassed where the time is up."""
        now_s = time.monotonic()
        if self._until_s is not None and now_s > self._until_s:
            raise DeadlinePassed
        if now_s - self._since_s > self._silence_s:
            raise CloudFailed(
                f"{self._url} sends nothing of an answer for {self._silence_s:.0f} s; ask again"
            )


async def body_within(
    response: httpx.Response, max_bytes: int, patience: Patience
) -> tuple[bytes, bool]:
    """Return the body's first bytes, and whether that is all of it. Raises CloudFailed."""
    read = bytearray()
    async for piece in _bytes(response, patience):
        read += piece
        if len(read) > max_bytes:
            return bytes(read[:max_bytes]), False
    return bytes(read), True


async def lines_within(
    response: httpx.Response, url: str, patience: Patience
) -> AsyncIterator[bytes]:
    """Yield the lines of an event stream without their ends. Raises CloudFailed, DeadlinePassed.

    Lines end in CR, LF or both (WHATWG HTML, server-sent events), and nowhere else: Unicode's own
    line ends may stand inside an event, unescaped. A byte-order mark may come before the first.
    """
    line, total, ended_in_cr = bytearray(), 0, False
    async for piece in _bytes(response, patience):
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


async def _bytes(response: httpx.Response, patience: Patience) -> AsyncIterator[bytes]:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise CloudFailed(
            f"{response.url} compresses its answers unasked; switch that off at the server"
        )
    async for piece in response.aiter_bytes():
        patience.check()
        yield piece


_MOST_TOLD = 300  # characters of the server's own message
_TOO_LONG = ("context_length_exceeded", "maximum context length", "exceed context window")


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Error | str | None = None
    message: str = ""


def refusal(status: int, body: bytes, retry_after: str, url: str) -> NearfarError:
    """Return the error to raise for a reply that is no answer."""
    message = _told(body)
    if status in (400, 413, 422):
        if any(sign in body.decode(errors="replace") for sign in _TOO_LONG):
            # Not through __init__, which would write the message from numbers we do not have.
            return ContextLengthError.__new__(ContextLengthError, message)
        return RequestError(f"{url} refused the request: {message}")
    if status in (401, 403):
        return KeyRefused(f"{url} refused the API key (HTTP {status}); set NEARFAR_CLOUD_API_KEY")
    if status == 404:
        return CloudFailed(f"{url} has no such model or path: {message}; see its GET /v1/models")
    if status == 429:
        return CloudBusy(f"{url} has too much to do; ask again later", _seconds(retry_after))
    if status in (502, 503, 504):
        return CloudUnreachable(f"{url} is not ready (HTTP {status}); ask again later")
    return CloudFailed(f"{url} answered with HTTP {status}: {message}")


def _told(body: bytes) -> str:
    try:
        parsed = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "no reason that can be read"
    error = parsed.error
    text = error if isinstance(error, str) else (error.message if error else parsed.message)
    return " ".join(text.split())[:_MOST_TOLD] or "no reason given"


def _seconds(retry_after: str) -> float:
    try:
        seconds = float(retry_after)
    except ValueError:  # a date, which clocks would have to agree on
        return 1.0
    return min(seconds, 3600.0) if math.isfinite(seconds) and seconds > 0 else 1.0
