"""A streamed request of a load test, and its timings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec

from offload.errors import CloudFailed
from offload.upstream.listening import Patience, lines_within

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, kw_only=True)
class RequestTrial:
    """The outcome of one request; seconds are the client's. `status` 0 is a broken connection."""

    status: int
    started_s: float
    ttft_s: float | None  # None where no text came
    e2el_s: float
    num_tokens: int
    is_whole: bool  # its stream ended with [DONE]
    fault: str = ""  # the kind of error, where the connection broke or an event made no sense

    @property
    def tpot_s(self) -> float | None:
        """Return the mean time of each token after the first."""
        if self.ttft_s is None or self.num_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.num_tokens - 1)


async def ask(
    client: httpx.AsyncClient, url: str, body: dict[str, object], *, timeout_s: float
) -> RequestTrial:
    """Send one request and read its stream to the end; a failure is a RequestTrial too."""
    import httpx

    clock = _Clock()
    try:
        async with client.stream("POST", url, json=body, timeout=timeout_s) as response:
            clock.status = response.status_code
            patience = Patience(url, timeout_s)
            async for line in lines_within(response, url, patience):
                if clock.read(line.decode("utf-8", "replace")):
                    patience.news()
    except (httpx.HTTPError, CloudFailed, msgspec.DecodeError) as error:
        clock.is_whole, clock.fault = False, type(error).__name__
    return clock.trial()


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None


class _Usage(msgspec.Struct):
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class _Clock:
    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.status, self.is_whole, self.fault = 0, False, ""
        self._first_s: float | None = None
        self._pieces = 0
        self._tokens: int | None = None  # as the server counts them

    def read(self, line: str) -> bool:
        """Take one line, and return whether it was an event.

        Raises msgspec.DecodeError for an event that is none.
        """
        if not line.startswith("data: "):
            return False
        if line == "data: [DONE]":
            self.is_whole = True
            return True
        event = msgspec.json.decode(line[6:], type=_Event)
        if any(one.text or (one.delta and one.delta.content) for one in event.choices or ()):
            self._pieces += 1
            self._first_s = self._first_s or time.monotonic()
        if event.usage:
            self._tokens = event.usage.completion_tokens
        return True

    def trial(self) -> RequestTrial:
        return RequestTrial(
            status=self.status,
            started_s=self.started_s,
            ttft_s=None if self._first_s is None else self._first_s - self.started_s,
            e2el_s=time.monotonic() - self.started_s,
            num_tokens=self._pieces if self._tokens is None else self._tokens,
            is_whole=self.is_whole and self.status == 200,
            fault=self.fault,
        )
