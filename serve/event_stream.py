"""Event stream: server-sent events as OpenAI sends them, and the headers that name the route.

The response begins with the first text that a reader may keep (see serve/answer_streams.py), so
that what fails before it is still an HTTP error. What fails after it ends the stream with an
`error` event and without `[DONE]`, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec
from starlette.types import Send

from offload.messages import Delta, Finish
from serve.answer_streams import AnswerStreams, Item
from serve.http_errors import body_of, describe
from serve.response_writer import ReplyPart, ResponseWriter

Headers = list[tuple[bytes, bytes]]

# A code that came over a link is not trusted to be fit for a header.
_CODE = re.compile(r"[a-z0-9_]{1,64}")


def headers_of(items: Sequence[Delta | Finish]) -> Headers:
    """Return x-nearfar-served-by, -reason and -dropped-tokens, as far as these items tell them.

    A Delta knows who writes it; why is known at the end. Several choices are parted by commas.
    """
    routes = [item.route for item in items if isinstance(item, Finish) and item.route is not None]
    sides = [item.source for item in items if isinstance(item, Delta) and item.source is not None]
    headers: Headers = []
    for name, values in (
        ("x-nearfar-served-by", [*sides, *(route.served_by for route in routes)]),
        ("x-nearfar-reason", [route.reason for route in routes]),
    ):
        known = [value for value in dict.fromkeys(values) if _CODE.fullmatch(value)]
        if known:
            headers.append((name.encode(), ", ".join(known).encode()))
    dropped = sum(item.dropped_tokens for item in items if isinstance(item, Finish))
    if dropped:
        headers.append((b"x-nearfar-dropped-tokens", str(dropped).encode()))
    return headers


_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy must not collect the stream
]


class EventStream:
    """Event stream of one request's answers, sent as they are written."""

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
        if self._writer.parsed.include_usage:
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

    async def _replies(self, replies: Iterable[ReplyPart]) -> None:
        for reply in replies:
            await self._event(msgspec.json.encode(reply))

    async def _event(self, data: bytes) -> None:
        body = b"data: " + data + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
