"""How long a client may take to send a request's head: a connection that says nothing costs too.

uvicorn waits for ever for a head that comes byte by byte, or not at all.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_for(head_timeout_s: float) -> type[H11Protocol]:
    """Return uvicorn's protocol, which hangs up where no whole head came in that time.

    A kept connection on which nothing has come since its last answer has uvicorn's own limit.
    """

    class Patient(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._wait_no_more()
            elif self._patience is None and (before is None or before.response_complete):
                self._wait()

        def on_response_complete(self) -> None:
            answered = self.cycle
            super().on_response_complete()
            if self.cycle is answered and self.conn.trailing_data[0]:  # the next head has begun
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._wait_no_more()
            self._patience = self.loop.call_later(head_timeout_s, self.transport.close)

        def _wait_no_more(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Patient
