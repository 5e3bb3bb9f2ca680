"""One streamed request of a load test, and the clock on it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload.errors import CloudFailed
from offload.upstream.listening import lines_within

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, kw_only=True)
class RequestTrial:
    """What became of one request; seconds are the client's. `status` 0 is a broken connection."""

    status: int
    started_s: float
    ttft_s: float | None  # None where no text came
    e2el_s: float
    num_tokens: int
    is_whole: bool  # its stream ended with [DONE]
    fault: str = ""  # the kind of the connection's error, where it broke

    @property
    def tpot_s(self) -> float | None:
        """Return the mean time of each token after the first."""
        if self.ttft_s is None or self.num_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.num_tokens - 1)


async def ask(
    client: httpx.AsyncClient, url: str, body: dict[str, object], *, timeout_s: float
) -> RequestTrial:
    """Send one request and read its stream to the end; a failure is a Trial too."""
    import httpx

    clock = _Clock()
    try:
        async with client.stream("POST", url, json=body, timeout=timeout_s) as response:
            clock.status = response.status_code
            async for line in lines_within(response, url):
                clock.hear(line.decode("utf-8", "replace"))
    except (httpx.HTTPError, CloudFailed) as error:
        clock.is_whole, clock.fault = False, type(error).__name__
    return clock.trial()


class _Clock:
    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.status, self.is_whole, self.fault = 0, False, ""
        self._first_s: float | None = None
        self._pieces = 0
        self._tokens: int | None = None  # as the server counts them

    def hear(self, line: str) -> None:
        if not line.startswith("data: "):
            return
        if line == "data: [DONE]":
            self.is_whole = True
            return
        event = json.loads(line[6:])
        choices = event.get("choices") or []
        if any(each.get("text") or (each.get("delta") or {}).get("content") for each in choices):
            self._pieces += 1
            self._first_s = self._first_s or time.monotonic()
        if event.get("usage"):
            self._tokens = int(event["usage"]["completion_tokens"])

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
