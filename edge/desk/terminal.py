"""Writing an answer to a terminal as it comes, and the line that says who gave it and why."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TextIO, cast

from offload.messages import Delta, Finish
from offload.policy.reasons import sentence


class Reader:
    """Takes an answer's stream; keeps the text a reader is left with and shows it as it comes.

    On a terminal every piece is shown at once, and a hand-over is marked. Elsewhere only the
    final text is written, so that a pipe never carries a withdrawn half-answer.
    """

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False) -> None:
        self._out = out or sys.stdout
        self._live = self._out.isatty() and not quiet
        self._quiet = quiet
        self.text = ""
        self.finish: Finish | None = None

    async def read(self, stream: AsyncIterator[Delta | Finish]) -> Finish:
        """Read the stream to its end and return its Finish."""
        async with aclosing(cast(Any, stream)):
            async for item in stream:
                if isinstance(item, Finish):
                    self.finish = item
                else:
                    self._take(item)
        assert self.finish is not None, "an engine's stream ends with a Finish"
        self._end()
        return self.finish

    def _take(self, delta: Delta) -> None:
        if delta.replaces:
            if self._live and self.text:
                self._out.write(f"\n{faint(_SEAM[delta.source or 'cloud'])}\n")
            self.text = ""
        self.text += delta.text
        if self._live:
            self._out.write(delta.text)
            self._out.flush()

    def _end(self) -> None:
        if self._quiet:
            return
        self._out.write("\n" if self._live else f"{self.text}\n")
        self._out.flush()


_SEAM = {
    "cloud": "-- not sure enough; the far model answers instead --",
    "edge": "-- the cloud is gone; the near model answers instead --",
}


def faint(text: str) -> str:
    """Return the text in the terminal's faint style."""
    return f"\x1b[2m{text}\x1b[0m"


def why(finish: Finish) -> str:
    """Return one line: who answered, why, how sure, how quick, what was sent."""
    route, usage = finish.route, finish.usage
    if route is None:
        return "no route was recorded"
    parts = ["near" if route.served_by == "edge" else "far", sentence(route.reason)]
    if route.confidence is not None:
        parts.append(f"the near answer counted as {route.confidence:.0%} likely right")
    seconds = usage.prefill_s + usage.decode_s
    if seconds > 0:
        parts.append(f"{usage.completion_tokens} tokens in {seconds:.2f} s")
    parts.append(_sent(usage.bytes_sent, failed=route.failure is not None))
    return " · ".join(parts)


def _sent(num_bytes: int, *, failed: bool) -> str:
    if num_bytes:
        return f"{num_bytes} bytes sent"
    # A cloud that failed has not counted for us what had reached it.
    return "the text may have left before the cloud failed" if failed else "nothing sent"


def document(text: str, finish: Finish) -> dict[str, Any]:
    """Return the answer as one JSON document."""
    import msgspec

    whole: dict[str, Any] = msgspec.to_builtins(finish)
    return {
        "answer": text,
        "finish_reason": whole.pop("reason"),
        "route": whole.pop("route", None),
        "usage": whole.pop("usage", {}),
        **whole,
    }
