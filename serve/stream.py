"""Server-sent events, exactly as OpenAI sends them.

The response begins with the first text that a reader may keep (see serve/answer_streams.py), so
that what fails before it is still an HTTP error. What fails after it ends the stream with an
`error` event and without `[DONE]`, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.types import Send

from offload.messages import Finish
from serve.answer_streams import AnswerStreams, Item
from serve.http_errors import body_of, describe
from serve.response_bodies import Reply
from serve.response_writer import ResponseWriter
from serve.route_headers import headers_of

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy must not collect the stream
]


class EventStream:
    """Sends one request's answers as they are written."""

    def __init__(self, writer: ResponseWriter, send: Send) -> None:
        self._writer = writer
        self._send = send
        self._opened: set[int] = set()
        self._finishes: dict[int, Finish] = {}

    async def send_all(self, answers: AnswerStreams) -> None:
        """Send everything; raises only what went wrong before the response had begun."""
        first = await answers.next()
        assert first is not None, "there is at least one request"
        await self._begin(first[1])
        try:
            await self._events(first, answers)
        except Exception as error:
            await self._event(body_of(describe(error)[1]))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, first: Item) -> None:
        headers = [*_HEADERS, *headers_of([first])]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _events(self, first: tuple[int, Item], answers: AnswerStreams) -> None:
        entry: tuple[int, Item] | None = first
        while entry is not None:
            await self._say(*entry)
            entry = await answers.next()
        if self._writer.asked.include_usage:
            ended = [self._finishes[index] for index in sorted(self._finishes)]
            await self._replies([self._writer.tally(ended)])
        await self._event(b"[DONE]")

    async def _say(self, index: int, item: Item) -> None:
        if index not in self._opened:
            self._opened.add(index)
            await self._replies(self._writer.opening(index, item))
        if isinstance(item, Finish):
            self._finishes[index] = item
            await self._replies(self._writer.ending(index, item))
        else:
            await self._replies(self._writer.pieces(index, item))

    async def _replies(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            await self._event(msgspec.json.encode(reply))

    async def _event(self, data: bytes) -> None:
        body = b"data: " + data + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
