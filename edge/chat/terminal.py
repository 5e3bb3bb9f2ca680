"""Terminal output of one answer: its text as it comes, folded thoughts, and who gave it and why."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, TextIO

import msgspec

from backbone.terminal_text import overwrite, write
from offload.chain import onward_words
from offload.engine import AnswerStream
from offload.messages import Delta, Finish, Route, Side
from offload.reading import heard_by, reading_line
from offload.reasons import sentence, sureness
from offload.thinking import ThoughtReader


class StreamReader:
    """Stream reader: shows an answer as it comes and keeps the text that stands at its end.

    On a terminal every piece is shown at once, and a hand-over is marked. Elsewhere only the
    final text is written, so that a pipe never carries a withdrawn half-answer.
    """

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False) -> None:
        self._out = out or sys.stdout
        self._live = self._out.isatty() and not quiet
        self._quiet = quiet
        self.text = ""
        self._folding = ThoughtFolding()
        self._source: Side | None = None
        self.finish: Finish | None = None

    async def read(self, stream: AnswerStream) -> Finish:
        """Read the stream to its end and return its Finish."""
        notice = _Notice(shown=not self._quiet)
        with heard_by(notice.reading):
            async with aclosing(stream):
                async for item in stream:
                    notice.clear()
                    if isinstance(item, Finish):
                        self.finish = item
                    else:
                        self._take(item)
        assert self.finish is not None, "an engine's stream ends with a Finish"
        if rest := self._folding.rest():
            self._say(rest)
        self._end()
        return self.finish

    @property
    def is_live(self) -> bool:
        """Whether a person sees every piece as it comes."""
        return self._live

    @property
    def thoughts(self) -> str:
        """Return what the model thought before it answered."""
        return self._folding.thoughts

    def _take(self, delta: Delta) -> None:
        thought_before = self._folding.has_thought and not delta.replaces
        delta = self._folding.take(delta)
        if self._live and self._folding.has_thought and not thought_before:
            self._write("thinking ...\n", faint=True)
        if self._live and is_cut(self.text, delta):
            self._write(taken_back(self.text[len(delta.text) :]), faint=True)
            self.text, delta = delta.text, msgspec.structs.replace(delta, text="")
        elif delta.replaces:
            if self._live and self.text:
                self._write("\n")
                self._write(f"{_SEAM[delta.source or 'cloud']}\n", faint=True)
            self.text = ""
        elif self._live and self.text and is_seam(self._source, delta):
            self._write(f"[{WHO[delta.source or 'cloud']}:] ", faint=True)
        self._source = delta.source or self._source
        self._say(delta.text)

    def _say(self, text: str) -> None:
        self.text += text
        if self._live:
            self._write(text)

    def _end(self) -> None:
        if self._quiet:
            return
        self._write("\n" if self._live else f"{self.text}\n")

    def _write(self, text: str, *, faint: bool = False) -> None:
        write(text, self._out, faint=faint)


class _Notice:
    """One line on a terminal's stderr that is written over, and gone when the answer begins."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._is_written = self._over = False

    def reading(self, num_read: int, num_tokens: int, side: Side) -> None:
        if self._shown and not self._over:
            overwrite(reading_line(num_read, num_tokens, side), sys.stderr)
            self._is_written = True

    def clear(self) -> None:
        self._over = True  # what comes late from the model's thread is of no use any more
        if self._is_written:
            overwrite("", sys.stderr)
            self._is_written = False


_SEAM = {
    "cloud": "-- not sure enough; the far model answers instead --",
    "edge": "-- the far model is gone; the near model answers instead --",
}


# Between two words of one answer, where another model goes on from what stands there.
WHO: dict[Side, str] = {"cloud": "far", "edge": "near"}


def is_seam(source: Side | None, delta: Delta) -> bool:
    """Whether another side than `source` goes on here with the answer as it stands."""
    return not delta.replaces and None not in (source, delta.source) and source != delta.source


def is_cut(text: str, delta: Delta) -> bool:
    """Whether a piece only takes back the end of the text: half a word, or circles."""
    return delta.replaces and bool(delta.text) and text.startswith(delta.text)


def taken_back(end: str) -> str:
    """Return what follows on a terminal the end of an answer that is no longer part of it."""
    short = "\n" not in end and len(end) <= _HALF_WORD
    return "... " if short else "\n(what stands here from the last repetition on is left out)\n"


_HALF_WORD = 40


def why(finish: Finish) -> str:
    """Return one line: who answered, why, how sure, how quick, what was sent."""
    route, usage = finish.route, finish.usage
    if route is None:
        return "no route was recorded"
    parts = [
        "near" if route.served_by == "edge" else "far",
        sentence(route.reason, route.confidence),
    ]
    if route.model:
        parts.append(f"written by {route.model}")
    parts += onward_words(route)
    if route.begun_by:
        parts.append(f"begun by {route.begun_by}")
    if route.visits:
        parts.append(f"visits of the far model: {route.visits}")
    if route.confidence is not None:
        parts.append(f"the near answer counted as {sureness(route.confidence)}")
    if route.cut:
        parts.append("it ran in circles and was cut where that began")
    seconds = usage.prefill_s + usage.decode_s
    if seconds > 0:
        parts.append(f"{usage.completion_tokens} tokens in {seconds:.2f} s")
    parts.append(_sent(route, usage.bytes_sent))
    if usage.num_replaced:
        parts.append(f"values replaced before they left: {usage.num_replaced}")
    return " · ".join(parts)


def _sent(route: Route, num_bytes: int) -> str:
    failed = route.failure is not None
    if not route.sent_is_known and (failed or route.sent_is_known is False):
        # Nobody counted what had reached it.
        then = (
            "before the far model failed"
            if failed
            else "for the far model too, which was not needed"
        )
        return f"the text may have left {then}"
    if not num_bytes:
        # Over plain HTTP nobody counts; the ledger has the size of the request.
        return "nothing sent" if route.served_by == "edge" else "bytes sent not counted"
    return f"{num_bytes} bytes sent" + (" before the far model failed" if failed else "")


def document(text: str, finish: Finish, thoughts: str = "") -> dict[str, Any]:
    """Return the answer as one JSON document, with what was thought before it."""
    import msgspec

    whole: dict[str, Any] = msgspec.to_builtins(finish)
    return {
        "answer": text,
        **({"reasoning": thoughts} if thoughts else {}),
        "finish_reason": whole.pop("reason"),
        "route": whole.pop("route", None),
        "usage": whole.pop("usage", {}),
        **whole,
    }


class ThoughtFolding:
    """Thought folding: takes the thoughts out of an answer's pieces, keeps and times them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reader = ThoughtReader()
        self._thoughts: list[str] = []
        self._began_s = self._seconds = 0.0

    @property
    def thoughts(self) -> str:
        """Return what has been thought so far."""
        return "".join(self._thoughts)

    @property
    def has_thought(self) -> bool:
        """Whether there are any thoughts."""
        return bool(self._thoughts)

    def take(self, delta: Delta) -> Delta:
        """Return the piece without its thoughts."""
        if delta.replaces:
            self._reader, self._thoughts = ThoughtReader(), []
        thought, answer = self._reader.push(delta.text)
        self._keep(thought)
        return delta if answer == delta.text else msgspec.structs.replace(delta, text=answer)

    def rest(self) -> str:
        """The answer has ended: return the rest of it."""
        thought, answer = self._reader.flush()
        self._keep(thought)
        return answer

    def summary(self) -> str:
        """Return one line about the thoughts."""
        return f"thought for {max(1, round(self._seconds))} s"

    def _keep(self, thought: str) -> None:
        if thought:
            now_s = self._clock()
            self._began_s = self._began_s if self._thoughts else now_s
            self._seconds = now_s - self._began_s
            self._thoughts.append(thought)
